"""What must be told of a player before they may be contacted, by type of event. Pure.

    ids of what excluded every contact asked for --reasons of the rulebook--> events and fields to tell

Which event mends which reason is worked out once per rulebook, with its reasons in words (`reasons`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.rules.rule import RuleBase
from service.rules.types import (
    ApprovalRequired,
    ConsentLapse,
    ConsentRequired,
    MinGapAfter,
    PostExclusionLock,
    Suppression,
    TimeWindow,
)

if TYPE_CHECKING:
    from service.decisions.reasons import Reason

TROUBLES: Final = ("unknown", "stale", "future")
"""Why an input of rules cannot be relied on."""
_LATE: Final = frozenset({"features_unavailable", "features_stale"})
"""Reasons of the house that pass by themselves, and leave unknown what is read of behaviour."""
_HOLDOUTS: Final = frozenset({"holdout", "global_holdout"})
_PASSING: Final = (TimeWindow, MinGapAfter)
_CONSENT: Final = (ConsentRequired, PostExclusionLock, ConsentLapse)


class MissingFact(msgspec.Struct, frozen=True, kw_only=True):
    """An event to be told of a player, so that they may be contacted."""

    event: Annotated[str, Meta(description="Its type, as `POST /v1/events` takes it.")]
    fields: Annotated[list[str], Meta(description="Its fields that matter, beside those of every event.")]
    values: Annotated[
        dict[str, str] | UnsetType, Meta(description="Fields whose value is settled, as which register is to be asked.")
    ] = UNSET
    why: str
    excluded_by: Annotated[list[str], Meta(description="The exclusions that it may lift, by id.")]


class Telling(NamedTuple):
    """An event that mends a reason: its type, fields, settled values, and whether only where nothing else is left.

    `last` marks reasons that reach some channels and not others: they matter where they reach every contact asked for.
    """

    event: str
    fields: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    last: bool = False


BY_INPUT: Final[Mapping[str, Telling]] = {
    "residence": Telling("registered", ("jurisdiction",)),
    "time_zone": Telling("registered", ("time_zone",)),
    "account": Telling("registered"),
    "opened": Telling("registered"),
    "kyc": Telling("kyc_verified"),
    "age": Telling("kyc_verified", ("birth_date",)),
}
"""What to tell where an input of rules is unknown, too old or of the future; of what is not here, nothing mends it."""
BY_STATE: Final[Mapping[str, Telling]] = {
    "objection": Telling("objection_changed", ("objects",)),
    "complaint_open": Telling("support_contact", ("tags",)),
    "in_session": Telling("session_ended"),
    "vip": Telling("vip_changed", ("vip",)),
    "vip_checked": Telling("vip_changed", ("vip", "checked")),
}
"""The same for what is known not to be so as soon as a player is known: too old or of the future only."""
BY_OWN: Final[Mapping[str, Telling]] = {
    "unknown_player": Telling("registered"),
    "time_zone": BY_INPUT["time_zone"],
}
"""The same for reasons of the house that are no rule."""
_ORDER: Final = ("registered", "kyc_verified", "register_checked", "consent_changed")


def of_register(name: str) -> Telling:
    """What to tell where the answer of a register is unknown or too old."""
    return Telling("register_checked", ("register_name", "listed"), (("register_name", name),))


def of_rule(rule: RuleBase) -> Telling | None:
    """What to tell where a rule denies though every input is known; None where nothing mends it."""
    if isinstance(rule, _CONSENT) or (isinstance(rule, Suppression) and rule.by == "opt_out"):
        return Telling("consent_changed", ("channel", "granted", *_narrowed(rule)), last=True)
    if isinstance(rule, ApprovalRequired) and rule.checks_days is not None:
        return Telling("vip_changed", ("vip", "checked"), last=True)
    return None


def _narrowed(rule: RuleBase) -> Iterator[str]:
    """Further fields of consent that a rule asks for."""
    if isinstance(rule, ConsentRequired):
        asked = {"product": rule.per_product, "basis": rule.bases, "origin": rule.origins}
        yield from (name for name, wanted in asked.items() if wanted)


def stands(rule: RuleBase) -> bool:
    """Whether a rule that denies everything leaves nothing to be told: it neither passes by itself nor is mended."""
    return of_rule(rule) is None and not isinstance(rule, _PASSING)


def missing(excluded_by: Sequence[str], whole: bytes, known: Mapping[str, Reason]) -> list[MissingFact]:
    """What must be told of a player whom nothing may be sent to.

    Args:
        excluded_by: Ids of what excluded contacts, in order.
        whole: Bit set over them: which exclude every contact that was asked for; empty where some contact was left.
        known: Reasons of the rulebook.
    """
    if not whole:
        return []
    all_of_it = {name for place, name in enumerate(excluded_by) if whole[place // 8] >> place % 8 & 1}
    excluded, late = set(excluded_by), not _LATE.isdisjoint(excluded_by)
    if any(name in _HOLDOUTS or _stands(known.get(name), excluded) for name in all_of_it):
        return []
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[Telling, str, str]]] = {}
    for name in excluded_by:
        reason = known.get(name)
        telling = None if reason is None else reason.telling
        if reason is None or telling is None or (telling.last and name not in all_of_it):
            continue
        if not (late and telling.event == "harm_scored"):
            found.setdefault((telling.event, telling.values), []).append((telling, reason.reason, name))
    order = {name: place for place, name in enumerate(_ORDER)}
    return [
        MissingFact(
            event=event,
            fields=list(dict.fromkeys(field for telling, _, _ in tellings for field in telling.fields)),
            values=dict(values) or UNSET,
            why="; ".join(dict.fromkeys(why for _, why, _ in tellings)),
            excluded_by=[name for _, _, name in tellings],
        )
        for (event, values), tellings in sorted(found.items(), key=lambda one: order.get(one[0][0], len(order)))
    ]


def _stands(reason: Reason | None, excluded: set[str]) -> bool:
    """Whether a reason that excludes everything would stand, whatever is told: no input that it needs is in trouble."""
    if reason is None or not reason.stands:
        return False
    return not any(f"{trouble}_{name}" in excluded for name in reason.needs for trouble in TROUBLES)
