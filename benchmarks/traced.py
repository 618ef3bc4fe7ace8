"""One decision of a running application with every call of its own code counted; runs within the build it is about.

Reads a home that `benchmarks.house` furnished, and prints the way of the decision as one JSON object. It names modules
of this build and of earlier ones, and imports none of them before it knows which there are.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

TOPS = ("features", "models", "service", "pipelines")
WARM = 30
KEY = "trace"
"""A key of the environment, which every build that asks for one takes."""
"""Decisions before the one that is traced: caches of places, zones and requests are filled."""


class Way:
    """The calls of a decision, in order, by the file and the function that each enters.

    A change of module is a call of another module than the call before it. Calls of the task that is running when the
    way begins count; what the application does beside it in the background does not.
    """

    def __init__(self, root: Path) -> None:
        self._root = f"{root}{os.sep}"
        self._task = asyncio.current_task()
        self.functions: set[tuple[str, str]] = set()
        self.modules: dict[str, int] = {}
        self.calls = self.changes = 0
        self._last = ""

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Take note of a call, as `sys.setprofile` tells it."""
        if event != "call" or (module := self._own(frame)) is None or asyncio.current_task() is not self._task:
            return
        self.calls += 1
        self.functions.add((module, frame.f_code.co_qualname))
        self.modules[module] = self.modules.get(module, 0) + 1
        self.changes += module != self._last
        self._last = module

    def _own(self, frame: FrameType) -> str | None:
        name = frame.f_code.co_filename
        if not name.startswith(self._root):
            return None
        inside = name.removeprefix(self._root)
        return inside if inside.partition(os.sep)[0] in TOPS else None

    def told(self) -> dict[str, Any]:
        """The way in numbers, and its modules in the order in which they were entered."""
        return {
            "folders": len({str(Path(module).parent) for module in self.modules}),
            "modules": len(self.modules),
            "functions": len(self.functions),
            "calls": self.calls,
            "changes": self.changes,
            "entered": list(self.modules),
        }


def first(*names: str) -> Any:  # noqa: ANN401 - a module of some build
    """The first of some modules that this build has."""
    return importlib.import_module(next(name for name in names if find_spec(name.partition(".")[0]) and _there(name)))


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its folder is not there
        return False


async def traced(root: Path) -> Way:
    """Decide for some players, the last of them traced."""
    population = first("benchmarks.population")
    application = first("service.api.app", "service.app").create()
    way = Way(root)
    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application)
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            for number in range(WARM + 1):
                if number == WARM:
                    sys.setprofile(way)
                answer = await client.post("/v1/decisions", json={"player_id": population.name(number)})
                sys.setprofile(None)
                answer.raise_for_status()
                assert answer.json()["recorded"], answer.text  # noqa: S101 - what was not committed is no whole decision
    return way


def main(home: Path) -> None:
    """Trace a decision over a home's own store."""
    store = first("features.store.server", "features.store")
    with store.serving(home) as url:
        os.environ |= {"CROUPIER_STORE": url, "CROUPIER_KEYS": KEY}
        sys.stdout.write(json.dumps(asyncio.run(traced(Path.cwd())).told()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
