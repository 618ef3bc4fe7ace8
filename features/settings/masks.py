"""Masks: texts as people and logs may see them, without the passwords of the addresses in them. Light to import."""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "***"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_IN_QUERY: Final = re.compile(r"(?i)((?:password|secret|token)=)[^&\s]*")


def masked(text: str) -> str:
    """A text without the passwords of the addresses in it."""
    return _URL.sub(lambda found: _without_password(found[0]), text) if "://" in text else text


def _without_password(url: str) -> str:
    scheme, _, rest = _IN_QUERY.sub(rf"\1{MASK}", url).partition("://")
    user, at, place = rest.rpartition("@")
    name, divided, _ = user.partition(":")
    return f"{scheme}://{name}{f':{MASK}' if divided else ''}{at}{place}"
