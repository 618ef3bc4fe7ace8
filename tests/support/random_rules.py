"""Random rulebooks, catalogues and players by a seed."""

import copy
from datetime import date
from random import Random
from typing import Any, get_args

from pydantic import TypeAdapter
from support.rule_cases import BOOK, HOUSE

from features.schema import CHANNELS, PRODUCTS
from models.catalogue.offers import Catalogue, Mechanic, OfferKind, Stage, Window, send_window
from service.players.facts import Consent
from service.rules.inputs import INPUTS, CountedContact, Inputs
from service.rules.rulebook import Pack, Register, Rulebook, places
from service.rules.types import AnyRule

RULE: TypeAdapter[Any] = TypeAdapter(AnyRule)
NOW = 1_780_000_000_000_000 // 900_000_000 * 900_000_000
HOUR = 3_600_000_000
DAY = 24 * HOUR
ZONES = ("Europe/Malta", "America/New_York", "Asia/Kolkata", "Pacific/Auckland")
PLACES = ("GB", "US", "US-NJ", "MT")
REGISTERS = ("rofus", "spelpaus")
TAGS = ("helpline", "unsubscribe", "urgency")
BASES = ("express", "implied", "enquiry", "soft_opt_in")
STAGES = get_args(Stage)
TYPES = sorted({one.model_fields["type"].annotation.__args__[0] for one in get_args(get_args(AnyRule)[0])})


def some(chance: Random, values: Any, least: int = 1) -> list[Any]:
    values = list(values)
    return chance.sample(values, chance.randint(least, len(values)))


def hour(chance: Random, first: int, last: int) -> str:
    at = chance.randint(first, last) * 15
    return f"{at // 60:02d}:{at % 60:02d}"


def _spans(chance: Random) -> list[dict[str, Any]]:
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun", "holiday", "eve"]
    return [
        {"days": some(chance, days, 3), "from": hour(chance, 0, 40), "to": hour(chance, 44, 96)}
        for _ in range(chance.randint(1, 2))
    ]


def _hours(chance: Random) -> dict[str, Any]:
    spans, holidays = _spans(chance), chance.choice([[], ["2026-05-28", "2026-05-29"], ["2025-12-25"]])
    if not holidays:
        for span in spans:
            span["days"] = [day for day in span["days"] if day not in {"holiday", "eve"}]
    return {"allow": [span for span in spans if span["days"]] or _hours(chance)["allow"], "holidays": holidays}


def _params(chance: Random, kind: str) -> dict[str, Any]:
    pick = chance.choice
    options: dict[str, Any] = {
        "jurisdiction_scope": lambda: {"licensed": some(chance, PLACES, 2)},
        "account_state": lambda: {
            "verified": pick([True, False]),
            "least_days": pick([0, 30]),
            "least_days_reopened": pick([0, 30]),
        },
        "exclusion_register": lambda: {"registers": some(chance, (*REGISTERS, "own"))},
        "register_freshness": lambda: {
            "register_name": pick(REGISTERS),
            "hours": pick([1, 24]),
            "at": pick(["send", "decide"]),
        },
        "timeout_active": dict,
        "post_exclusion_lock": lambda: {"days": pick([0, 7]), "new_consent": pick([True, False])},
        "age_band": lambda: {"under": pick([18, 21, 24])},
        "harm_gate": lambda: {"at_least": pick(["low", "moderate", "strong"])},
        "loss_or_deposit_threshold": lambda: {
            "metric": pick(["net_loss_week", "net_deposit_month"]),
            "weeks": chance.randint(1, 4),
            "amounts": pick(
                [[{"amount_minor": 500}], [{"under": 24, "amount_minor": 200}, {"amount_minor": 500}]],
            ),
            "currency": pick(["EUR", "DKK", "XXX"]),
        },
        "consent_required": lambda: {
            "per_product": pick([True, False]),
            "bases": pick([[], some(chance, BASES)]),
            "origins": pick([[], ["site"]]),
            "since": pick([None, "2026-01-01", "2026-05-27"]),
        },
        "suppression": lambda: {"by": pick(["objection", "opt_out"])},
        "consent_lapse": lambda: {
            "since": pick(["login", "deposit", "consent"]),
            "months": chance.randint(1, 13),
            "bases": pick([[], some(chance, BASES)]),
        },
        "channel_ban": dict,
        "bonus_ban": lambda: {"unless_prior_bet": pick([True, False])},
        "mechanic_ban": lambda: {"mechanics": some(chance, get_args(Mechanic))},
        "single_product": dict,
        "term_limit": lambda: {
            "most_wagering": pick([None, 10]),
            "wagering_bases": pick([[], ["bonus", "deposit"]]),
            "least_validity_days": pick([None, 60]),
            "deposit_shares": pick([[], [0, 1]]),
            "full_weight": pick([True, False]),
        },
        "value_cap": lambda: {
            "measure": pick(["value", "value", "spin_stake"]),
            "amount_minor": pick([100, 1000]),
            "currency": pick(["EUR", "DKK", "XXX"]),
            "from_age": pick([0, 18]),
            "under": pick([None, 25]),
            "hours": pick([None, 24, 720]),
        },
        "count_cap": lambda: {"most": chance.randint(0, 3), "hours": pick([None, 24, 168])},
        "min_gap_after": lambda: {"event": pick(["support_contact", "complaint", "big_loss"]), "hours": pick([3, 24])},
        "state_block": lambda: {
            "states": some(
                chance, ["withdrawal_pending", "in_session", "complaint_open", "limit_raised", "has_played"]
            ),
            "days": pick([1, 30]),
        },
        "time_window": lambda: _hours(chance),
        "selection_basis": lambda: {"shared_only": pick([True, False]), "no_inactivity": pick([True, False])},
        "content_required": lambda: {
            "must": pick([[], some(chance, TAGS)]),
            "must_not": pick([[], some(chance, TAGS)]),
            "approved": pick([True, False]),
        },
        "approval_required": lambda: {"vip_only": pick([True, False]), "checks_days": pick([None, 90])},
    }
    found: dict[str, Any] = options[kind]()
    return found


