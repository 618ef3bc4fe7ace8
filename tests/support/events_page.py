"""docs/events.md from the models of events, and from what the code does with an event of each type."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import orjson
from support.event_fields import MINIMAL, OPTIONAL

from features.events import EVENT, Event, row
from features.schema import DERIVED, FAILED_LOGIN, STORED, Kind
from pipelines.imports.columns import MODELS
from pipelines.learning.attribution import HARMFUL, UNDOES, RewardTerms
from pipelines.worker.consumer import activity
from service.players.facts import assertions, restricts

PAGE: Final = Path(__file__).parents[2] / "docs" / "events.md"
BEGINS: Final = "<!-- made by `make map` -->\n"
MONEY: Final = {
    "deposit": "adds to deposits, if approved and onto the account",
    "chargeback": "takes a deposit back, in the month of `deposited_at`",
    "bet": "adds its stake to net loss",
    "bet_cancelled": "takes its stake back from net loss, in the week of `placed_at`",
    "bet_settled": "takes its payout from net loss, as a `win` does",
    "win": "takes its amount from net loss",
    "withdrawal_paid": "takes from net deposits",
}
"""What of an event enters net loss, net deposits, and the reports' deposits and net revenue."""
HARM: Final = {
    "deposit": "M1, M2, M3, M21; declined: M15",
    "chargeback": "M23",
    "bet": "M8 to M12, M18, M21",
    "bet_cancelled": "takes back from M11, M21",
    "bet_settled": "takes back from M11, M21",
    "win": "takes back from M11, M21",
    "session_started": "M3",
    "withdrawal_paid": "takes back from M21",
    "withdrawal_cancelled": "M14",
    "support_contact": "M20; tag `harm`: strong at once",
    "limit_set": "M17, if raised",
    "limit_reached": "M24",
    "time_out": "M17",
    "exclusion_ended": "M17, M22",
    "harm_scored": "its level",
    "harm_reviewed": "its level, from now on",
}
"""Markers of harm (docs/rules.md) that an event can show."""


def events_of(kind: str) -> Iterator[Event]:
    """Events of a type, with and without each of the fields that it may have, in each of their words."""
    at = {"event_id": "e", "player_id": "p", "occurred_at": "2026-11-20T10:00:00Z", "type": kind}
    variants: list[dict[str, Any]] = [{}, {**OPTIONAL.get(kind, {})}]
    variants += [{name: word} for name, word in OPTIONAL.get(kind, {}).items()]
    for name, field in MODELS[kind].model_fields.items():
        words = [word for word in _words(field.annotation) if name not in {"type", "asked", "kind"}]
        variants += [{name: word} for word in words]
        variants += [{name: word} for word in (True, False) if field.annotation is bool]
    variants += [{"score": 1, "scale": "1-5"}, {"score": 5, "scale": "1-5"}] if kind == "satisfaction_rated" else []
    variants += [{"tags": [tag]} for tag in ("harm", "complaint", "resolved") if kind == "support_contact"]
    for one in variants:
        told = {name: value for name, value in one.items() if name not in {"placed_at", "deposited_at", "currency"}}
        yield EVENT.validate_json(orjson.dumps(at | MINIMAL[kind] | told))


def _words(annotation: Any) -> tuple[str, ...]:
    found = [word for word in get_args(annotation) if isinstance(word, str)]
    return tuple(found) + tuple(word for part in get_args(annotation) for word in _words(part))


def fields(kind: str) -> str:
    """Fields of a type; those that may be left out in italics."""
    own = {**MINIMAL[kind], **OPTIONAL.get(kind, {})}
    return ", ".join(f"`{name}`" if name in MINIMAL[kind] else f"*`{name}`*" for name in own) or "none"


def facts(kind: str) -> str:
    """Facts that an event of a type can assert."""
    told = {one.field for event in events_of(kind) for one in assertions(event)}
    names = dict.fromkeys(re.sub(r"^(harm:by|[a-z_]+).*", r"\1", one) for one in sorted(told))
    restricting = [restricts(event) for event in events_of(kind)]
    may = "; restricts" if all(restricting) else "; may restrict" if any(restricting) else ""
    joins = {
        "identify": "joins two ids",
        "alias": "joins two ids",
        "household_changed": "`household`",
        "address_changed": "`address`",
    }.get(kind, "none")
    return (", ".join(f"`{name}`" for name in names) or joins) + may


def features(kind: str) -> str:
    """Stored features that an event of a type can change, and what is computed from them."""
    found: dict[str, None] = {}
    for event in events_of(kind):
        for slot in ("morning", "night"):
            done = activity({"player": "p", **row(event)}, None)._replace(timing_slot=slot, night=slot == "night")
            for one in STORED:
                hit = all(getattr(done, column) in allowed for column, allowed in one.when.items())
                if one.kind is not Kind.AS_OF and hit:
                    found[_stem(one.name)] = None
    return ", ".join(f"`{name}`" for name in found) or "none"


def _stem(name: str) -> str:
    """A feature without what it is counted over: `bet_sum_*` for `bet_sum_7d`."""
    name = re.sub(r"^(active)_(morning|night|afternoon|evening)", r"\1_*", name)
    name = re.sub(r"^bet_(casino|sports|poker|bingo|lottery)", "bet_*", name)
    return re.sub(r"_(\d+[hd]|(week|month)_\d)$", lambda one: f"_{one[2] or ''}*".replace("__", "_"), name)


def reward(kind: str) -> str:
    """What an event of a type does to rewards."""
    terms = RewardTerms.read()
    if kind in UNDOES:
        return "takes back"
    return "worth" if kind in {one.type for one in terms.worth} else "may cost" if kind in HARMFUL else ""


def table() -> Iterator[str]:
    """Lines of the table: a row for each type of event."""
    names = ("type", "fields (*may be left out*)", "facts", "features", "harm", "money", "reward")
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)
    for kind in MODELS:
        cells = (fields(kind), facts(kind), features(kind), HARM.get(kind, ""), MONEY.get(kind, ""), reward(kind))
        yield "| " + " | ".join([f"`{kind}`", *cells]) + " |"


def page(now: str) -> str:
    """The page with its table as the code has it; what people wrote stays."""
    written = now.partition(BEGINS)[0]
    derived = ", ".join(f"`{one.name}`" for one in DERIVED)
    rest = (
        f"\nComputed from several of these features: {derived}. A login that failed counts as `{FAILED_LOGIN}` alone.\n"
    )
    return written + BEGINS + "\n" + "\n".join(table()) + "\n" + rest


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf8")), "utf8")
