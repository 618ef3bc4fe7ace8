"""Contracts of the API: this build's page, earlier ones, and whether an answer is as the page says."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import httpx
import jsonschema_rs
from support.architecture import ROOT

from service.api import routes
from service.api.app import lifespan
from service.api.contract import operations

FILE: Final = ROOT / "docs/openapi.json"
FROZEN: Final = ROOT / "tests/frozen/contracts"


def text(page: Mapping[str, Any]) -> str:
    """A page as it is kept in a file."""
    return json.dumps(page, indent=1, ensure_ascii=False) + "\n"


@cache
def current() -> dict[str, Any]:
    """The page of this build."""
    return routes.build(lifespan).openapi()


def kept() -> dict[str, dict[str, Any]]:
    """Earlier pages by name: the frozen ones, and where git knows any those of the last commits that changed it."""
    pages = {path.name: json.loads(path.read_text("utf8")) for path in sorted(FROZEN.glob("*.json"))}
    for commit in _git("rev-list", "--max-count=2", "HEAD", "--", str(FILE)).split():
        if page := _git("show", f"{commit}:{FILE.relative_to(ROOT)}"):
            pages[commit[:12]] = json.loads(page)
    return pages


def _git(*words: str) -> str:
    """What git answers; nothing where this is no checkout."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout if done.returncode == 0 else ""


async def conforms(response: httpx.Response) -> None:
    """Raise AssertionError unless an answer is as the page says; what is of no operation is not asked about."""
    await response.aread()
    request = response.request
    name = _operation(request.method, request.url.raw_path.decode().partition("?")[0])
    if name is None:
        return
    responses = _responses(name)
    status, media = str(response.status_code), response.headers.get("content-type", "").partition(";")[0]
    assert status in responses, f"{name} answered {status}, which its page does not name: {response.text}"
    content = responses[status].get("content", {"": {}})
    assert media in content, f"{name} answered {status} as {media}, its page says {sorted(content)}"
    if media.endswith("json"):
        _validator(name, status, media).validate(response.json())


def _operation(method: str, path: str) -> str | None:
    asked = f"{method} {path}"
    return next((name for name, pattern in _patterns() if pattern.fullmatch(asked)), None)


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Operations by what they match; those without parameters come before those that would match them too."""
    names = sorted((name for name, _ in operations(current())), key=lambda name: "{" in name)
    return [(name, re.compile(re.sub(r"\{\w+\}", "[^/]+", name))) for name in names]


@cache
def _responses(name: str) -> Mapping[str, Any]:
    responses: Mapping[str, Any] = dict(operations(current()))[name]["responses"]
    return responses


@cache
def _validator(name: str, status: str, media: str) -> jsonschema_rs.Draft202012Validator:
    schema = _responses(name)[status]["content"][media]["schema"]
    return jsonschema_rs.Draft202012Validator({**schema, "components": current()["components"]})