def rule(chance: Random, number: int, kind: str | None = None) -> Any:
    """A random rule."""
    kind = kind or chance.choice(TYPES)
    fields = {
        "id": f"r{number}",
        "type": kind,
        "reason": "a random rule",
        "source": "a random source",
        "confidence": "house",
        "valid_from": chance.choice(["2000-01-01"] * 4 + ["2026-05-28", "2026-05-29"]),
        "valid_to": chance.choice([None] * 4 + ["2026-05-30"]),
        "purposes": chance.choice([["marketing", "bonus"], ["marketing", "bonus"], ["bonus"], ["marketing"]]),
        "channels": chance.choice([None, None, some(chance, CHANNELS)]),
        "products": chance.choice([None, None, None, ["casino"]]),
        "kinds": chance.choice([None, None, None, some(chance, get_args(OfferKind))]),
        "jurisdictions": chance.choice([None, None, [chance.choice(PLACES)]]),
    }
    return RULE.validate_python(fields | _params(chance, kind))


def book(chance: Random, rules: list[Any]) -> Rulebook:
    """A rulebook of some rules."""
    registers = {name: Register(title=name, max_age_hours=48, source="a random source") for name in REGISTERS}
    pack = Pack(
        pack="random",
        title="Random",
        version=1,
        checked_on=date(2026, 1, 1),
        jurisdictions=("*",),
        time_zone=chance.choice(["UTC", "Europe/London"]),
        registers=registers,
        rules=tuple(rules),
    )
    settings = BOOK.settings.model_copy(update={"exchange": {"DKK": 0.125}})
    return Rulebook(settings=settings, harm=BOOK.harm, packs=(pack,))


def catalogue(chance: Random, offers: int = 3) -> Catalogue:
    """A random catalogue."""
    made = []
    for number in range(offers):
        purpose = chance.choice(["marketing", "bonus", "bonus", "service"]) if number else "bonus"
        kinds = get_args(OfferKind)
        made.append(
            {
                "id": f"offer_{number}",
                "name": "x",
                "template": "x",
                "parameters": {},
                "value_minor": chance.choice([0, 100, 500, 1000, 1001]) if purpose == "bonus" else 0,
                "cost_minor": 0,
                "purpose": purpose,
                "product": chance.choice(["casino", "sports"]),
                "jurisdictions": list(PLACES),
                "stages": some(chance, STAGES),
                "priority": 1,
                "lever": 1,
                "kind": chance.choice(kinds[1:]) if purpose == "bonus" else "message",
                "mechanics": chance.choice([None, [], some(chance, get_args(Mechanic))[:2]]),
                "terms": {
                    "wagering": chance.choice([None, 0, 10, 10.01]),
                    "wagering_base": chance.choice([None, "bonus", "winnings"]),
                    "validity_days": chance.choice([None, 59, 60]),
                    "deposit_share": chance.choice([None, 0, 0.5, 1]),
                    "prior_bet": chance.choice([None, True, False]),
                    "full_weight": chance.choice([None, True, False]),
                    "spin_stake_minor": chance.choice([None, 10, 1000]),
                    "spin_stake_local": chance.choice([{}, {"DKK": 100, "XXX": 101}]),
                    "qualifying_products": chance.choice([None, ["casino"], ["sports"]]),
                    "reward_products": chance.choice([None, ["casino"]]),
                    "free_choice": chance.choice([False, False, True]),
                },
                "local": chance.choice([{}, {"DKK": 1000}, {"DKK": 1001, "XXX": 50}]),
                "audience": chance.choice([None, "shared", "individual"]),
                "tags": chance.choice([None, [], some(chance, TAGS)]),
                "approved_on": chance.choice([None, "2026-01-01"]),
                "approval": chance.choice([None, "A-1"]),
            }
        )
    return Catalogue.model_validate(HOUSE.model_dump() | {"offers": made, "caps": []})


