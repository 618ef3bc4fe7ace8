"""Bench of the rules: 25 rules over 160 candidates, beside the same in CEL and in zen-engine, in turns.

All three answer every reason of every candidate for one player, and must agree. The peers get each rule as a compiled
expression and, candidate by candidate, what it asks for; a player is new for every decision, so nothing about one is
prepared. Only ratios carry over to another machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from msgspec.structs import replace
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import track

from features.moments import micros
from features.schema import CHANNELS
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import SLOTS, Catalogue, load_catalogue, send_window
from service.players.facts import Consent
from service.rules.compiler import CompiledRulebook
from service.rules.inputs import Inputs
from service.rules.rulebook import Pack, Rulebook, load_rulebook, places, rulebook_path
from service.rules.types import AnyRule
from service.settings import catalogue_path

_NOW: Final = micros(datetime(2026, 6, 1, 10, tzinfo=UTC))
_DAY: Final = timedelta(days=1) // timedelta(microseconds=1)
_OFFERS: Final = 8
Reasons = dict[int, frozenset[str]]


class BenchRule(NamedTuple):
    """A rule in three forms: ours, and one expression for both peers; `{a}` is and, `{o}` or, `{n}` not."""

    id: str
    type: str
    terms: Mapping[str, Any]
    expression: str


def _rules() -> list[BenchRule]:
    """Twelve rules on the player, six on the channel, seven on the offer."""
    return [
        BenchRule("excluded", "exclusion_register", {"registers": ["own"]}, "excluded"),
        BenchRule("rofus", "exclusion_register", {"registers": ["rofus"]}, "rofus"),
        BenchRule("break", "timeout_active", {}, "time_out > now"),
        BenchRule("state", "account_state", {"verified": True}, 'account != "open" {o} {n}kyc'),
        BenchRule("young", "account_state", {"least_days": 30}, f'account != "open" {{o}} now - opened < {30 * _DAY}'),
        BenchRule("age", "age_band", {"under": 24}, "age < 24"),
        BenchRule("harm", "harm_gate", {"at_least": "strong"}, "harm >= 3"),
        BenchRule("support", "min_gap_after", {"event": "support_contact", "hours": 24}, f"send - support < {_DAY}"),
        BenchRule("loss", "min_gap_after", {"event": "big_loss", "hours": 24}, f"send - loss < {_DAY}"),
        BenchRule("session", "state_block", {"states": ["in_session"]}, "in_session"),
        BenchRule("complaint", "state_block", {"states": ["complaint_open"]}, "complaint_open"),
        BenchRule(
            "deposits",
            "loss_or_deposit_threshold",
            {"metric": "net_deposit_month", "amounts": [{"amount_minor": 70000}], "currency": "EUR"},
            "net_deposit_month >= 70000.0",
        ),
        BenchRule("consent", "consent_required", {}, "{n}consent"),
        BenchRule("express", "consent_required", {"bases": ["express"]}, '{n}consent {o} basis != "express"'),
        BenchRule("calls", "channel_ban", {"channels": ["call"]}, 'channel == "call"'),
        BenchRule("texts", "channel_ban", {"channels": ["sms"], "products": ["casino"]}, _of("sms", "casino")),
        BenchRule("site", "channel_ban", {"channels": ["in_app"], "kinds": ["free_bet"]}, _kind("in_app", "free_bet")),
        BenchRule("lapse", "consent_lapse", {"since": "consent", "months": 12}, "now >= lapses"),
        BenchRule("harmed", "harm_gate", {"at_least": "moderate", "purposes": ["bonus"]}, _bonus("harm >= 2")),
        BenchRule(
            "banned", "bonus_ban", {"purposes": ["bonus"], "products": ["sports"]}, _bonus('product == "sports"')
        ),
        BenchRule("back", "mechanic_ban", {"mechanics": ["win_back"]}, "win_back"),
        BenchRule("wager", "term_limit", {"most_wagering": 9, "purposes": ["bonus"]}, _bonus("wagering > 9.0")),
        BenchRule("worth", "value_cap", {"amount_minor": 2000, "currency": "EUR"}, "value > 2000"),
        BenchRule("shared", "selection_basis", {"shared_only": True}, 'audience != "shared"'),
        BenchRule("says", "content_required", {"must_not": ["urgency"]}, "urgency"),
    ]


def _of(channel: str, product: str) -> str:
    return f'channel == "{channel}" {{a}} product == "{product}"'


def _kind(channel: str, kind: str) -> str:
    return f'channel == "{channel}" {{a}} kind == "{kind}"'


def _bonus(condition: str) -> str:
    return f'purpose == "bonus" {{a}} {condition}'


def _law(catalogue: Catalogue) -> CompiledRulebook:
    made: TypeAdapter[Any] = TypeAdapter(AnyRule)
    common = {"reason": "a rule of the bench", "source": "the bench", "confidence": "house", "valid_from": "2000-01-01"}
    rules = tuple(made.validate_python({"id": one.id, "type": one.type, **common, **one.terms}) for one in _rules())
    book = load_rulebook(rulebook_path())
    registers = {"rofus": book.registers["rofus"]}
    pack = Pack.model_validate(
        {
            "pack": "bench",
            "title": "Bench",
            "version": 1,
            "checked_on": "2026-11-22",
            "jurisdictions": ["*"],
            "time_zone": "UTC",
            "registers": registers,
            "rules": rules,
        }
    )
    return CompiledRulebook(Rulebook(settings=book.settings, harm=book.harm, packs=(pack,)), CandidateSpace(catalogue))


def _catalogue() -> Catalogue:
    """Eight promotional offers on five channels in four slots: 160 candidates."""
    whole = load_catalogue(catalogue_path())
    offers = [offer for offer in whole.offers if offer.promotional][:_OFFERS]
    return Catalogue.model_validate(whole.model_dump() | {"offers": [one.model_dump() for one in offers], "caps": []})


def _player() -> Inputs:
    """A player whom some rules of each kind deny something."""
    named = frozenset({"DK"})
    return Inputs(
        now_us=_NOW,
        named=named,
        places=places(named),
        zone="Europe/Copenhagen",
        account="open",
        kyc=True,
        opened_us=_NOW - 20 * _DAY,
        age=30,
        listed={"own": False, "rofus": False},
        time_out_until_us=0,
        consents={
            (channel, "*"): Consent(
                channel != "push", _NOW - 400 * _DAY, "express" if channel == "email" else "implied"
            )
            for channel in CHANNELS
        },
        harm=2,
        net_deposit_month=1000.0,
        support_contact_us=_NOW - _DAY // 2,
        big_loss_us=0,
        in_session=False,
        complaint_open=False,
    )


def _flat(player: Inputs, catalogue: Catalogue) -> list[tuple[int, dict[str, Any]]]:
    """Inputs of each candidate for the peers, by its place."""
    about = {
        "now": player.now_us,
        "excluded": player.listed["own"],
        "rofus": player.listed["rofus"],
        "time_out": player.time_out_until_us,
        "account": player.account,
        "kyc": player.kyc,
        "opened": player.opened_us,
        "age": player.age,
        "harm": player.harm,
        "support": player.support_contact_us,
        "loss": player.big_loss_us,
        "in_session": player.in_session,
        "complaint_open": player.complaint_open,
        "net_deposit_month": player.net_deposit_month,
    }
    windows = {slot: send_window(slot, player.now_us, player.zone or "UTC") for slot in SLOTS}
    found = []
    for place in range(1, catalogue.size):
        offer, channel, slot = catalogue.action(place)
        consent = player.consents[channel, "*"]
        action = {
            "send": windows[slot].send_us,
            "channel": channel,
            "product": offer.product,
            "kind": offer.kind,
            "purpose": offer.purpose,
            "consent": consent.granted,
            "basis": consent.basis,
            "lapses": consent.since_us + 365 * _DAY,
            "win_back": "win_back" in (offer.mechanics or ()),
            "wagering": float(offer.terms.wagering or 0.0),
            "value": offer.value_minor,
            "audience": offer.audience,
            "urgency": "urgency" in (offer.tags or ()),
        }
        found.append((place, about | action))
    return found


def _ours(law: CompiledRulebook) -> Callable[[Inputs], Reasons]:
    def judge(player: Inputs) -> Reasons:
        windows = tuple(send_window(slot, player.now_us, player.zone or "UTC") for slot in SLOTS)
        verdict = law.judge(player, windows)
        masks = law.by_candidate(verdict)
        names = list(verdict.blocked)
        return _Lazy(masks, names)

    return judge


class _Lazy(dict[int, frozenset[str]]):
    """Bit masks of reasons by place; names are looked up on access."""

    def __init__(self, masks: Any, names: list[str]) -> None:  # noqa: ANN401 - numpy
        super().__init__()
        self._masks, self._names = masks, names

    def __missing__(self, place: int) -> frozenset[str]:
        return frozenset(name for bit, name in enumerate(self._names) if int(self._masks[place]) >> bit & 1)


def _cel(catalogue: Catalogue) -> Callable[[Inputs], Reasons]:
    import cel  # noqa: PLC0415 - a peer of the bench only

    programs = [(one.id, cel.compile(one.expression.format(a="&&", o="||", n="!"))) for one in _rules()]

    def judge(player: Inputs) -> Reasons:
        found = {}
        for place, told in _flat(player, catalogue):
            context = cel.Context(variables=told)
            found[place] = frozenset(name for name, program in programs if program.execute(context))
        return found

    return judge


def _zen(catalogue: Catalogue) -> Callable[[Inputs], Reasons]:
    import zen  # noqa: PLC0415 - a peer of the bench only

    programs = [(one.id, zen.compile_expression(one.expression.format(a="and", o="or", n="not "))) for one in _rules()]

    def judge(player: Inputs) -> Reasons:
        return {
            place: frozenset(name for name, program in programs if program.evaluate(told))
            for place, told in _flat(player, catalogue)
        }

    return judge


def rules(rounds: int, console: Console) -> dict[str, Any]:
    """Measure a mask with all reasons beside the peers, in turns; medians over the rounds, microseconds.

    Raises:
        RuntimeError: The three do not agree.
    """
    catalogue = _catalogue()
    law = _law(catalogue)
    turns = {"croupier": _ours(law), "cel": _cel(catalogue), "zen_engine": _zen(catalogue)}
    player = _player()
    said = {name: {place: judge(player)[place] for place in range(1, catalogue.size)} for name, judge in turns.items()}
    if said["cel"] != said["croupier"] or said["zen_engine"] != said["croupier"]:
        raise RuntimeError("the three do not deny the same for the same reasons")
    spent: dict[str, list[float]] = {name: [] for name in turns}
    for number in track(range(rounds + 1), "rounds", console=console, transient=True):
        for name, judge in turns.items():
            spent[name].append(_timed(judge, replace(player, now_us=_NOW + number), 100 if name == "croupier" else 3))
    middle = {name: statistics.median(times[1:]) for name, times in spent.items()}
    ratio = {
        name: round(
            statistics.median(own / other for own, other in zip(spent["croupier"][1:], times[1:], strict=True)), 5
        )
        for name, times in spent.items()
        if name != "croupier"
    }
    return {
        "rules": len(_rules()),
        "candidates": catalogue.size - 1,
        "reasons": sum(len(one) for one in said["croupier"].values()),
        "mask_us": {name: round(value, 1) for name, value in middle.items()},
        "ratio_to": ratio,
    }


def _timed(judge: Callable[[Inputs], Reasons], player: Inputs, times: int) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        judge(player)
    return (time.perf_counter() - begun) / times * 1e6
