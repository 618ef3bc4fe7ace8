"""One assessment: decisions, confirms, the player page, and rules asked of records say the same of a player."""

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import orjson
import pytest
from msgspec.structs import replace

from features.aggregates import Activity, empty, update
from features.events import EVENT
from features.kept_schemas import TODAY
from features.moments import moment
from features.read_plan import ReadPlan
from features.schema import CHANNELS
from features.store.deployment import FORMAT, PARTITIONS, House
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import NO_CONTACT, load_catalogue
from models.experiments.allocation import of_catalogue
from models.experiments.assignment import Splits
from models.policy.policy import BusinessRules, Policy, Priority, Uniform, priorities
from service.contacts.entries import Reservation
from service.contacts.limits import Held
from service.contacts.snapshot import PlayerSnapshot
from service.contacts.stops import Stop, StopScope
from service.decisions.assess import assess
from service.decisions.compose import Decision, compose, reservation
from service.decisions.confirm import forbidding
from service.decisions.explain_player import explained
from service.decisions.kept import KeptDecision
from service.decisions.personal import personal
from service.decisions.record import Record, assignment, unpack_places
from service.decisions.replay import recorded_player, recorded_request
from service.decisions.request import DecisionRequest
from service.decisions.serving import Serving
from service.players import facts
from service.players.facts import Assertion
from service.rules.compiler import CompiledRulebook
from service.rules.rulebook import load_rulebook

PLAYERS: Final = int(os.environ.get("CROUPIER_EXAMPLES", "250"))
SEEDS: Final = range(4)
"""With 2,500 examples 10,000 players for each law: `make assess`."""
SERVICE: Final = Path(__file__).parents[2] / "service"
PLACES: Final = ("MT", "DK", "GB", "DE", "US-NJ", "SE", "CA-ON", "JP")
DAY_US: Final = 86_400_000_000
NOW_US: Final = 1_790_000_000_000_000
"""A Monday of September 2026, 13:33 UTC; players are asked about at moments of the four weeks before."""


@pytest.fixture(scope="module")
def serving(plan: ReadPlan) -> Serving:
    catalogue = load_catalogue(SERVICE / "catalogue.yaml")
    ranks = priorities(catalogue)
    policies: dict[str, Policy] = {"learnt": Uniform(catalogue.size), "uniform": Uniform(catalogue.size)}
    policies |= {"business_rules": BusinessRules(ranks, catalogue.exploration_floor), "priority": Priority(ranks)}
    space = CandidateSpace(catalogue)
    law = CompiledRulebook(load_rulebook(SERVICE / "rulebook"), space)
    splits = Splits(of_catalogue(catalogue.experiment), space)
    house = House(
        format=FORMAT, partitions=PARTITIONS, secret="00" * 32, real_us=0, house_us=0, rate=1.0, sandbox=False
    )
    return Serving(house=house, plan=plan, law=law, policies=policies, churn=None, splits=splits)


def history(chance: Random, at_us: int) -> list[dict[str, Any]]:
    """Events of a player: most are adults who consented, and something or other happened to some."""

    def event(type_: str, days: float, **more: Any) -> dict[str, Any]:
        when = moment(at_us - int(days * DAY_US)).isoformat()
        return {"event_id": "e", "player_id": "p", "type": type_, "occurred_at": when, **more}

    place = chance.choice(PLACES)
    zone = chance.choice(("Europe/Malta", "Europe/London", "America/New_York", "Asia/Tokyo"))
    born = f"{chance.randint(1940, 2009)}-05-17"
    found = [
        event("registered", 60, jurisdiction=place, time_zone=zone, birth_date=born),
        event("kyc_verified", 59),
        *(event("register_checked", 0.01, register_name=name, listed=False) for name in ("rofus", "gamstop", "oasis")),
    ]
    found += [
        event("consent_changed", 50, channel=channel, granted=True, brand=chance.choice(("main", "main", "two")))
        for channel in CHANNELS
        if chance.random() < 0.9
    ]
    others = (
        event("self_excluded", chance.random() * 20),
        event("time_out", 1, until=moment(at_us + DAY_US).isoformat()),
        event("objection_changed", 3, objects=True),
        event("harm_reviewed", 2, level=chance.choice(("low", "moderate", "strong"))),
        event("support_contact", chance.random() * 3, tags=["harm"]),
        event("limit_set", 1, limit="loss", change="raised", amount_minor=1_000),
        event("vip_changed", 1, vip=True),
        event("session_started", chance.random()),
    )
    return found + [other for other in others if chance.random() < 0.06]


