"""Published reports as the store keeps them: a list of summaries, and each report by its name."""

from __future__ import annotations

import msgspec


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A report in the list: `at` is house time, ISO; `verdict` is None while it is withheld."""

    title: str
    at: str
    ok: bool
    verdict: str | None
