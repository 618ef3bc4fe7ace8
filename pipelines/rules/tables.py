"""Tables for the terminal: lint, rules of a place, an explanation, differences of rulebooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.audit.tables import extent, inputs, stops, table_of


def findings(found: Mapping[str, Any]) -> Group:
    """Table of lint findings."""
    states = ", ".join(f"{found[name]} {name}" for name in ("on", "strict", "off") if name in found)
    table = table_of("What to know and what to mend", "grade", "where", "what")
    for one in sorted(found["findings"], key=lambda one: ("error", "warning", "note").index(one["grade"])):
        table.add_row(one["grade"], one["where"], one["what"])
    return Group(
        Text(
            f"Rulebook {found['rulebook']}: {found['packs']} packs, {found['rules']} rules ({states}), "
            f"with catalogue {found['catalogue']}."
        ),
        table,
    )


def rules_of(found: Mapping[str, Any]) -> Group:
    """Table of a place's rules on a day, its own first."""
    title = f"Rules for {found['jurisdiction']} on {found['on']}, rulebook {found['rulebook']}"
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for one in sorted(found["rules"], key=lambda one: "*" in one["where"]):
        until = "" if one["valid_to"] is None else f" until {one['valid_to']}"
        state = "" if one["state"] == "on" else f" [{one['state']}]"
        note = [f"note: {one['note']}"] if one["note"] else []
        told = [one["reason"], f"{one['type']}; {one['terms']}", f"{one['source']} ({one['confidence']})", *note]
        grid.add_row(Text(f"{one['rule']}{state}\nfrom {one['valid_from']}{until}"), Text("\n".join((*told, ""))))
    head = "\n".join(filter(None, (title, found["note"])))
    return Group(Text(head + "\n"), grid)


def explained(found: Mapping[str, Any]) -> Group:
    """Tables of what may be sent to a player, and why not the rest."""
    places = ", ".join(found["places"]) or "unknown"
    head = (
        f"{found['player_id']} at {found['at']}: jurisdiction {places}, harm {found['harm']}, stage {found['stage']}, "
        f"variant {found['variant']}, "
        f"rulebook {found['rulebook']} ({', '.join(found['packs'])}), catalogue {found['catalogue']}."
    )
    speaking = [
        f"{one['id']} {one['marker']} {one['value']:.3g}, from {one['threshold']:g}" for one in found["harm_markers"]
    ]
    if found["harm_sources"]:
        spoke = ", ".join(f"{name} {level}" for name, level in found["harm_sources"].items())
        head += f"\nHarm: {spoke}; signs: {'; '.join(speaking) or 'none'}."
    head += "".join(
        f"\nPut off: {one['rule']} to {one['allowed_from']} ({one['timing_slot']})." for one in found["put_off"]
    )
    stopped = [stops(found["stops"])] if found["stops"] else []
    return Group(Text(head), _allowed(found["allowed"]), _denied(found["denied"]), *stopped, inputs(found["inputs"]))


def _allowed(allowed: list[dict[str, str]]) -> Table:
    together: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in allowed:
        together[one["offer"], one["channel"]].append(f"{one['timing_slot']} {one['send_at']}")
    table = table_of("May be sent" if allowed else "Nothing may be sent", "offer", "channel", "from")
    for (offer, channel), moments in together.items():
        table.add_row(offer, channel, ", ".join(moments))
    return table


def _denied(denied: list[dict[str, Any]]) -> Table:
    table = table_of("May not be sent", "rule", "because", "offers", "channels", "slots", "source")
    for one in denied:
        _, *reached = extent(one)
        table.add_row(one["rule"], one["reason"], *reached, one["source"])
    return table


def differences(found: Mapping[str, Any]) -> Group:
    """Table of what another rulebook changes."""
    head = (
        f"{found['decisions']:,} decisions judged under {found['old']} and {found['new']} "
        f"with catalogue {found['catalogue']}; not judged: "
        f"{found['erased']:,} erased, {found['other_build']:,} whose features have no names here, "
        f"{found['other_catalogue']:,} of another catalogue. {found['fewer_features']:,} lack features that came "
        f"later, and are judged by them as a new player is. Of {found['made_under_old']:,} made under {found['old']}, "
        f"{found['reproduced']:,} came out exactly as logged. {found['contacts_stopped']:,} of {found['contacts']:,} "
        f"contacts would not have been sent, {found['contacts_put_off']:,} at another moment. "
        "Two rules that deny the same contact both count it."
    )
    columns = ("rule", "jurisdiction", "decisions", "actions denied", "actions allowed", "contacts stopped")
    table = table_of("What the new rulebook changes", *columns)
    for one in found["changes"]:
        table.add_row(*(str(one[column.replace(" ", "_")]) for column in columns))
    return Group(Text(head), table)