def _moment(chance: Random, *near: int) -> int | None:
    return chance.choice([None, 0, 0, *near])


def player(chance: Random) -> Inputs:
    """A random player, at a random quarter of an hour of three days in which rules begin and end."""
    now = NOW + chance.randrange(-200, 100) * HOUR // 4
    named = chance.choice([None, ("GB",), ("US-NJ",), ("MT", "GB"), ("MT",), ("MT",)])
    ago = (now - HOUR, now - 3 * HOUR, now - DAY, now - 30 * DAY)
    found = Inputs(
        now_us=now,
        named=None if named is None else frozenset(named),
        places=places(named or ()),
        zone=chance.choice([None, *ZONES, *ZONES]),
        account=chance.choice([None, "open", "open", "open", "closing", "closed"]),
        kyc=chance.choice([None, True, True]),
        opened_us=chance.choice([None, now - 30 * DAY, now - 30 * DAY + 1, now - 400 * DAY]),
        reopened_us=_moment(chance, *ago),
        age=chance.choice([None, 17, 18, 20, 21, 23, 24, 25, 40]),
        returned_us=_moment(chance, *ago),
        time_out_until_us=_moment(chance, now, now + 1),
        objects=chance.choice([None, False, False, True]),
        harm=chance.choice([None, 0, 0, 1, 2, 3]),
        net_loss_weeks=chance.choice([None, tuple(chance.choice([0.0, 200.0, 500.0]) for _ in range(4))]),
        net_deposit_month=chance.choice([None, 0.0, 199.0, 500.0]),
        last_login_us=_moment(chance, *ago, now - 365 * DAY),
        last_deposit_us=_moment(chance, *ago, now - 365 * DAY),
        bonuses=chance.choice([None, 0, 0, 1, 3]),
        support_contact_us=_moment(chance, *ago),
        complaint_us=_moment(chance, *ago),
        big_loss_us=_moment(chance, *ago),
        complaint_open=chance.choice([None, False, False, True]),
        withdrawal_pending=chance.choice([None, False, False, True]),
        in_session=chance.choice([None, False, False, True]),
        has_played=chance.choice([None, False, True]),
        limit_raised_us=_moment(chance, *ago),
        vip=chance.choice([None, False, True]),
        vip_checked_us=_moment(chance, *ago, now - 90 * DAY, now - 90 * DAY - 1),
    )
    for name in (*REGISTERS, "own"):
        if chance.random() < 0.8:
            found.listed[name] = chance.random() < 0.2
            found.checked[name] = now - chance.choice([0, HOUR, 24 * HOUR, 24 * HOUR + 1])
    found.consents = {
        (channel, product): Consent(
            chance.random() < 0.8,
            chance.choice([*ago, now - 400 * DAY]),
            chance.choice([None, *BASES]),
            chance.choice([None, "site", "shop"]),
        )
        for channel in CHANNELS
        for product in ("*", *PRODUCTS[:2])
        if chance.random() < 0.7
    }
    found.contacts = tuple(
        CountedContact(
            now + chance.randrange(-200, 30) * HOUR,
            f"offer_{chance.randrange(3)}",
            chance.choice(CHANNELS),
        )
        for _ in range(chance.randrange(4))
    )
    for name in (*INPUTS, *REGISTERS):
        if chance.random() < 0.05:
            found.troubles[name] = chance.choice(["unknown", "stale", "future"])
    return found


def windows(found: Inputs) -> tuple[Window, ...]:
    """Sending windows of a player's slots, in UTC without a zone."""
    slots = ("morning", "afternoon", "evening", "night")
    return tuple(send_window(slot, found.now_us, found.zone or "UTC") for slot in slots)


def without(found: Inputs, name: str) -> Inputs:
    """The same player, of whom one thing less is known."""
    lost = copy.copy(found)
    if name in {*REGISTERS, "own"}:
        lost.listed = {one: value for one, value in found.listed.items() if one != name}
        lost.checked = {one: value for one, value in found.checked.items() if one != name}
    elif name == "consents":
        lost.consents = {}
    elif name == "named":
        lost.named, lost.places = None, places(())
    else:
        setattr(lost, name, None)
    return lost


REMOVABLE = (
    *("named", "zone", "account", "kyc", "opened_us", "reopened_us", "age", "returned_us", "time_out_until_us"),
    *("consents", "objects", "harm", "net_loss_weeks", "net_deposit_month", "last_login_us", "last_deposit_us"),
    *("bonuses", "support_contact_us", "complaint_us", "big_loss_us", "complaint_open", "withdrawal_pending"),
    *("in_session", "has_played", "limit_raised_us", "vip", "vip_checked_us", *REGISTERS, "own"),
)
