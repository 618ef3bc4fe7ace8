"""Scopes: what a key allows its caller to ask."""

from __future__ import annotations

from typing import Final, Literal, get_args

Scope = Literal["decide", "events", "history", "outcomes", "read", "personal", "tasks", "operate", "admin"]
"""A word for what a route lets its caller do; a key holds any number of them.

`decide`: ask for decisions and confirm them. `events`: tell what players do. `history`: tell what they did long ago.
`outcomes`: tell what became of contacts. `read`: records, players, reports, without personal fields. `personal`: those
fields too, erasures and exports. `tasks`: what agents are to do, with whom to call. `operate`: counters, the detail of
readiness, stops. `admin`: keys.
"""
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
