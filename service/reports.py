"""Published reports as the store keeps them: a list of summaries, and each report by its name."""

from __future__ import annotations

from typing import Final

import msgspec

REPORTS: Final = "croupier:reports"
"""Key of the list of reports: name -> `Summary` as JSON."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A report in the list: `at` is house time, ISO; `verdict` is None while it is withheld."""

    title: str
    at: str
    ok: bool
    verdict: str | None


def report_key(name: str) -> str:
    """Key of a report: fields `html`, `csv`, `json`, `at` and `health`."""
    return f"croupier:report:{name}"
