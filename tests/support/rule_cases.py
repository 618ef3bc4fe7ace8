"""Players and offers described in words, and what the rulebook decides about them."""

from collections.abc import Mapping
from datetime import date, datetime
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import yaml

from features.aggregates import empty, encode, forward
from features.moments import micros
from features.schema import CHANNELS, PRODUCTS, VECTOR
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import Catalogue, Offer, Window, load_catalogue
from service.players.facts import Consent, Facts, FactValue
from service.players.harm import Harm
from service.rules import inputs
from service.rules.compiler import CompiledRulebook, Verdict
from service.rules.inputs import CountedContact, Inputs
from service.rules.rulebook import Rulebook, load_rulebook
from service.rules.types import JurisdictionScope, SelectionBasis

SERVICE = Path(__file__).parents[2] / "service"
GOLDEN = Path(__file__).parents[1] / "golden"
BOOK = load_rulebook(SERVICE / "rulebook")
HOUSE = load_catalogue(SERVICE / "catalogue.yaml")
BASE: dict[str, Any] = yaml.safe_load((GOLDEN / "base.yaml").read_text("utf8"))
DAY_US = 86_400_000_000
_AT = {reading.name: index for index, reading in enumerate(VECTOR)}


def us(moment: str) -> int:
    """Unix microseconds of an ISO moment with its offset."""
    at = datetime.fromisoformat(moment)
    assert at.tzinfo is not None, f"{moment} needs an offset"
    return micros(at)


def merged(*parts: Mapping[str, Any] | None) -> dict[str, Any]:
    """Later parts over earlier ones; what is a mapping in both is merged too."""
    found: dict[str, Any] = {}
    for part in parts:
        for name, value in (part or {}).items():
            both = isinstance(value, dict) and isinstance(found.get(name), dict)
            found[name] = merged(found[name], value) if both else value
    return found


def _when(word: Any, now_us: int) -> int | None:
    if word in (None, "never"):
        return None
    return now_us - DAY_US if word == "day before" else us(word)


def _told(state: Any, true: str, now_us: int) -> FactValue | None:
    return FactValue(true, now_us) if state else None


def _consents(said: dict[str, Any] | None) -> dict[tuple[str, str], Consent]:
    if said is None:
        return {}
    one = Consent(said["granted"], us(said["since"]), said["basis"], said["origin"])
    products = ("*",) if said.get("product_free") else ("*", *PRODUCTS)
    return {(channel, product): one for channel in CHANNELS for product in products}


def facts_of(said: Mapping[str, Any], now_us: int, book: Rulebook = BOOK) -> Facts:
    """Facts of a player told in words."""
    registers = {name: FactValue("clear", now_us) for name in book.registers}
    for name, one in said["registers"].items():
        assert name in registers, f"no pack describes the register {name}"
        if one is None:
            del registers[name]
        else:
            at_us = us(one["checked"]) if "checked" in one else now_us
            registers[name] = FactValue("listed" if one.get("listed") else "clear", at_us)
    born = said["born"]
    return Facts(
        known=True,
        excluded_us=now_us if said["excluded"] else None,
        returned_us=_when(said["returned"], now_us),
        time_out_until_us=_when(said["time_out_until"], now_us),
        opened_us=_when(said["opened"], now_us),
        account=said["account"],
        reopened_us=_when(said["reopened"], now_us),
        kyc_verified=said["verified"],
        birth_date=date.fromisoformat(born) if isinstance(born, str) else born,
        jurisdiction=said["jurisdiction"],
        licence=said["licence"],
        location=said["location"],
        time_zone=said["time_zone"],
        consent=_consents(said["consent"]),
        registers=registers,
        objection=_told(said["objects"], "objects", now_us),
        support_us=_when(said["support"], now_us),
        complaint=_told(said["complaint_open"], "open", now_us),
        complained_us=_when(said["complaint"], now_us),
        big_loss_us=_when(said["big_loss"], now_us),
        withdrawal=_told(said["withdrawal_pending"], "pending", now_us),
        session=_told(said["in_session"], "on", now_us),
        limit_raised_us=_when(said["limit_raised"], now_us),
        vip=_told(said["vip"], "vip", now_us),
        vip_checked_us=_when(said["vip_checked"], now_us),
    )