def known(events: list[dict[str, Any]]) -> dict[bytes, bytes]:
    """The store's hash of registers after some events."""
    held: dict[str, Assertion] = {}
    for said in events:
        for one in facts.assertions(EVENT.validate_json(orjson.dumps(said))):
            if one.field not in held or one[1:] > held[one.field][1:]:
                held[one.field] = one
    return {one.field.encode(): f"{one.moment_us} {one.rank} {one.text}".encode() for one in held.values()}


def player(chance: Random, serving: Serving, at_us: int) -> PlayerSnapshot:
    """A random player as the store would hold them at a moment."""
    assert serving.plan is not None
    rows = [
        Activity("deposit", at_us - int(chance.random() * 40 * DAY_US), chance.randint(100, 90_000), "approved")
        for _ in range(chance.choice((0, 1, 2, 5)))
    ]
    pairs = serving.plan.encode(update(empty(), rows), at_us) if rows or chance.random() < 0.9 else []
    offers = serving.layout.catalogue.offers
    contacts = {}
    for number in range(chance.choice((0, 0, 1, 3))):
        offer, send = chance.choice(offers), at_us + int(chance.uniform(-9, 1) * DAY_US)
        state: Any = chance.choice(("reserved", "confirmed", "released"))
        channel, purpose = chance.choice(CHANNELS), offer.purpose
        entry = Reservation(send, send + DAY_US, state, purpose, offer.id, channel, "now", send)
        contacts[f"000-{'b' * 23}{number}"] = entry
    return PlayerSnapshot(
        real_us=at_us,
        facts=known(history(chance, at_us)) if chance.random() < 0.98 else {},
        features=dict(zip(pairs[::2], pairs[1::2], strict=True)),
        ledger_version="0",
        held=Held(own=contacts),
        watermark_us=at_us - int(chance.choice((0.1, 0.1, 0.1, 4_000)) * 1e6),
        seal=bytes(32),
        record=None,
        stops=stops_of(Random(at_us), serving),
    )


def stops_of(chance: Random, serving: Serving) -> tuple[Stop, ...]:
    """What a house may have stopped: mostly nothing."""
    ids = serving.layout.catalogue.ids
    of: list[tuple[StopScope, Sequence[str]]] = [
        *(("jurisdiction", ("MT", "US", "US-NJ", "GB")), ("offer", ids), ("channel", CHANNELS), ("all", ("",)))
    ]
    found = [of[chance.choice((0, 0, 1, 1, 2, 2, 3))] for _ in range(chance.choice((0, 0, 0, 1, 2)))]
    return tuple(
        Stop(id=f"{at:08x}", scope=scope, value=chance.choice(values), at="", by="ops", reason="so")
        for at, (scope, values) in enumerate(found)
    )


def decided(chance: Random, serving: Serving, snapshot: PlayerSnapshot) -> tuple[DecisionRequest, Decision]:
    """A decision about a player, for a random brand."""
    own = f"player-{chance.randrange(10**9)}"
    request = DecisionRequest(player_id=own, brand=chance.choice(("main", "two")), activate=chance.random() < 0.1)
    return request, compose(request, serving, snapshot, (serving.house.player_key(own), own), f"000-{'a' * 24}", 0)


