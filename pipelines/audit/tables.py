"""Tables that say what was denied and what rules looked at, for every command that shows them to people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from features.schema import CHANNELS
from models.catalogue.offers import SLOTS


def table_of(title: str, *columns: str) -> Table:
    """An empty table; long cells are folded."""
    table = Table(title=title, title_justify="left", show_lines=False, expand=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def extent(one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """How many actions a reason denies, and which; blank where their names are not kept."""
    if "actions" not in one:
        return "", "", "", ""
    slots = "all" if len(one["timing_slots"]) == len(SLOTS) else ", ".join(one["timing_slots"])
    channels = "all" if len(one["channels"]) == len(CHANNELS) else ", ".join(one["channels"])
    return str(one["actions"]), _some(one["offers"]), channels, slots


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def inputs(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """What the rules looked at, by input."""
    table = table_of("What the rules looked at", "input", "value", "age", "trouble")
    for name, one in found.items():
        age = one.get("age_seconds")
        told = f"{age / 3600:.1f} h" if age is not None else ""
        table.add_row(name, _plain(one["value"]), told, one.get("trouble", ""))
    return table


def _plain(value: Any) -> str:  # noqa: ANN401 - inputs are of many types
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {one}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else "unknown" if value is None else str(value)


def stops(told: Iterable[Mapping[str, Any]]) -> Table:
    """Table of what was stopped, by whom and why."""
    table = table_of("What the house had stopped", "stop", "what", "since", "who", "why")
    for one in told:
        what = " ".join(part for part in (one["kind"], one["scope"], one["value"]) if part)
        table.add_row(one["id"], what, one["at"][:19], one["by"], one["reason"])
    return table
