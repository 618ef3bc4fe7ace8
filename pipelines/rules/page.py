"""The rulebook as a page for people: docs/rules.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from pipelines.rules.inspection import terms
from service.rules.inputs import INPUTS
from service.rules.rulebook import Pack, Rulebook

_CONFIDENCE: Final = {
    "R": "a regulator's, statute's or court's text was seen in an excerpt",
    "T": "a law firm's, operator's or trade press page was seen",
    "M": "from memory only",
    "weak": "sources are doubtful or contradict each other",
    "house": "house policy",
}
_HEAD: Final = """# Rules

This page is made from the rulebook by `croupier rules page`; a test holds the two together.

The packs were compiled from public texts, most of them read in excerpts.
A lawyer must read each rule before it is relied on.
Confidence is told with each rule, and what is doubtful ships off or in its strictest reading and says so.
Where residence, licence and present place of a player differ, the packs of all three bind, so the strictest wins.
Rules silence marketing and bonuses only; service, safer-gambling and regulatory messages pass them.
A country's rules bind in all its parts. A licensed place for which no rule of its own is applied, such as a state of a
country whose other states stand here, gets no marketing and no bonus: `no_rules:AU-VIC`.
"""


def page(book: Rulebook) -> str:
    """Documentation of a rulebook, as Markdown."""
    return "\n".join([_HEAD, *_overview(book), *_packs(book), *_inputs(book), *_harm(book)]).rstrip() + "\n"


def _overview(book: Rulebook) -> Iterator[str]:
    yield "| pack | binds in | rules | off | strict | checked |\n|---|---|---|---|---|---|"
    for pack in book.packs:
        states = Counter(rule.state for rule in pack.rules)
        where = ", ".join(pack.jurisdictions).replace("*", "everywhere")
        counts = f"{len(pack.rules)} | {states['off']} | {states['strict']}"
        yield f"| [{pack.title}](#{_anchor(pack)}) | {where} | {counts} | {pack.checked_on} |"
    yield ""
    yield "Confidence: " + "; ".join(f"**{name}** {text}" for name, text in _CONFIDENCE.items()) + ".\n"


def _anchor(pack: Pack) -> str:
    return re.sub(r"[^a-z0-9 -]", "", pack.title.lower()).replace(" ", "-")


def _packs(book: Rulebook) -> Iterator[str]:
    for pack in book.packs:
        yield f"## {pack.title}\n"
        for name, one in pack.registers.items():
            yield f"Register `{name}`: {one.title}; an answer holds {one.max_age_hours:g} hours. {one.source}.\n"
        yield "| rule | denies because | terms | in force | source | confidence, state |\n|---|---|---|---|---|---|"
        for rule in pack.rules:
            yield _row(rule)
        yield ""


def _row(rule: Any) -> str:  # noqa: ANN401 - one of many types
    until = "" if rule.valid_to is None else f" until {rule.valid_to}"
    where = "" if rule.jurisdictions is None else f"{', '.join(rule.jurisdictions)}: "
    note = f"<br>*{' '.join(rule.note.split())}*" if rule.note else ""
    state = "" if rule.state == "on" else f", **{rule.state}**"
    cells = [
        f"`{rule.id}`<br>{rule.type}",
        f"{where}{rule.reason}{note}",
        terms(rule),
        f"from {rule.valid_from}{until}",
        rule.source,
        f"{rule.confidence}{state}",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _inputs(book: Rulebook) -> Iterator[str]:
    yield "## Inputs and their ages\n"
    yield "An input that is unknown, too old or of the future denies; `unknown_`, `stale_` or `future_` tells which.\n"
    yield "| input | what it is | holds |\n|---|---|---|"
    for name, one in INPUTS.items():
        yield f"| `{name}` | {one.title} | {one.max_age or one.since} |"
    for name, register in book.registers.items():
        yield f"| `{name}` | {register.title} | {register.max_age_hours:g} hours since it was asked |"
    yield ""


def _harm(book: Rulebook) -> Iterator[str]:
    settings = book.harm
    levels = ", ".join(f"{level} from {points} points" for level, points in settings.levels.items())
    yield "## Signs of harm\n"
    yield f"Points make a level: {levels}. A level rises at once and falls by a review or after {settings.quiet_days:g}"
    yield "days without a new sign. Any mention of harm to support is strong; other systems' scores count as they are"
    yield "told; the gravest of all holds.\n"
    yield "| marker | value | what it is | says | evidence |\n|---|---|---|---|---|"
    for name, one in settings.markers.items():
        says = f"{one.level} by itself" if one.level else f"{one.points} point{'s' if one.points > 1 else ''}"
        where = f" ({', '.join(one.places)})" if one.places else ""
        yield f"| {one.id} `{name}` | from {one.threshold:g}{where} | {one.definition} | {says} | {one.evidence} |"
    yield ""
    for name, why in settings.not_computed.items():
        yield f"- {name} is not computed: {why}"