def says(record: Record, serving: Serving) -> dict[str, set[int]]:
    """Reason -> places that it denies, as a record has it."""
    size = serving.layout.catalogue.size
    found = {name: np.flatnonzero(unpack_places(bits, size)) for name, bits in record.choice.excluded.items()}
    return {name: set(places.tolist()) for name, places in found.items()}


def places(serving: Serving, bits: int) -> set[int]:
    return set(np.flatnonzero(serving.layout.array(bits)).tolist())


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_decision_finds_is_what_explanations_tell_and_what_its_record_gives_again(
    serving: Serving, seed: int
) -> None:
    """Eligible sets, reasons and times, on random players at random moments; a record knows no limits, and says so."""
    chance, contacts = Random(f"assess {seed}"), 0
    for _ in range(PLAYERS):
        at_us = NOW_US - int(chance.random() * 28 * DAY_US)
        snapshot = player(chance, serving, at_us)
        request, decision = decided(chance, serving, snapshot)
        record, catalogue = decision.record, serving.layout.catalogue
        eligible = set(np.flatnonzero(unpack_places(record.choice.mask, catalogue.size)).tolist()) - {NO_CONTACT}
        contacts += bool(eligible)

        assessed = assess(snapshot, request.asked, assignment(record), record.at_us, serving)
        told = explained(assessed, serving)
        assert {one.rule for one in told.denied} == record.choice.excluded.keys()
        named = {(one.offer, one.channel, one.timing_slot) for one in told.allowed}
        assert named == {(offer.id, channel, slot) for offer, channel, slot in map(catalogue.action, eligible)}
        put_off = [
            (one.rule, one.timing_slot, moment(one.allowed_from_us).isoformat()) for one in record.choice.deferrals
        ]
        assert [(one.rule, one.timing_slot, one.allowed_from) for one in told.put_off] == put_off

        opened = personal(snapshot.seal, record)
        assert opened is not None
        assert opened.inputs == told.inputs
        seen, asked = recorded_player(record, opened, TODAY), recorded_request(record, opened)
        again = assess(seen, asked, assignment(record), at_us, serving)
        assert again.limits is None
        assert assessed.limits is not None
        logged = {name: bits for name, bits in says(record, serving).items() if name not in assessed.limits}
        assert {name: places(serving, bits) for name, bits in again.verdict.blocked.items()} == logged
        assert again.verdict.deferrals == assessed.verdict.deferrals
        assert again.verdict.moments == assessed.verdict.moments
    assert contacts > PLAYERS / 20, "hardly anybody may be contacted, and nothing was compared"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_confirm_says_of_its_contact_what_a_decision_says_without_it(serving: Serving, seed: int) -> None:
    """A contact is confirmed where nothing has changed; after a change it is refused for what a decision would name."""
    chance, confirmed, refused = Random(f"confirm {seed}"), 0, 0
    for _ in range(PLAYERS):
        at_us = NOW_US - int(chance.random() * 28 * DAY_US)
        snapshot = player(chance, serving, at_us)
        request, decision = decided(chance, serving, snapshot)
        record = decision.record
        if record.action is None or (held := reservation(record)) is None:
            continue
        own = {**snapshot.held.own, record.decision_id: held}
        mine = replace(snapshot, held=replace(snapshot.held, own=own))
        if forbidding(KeptDecision.of(record), record.action, serving, mine, record.action.send_us) == ():
            confirmed += 1
        changed = replace(player(chance, serving, at_us), held=mine.held)
        found = forbidding(KeptDecision.of(record), record.action, serving, changed, record.action.send_us)
        without = replace(changed, held=changed.held.without(record.decision_id))
        asked = request.asked._replace(at_once=False)
        assessed = assess(without, asked, assignment(record), at_us, serving)
        bit = serving.layout.bit(record.choice.place)
        denied = {name for name, bits in assessed.excluded.items() if bits & bit}
        same_time = assessed.verdict.sent_us(bit) == record.action.send_us
        assert denied <= set(found) or not same_time, (denied, found)
        refused += bool(denied)
    assert min(confirmed, refused) > PLAYERS / 25, "hardly anything was compared"