def vector_of(said: Mapping[str, Any], now_us: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Feature vector of a player told in words."""
    values = forward(encode(empty()), now_us)
    for ago, loss in enumerate(said["net_loss_weeks"] or (0, 0, 0, 0)):
        values[_AT[f"net_loss_final_week_{ago}"]] = loss
    values[_AT["net_deposit_final_month_0"]] = said["net_deposit_month"] or 0
    values[_AT["bonus_count"]] = said["bonuses"] or 0
    if said["played"]:
        values[_AT["last_bet_days_ago"]] = 1.0
    for name in ("last_login", "last_deposit"):
        if (at := _when(said[name], now_us)) is not None:
            values[_AT[f"{name}_days_ago"]] = (now_us - at) / DAY_US
    return values


_PLAIN = {"harm": "harm", "net_loss_weeks": "net_loss_weeks", "net_deposit_month": "net_deposit_month"} | {
    "last_login": "last_login_us",
    "last_deposit": "last_deposit_us",
    "bonuses": "bonuses",
    "objects": "objects",
    "withdrawal_pending": "withdrawal_pending",
    "in_session": "in_session",
    "played": "has_played",
    "complaint_open": "complaint_open",
    "vip": "vip",
}
"""Words whose null makes an input unknown that facts and features cannot leave out."""


def inputs_of(
    said: Mapping[str, Any], now_us: int, book: Rulebook = BOOK, markers: Mapping[str, float] | None = None
) -> Inputs:
    """Inputs of a player told in words, by the same reading as in a decision."""
    contacts = tuple(CountedContact(us(one["send"]), "asked", one.get("channel", "sms")) for one in said["contacts"])
    harm = Harm(said["harm"] or "none", dict(markers or {}), {})
    vector = vector_of(said, now_us)
    known = facts_of(said, now_us, book)
    found = inputs.read(known, inputs.age_and_places(known, now_us), vector, harm, contacts, now_us, book)
    for word, name in _PLAIN.items():
        if said[word] is None:
            setattr(found, name, None)
            found.troubles[{"net_loss_weeks": "net_loss_week", "played": "has_played"}.get(word, word)] = "unknown"
    return found


def offer_of(said: Mapping[str, Any]) -> Offer:
    """An offer told in words, over a base one."""
    fields = merged(BASE[said.get("base", "message")], {k: v for k, v in said.items() if k != "base"})
    return Offer.model_validate({"jurisdictions": [], **fields})


@cache
def licensed_everywhere(book_hash: str, switched_on: str) -> Rulebook:
    """The rulebook as a house would have it that is licensed everywhere, with one more rule switched on."""
    assert book_hash == BOOK.hash
    everywhere = tuple({place for pack in BOOK.packs for place in pack.jurisdictions if place != "*"} | _PARTS)

    def changed(rule: Any) -> Any:
        if isinstance(rule, JurisdictionScope):
            return rule.model_copy(update={"licensed": everywhere})
        return rule.model_copy(update={"state": "strict"}) if rule.id == switched_on else rule

    book = tuple(pack.model_copy(update={"rules": tuple(map(changed, pack.rules))}) for pack in BOOK.packs)
    return BOOK.model_copy(update={"packs": book})


_PARTS = {place for pack in BOOK.packs for rule in pack.rules for place in rule.jurisdictions or ()}


def law_of(offer: Offer, switched_on: str = "") -> CompiledRulebook:
    """The rulebook compiled for one offer."""
    catalogue = Catalogue.model_validate(HOUSE.model_dump() | {"offers": [offer.model_dump()], "caps": []})
    return CompiledRulebook(licensed_everywhere(BOOK.hash, switched_on), CandidateSpace(catalogue))


def ruled(case: Mapping[str, Any], side: str) -> tuple[set[str], Verdict]:
    """Reasons that deny the contact of one side of a golden case."""
    own = case[side]
    words = merged({key: case[key] for key in case if key not in {"allow", "deny"}}, own)
    now_us = us(words["at"])
    said = merged(BASE["player"], words.get("player"))
    law = law_of(offer_of(words.get("offer", {})), case["rule"])
    send_us = us(words.get("send", words["at"]))
    window = Window(send_us, send_us + DAY_US)
    seen = inputs_of(said, now_us)
    places = seen.places
    verdict = law.judge(seen, (window,) * 4, fixed=True)
    place = law.layout.find("asked", words.get("channel", "email"), "evening")
    barred = {
        one.rule.id
        for one in law.bound
        if isinstance(one.rule, SelectionBasis) and not places.isdisjoint(one.places)
        if one.begins_us <= send_us < one.ends_us and any(map(one.rule.forbids, words.get("readings", [])))
    }
    return barred | {name for name, bits in verdict.blocked.items() if bits & place}, verdict


def changed(tmp_path: Path, name: str, rule: str, **fields: Any) -> Path:
    """A copy of the rulebook in which one rule says something else."""
    folder = Path(copytree(SERVICE / "rulebook", tmp_path / name))
    file = next(one for one in (folder / "packs").glob("*.yaml") if f"id: {rule}\n" in one.read_text("utf8"))
    said = yaml.safe_load(file.read_text("utf8"))
    next(one for one in said["rules"] if one["id"] == rule).update(fields)
    file.write_text(yaml.safe_dump(said, sort_keys=False), "utf8")
    return folder
