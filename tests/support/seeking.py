"""A plugin of pytest: no test's processes print the id of a player, the secret of a house or a caller's key.

It notes what tests use of ids and secrets while they run, and seeks it, and whatever has the form of a key, in what
they print and in what their processes do. Loaded by `make marks` alone: a test that prints on purpose may.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any, Final

import pytest
import structlog

from features import logs
from features.store.deployment import House
from service.access.keys import id_of

_WORDS: Final = re.compile(r"[\w.@+-]{8,}")
_SHOWN: Final = re.compile(r"player-\d+")
"""Ids of the seeded world, which `croupier up` shows on purpose."""
_noted: set[str] = set()


def pytest_configure() -> None:
    """Log as a house does, and note every id that is made a pseudonym in this process, and the secret that makes it."""
    logs.begin()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory())  # to where each test looks for it
    player_key = House.player_key

    def noting(self: House, player_id: str) -> str:
        _noted.update((self.secret, player_id))
        return player_key(self, player_id)

    House.player_key = noting  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Fail a test of whose words one was printed."""
    report: pytest.TestReport = yield
    printed = "\n".join(text for _, text in report.sections)
    words = {word for word in _WORDS.findall(printed) if not _SHOWN.fullmatch(word)}
    found = {word for word in words if word in _noted or id_of(word) is not None}
    if report.passed and found:
        report.outcome = "failed"
        report.longrepr = f"printed, though nobody may read it: {', '.join(sorted(found)[:5])}"
    return report
