"""The decision record: the same bytes again, and the same choice again."""

import string
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.schema import STORED, VECTOR
from models.catalogue.candidates import Candidates, CandidateSpace
from models.catalogue.offers import NO_CONTACT, load_catalogue
from models.experiments.assignment import Membership
from models.policy.policy import BusinessRules, Policy, Priority, Uniform, draw, priorities
from service.contacts.stops import StopInForce
from service.decisions.compose import Decision, choose, lost
from service.decisions.kept import KeptDecision
from service.decisions.record import (
    VERSION,
    Choice,
    ChosenContact,
    DeferredContact,
    JourneyPlace,
    ObservedInputs,
    Record,
    ShadowPolicy,
    Versions,
    dump_record,
    load_record,
    pack_floats,
    pack_places,
    unpack_floats,
    unpack_places,
)
from service.players import sealing

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
CATALOGUE = load_catalogue(Path(__file__).parents[2] / "service" / "catalogue.yaml")
LAYOUT = CandidateSpace(CATALOGUE)
RANKS = priorities(CATALOGUE)
POLICIES: dict[str, Policy] = {
    "uniform": Uniform(CATALOGUE.size),
    "business_rules": BusinessRules(RANKS, CATALOGUE.exploration_floor),
    "priority": Priority(RANKS),
}
WORD = st.text(string.ascii_letters + string.digits, max_size=12)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
REAL = st.floats(allow_nan=False)
PLAIN = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | REAL | TEXT
SENT = st.builds(
    ChosenContact,
    offer=WORD,
    name=TEXT,
    template=WORD,
    parameters=st.dictionaries(TEXT, PLAIN | st.lists(PLAIN, max_size=2), max_size=3),
    purpose=WORD,
    channel=WORD,
    timing_slot=WORD,
    send_us=st.integers(0, 2**53),
    valid_until_us=st.integers(0, 2**53),
)
PUT_OFF = st.builds(
    DeferredContact,
    rule=WORD,
    timing_slot=WORD,
    allowed_from_us=st.integers(0, 2**53),
    candidates=st.binary(max_size=30),
)
CHOICE = st.builds(
    Choice,
    role=st.sampled_from(["drawn", "holdout", "objected", "priority"]),
    policy_version=WORD,
    place=st.integers(0, 500),
    propensity=REAL,
    u=REAL,
    mask=st.binary(max_size=30),
    excluded=st.dictionaries(WORD, st.binary(max_size=30), max_size=4),
    scores=st.binary(max_size=30),
    pmf=st.binary(max_size=30),
    deferrals=st.lists(PUT_OFF, max_size=2).map(tuple),
)
SEEN = st.builds(
    ObservedInputs,
    features=st.binary(max_size=30),
    as_of_us=st.none() | st.integers(0, 2**53),
    age_seconds=st.none() | REAL,
    churn_score=st.none() | REAL,
    harm_level=st.sampled_from(["none", "low", "moderate", "strong"]),
    markers=st.dictionaries(WORD, REAL, max_size=4),
    stage=WORD,
    degraded=st.lists(WORD, max_size=2).map(tuple),
    assumed=st.lists(WORD, max_size=2).map(tuple),
    facts_version=WORD,
    ledger_version=WORD,
    harm_sources=st.dictionaries(WORD, WORD, max_size=3),
)
BUCKET = st.integers(0, 9_999).map(lambda bucket: bucket / 10_000)
RECORD = st.builds(
    Record,
    decision_id=WORD,
    player=WORD,
    brand=WORD,
    at_us=st.integers(0, 2**53),
    attempt=st.integers(0, 2),
    request=st.binary(max_size=16),
    explain=st.booleans(),
    purposes=st.lists(WORD, max_size=2).map(tuple),
    decision_point=st.none() | TEXT,
    experiments=st.lists(st.builds(Membership, WORD, WORD, st.integers(1, 9), WORD, BUCKET), max_size=3).map(tuple),
    use=st.sampled_from(["train", "eval", "explore", "control"]),
    journey=st.none() | st.builds(JourneyPlace, id=WORD, instance=WORD, node=WORD, visit=st.integers(1, 99)),
    shadows=st.lists(st.builds(ShadowPolicy, policy=WORD, snapshot=WORD), max_size=2).map(tuple),
    stops=st.lists(st.builds(StopInForce, id=WORD, scope=st.just("offer"), value=WORD), max_size=2).map(
        lambda stops: tuple(stops) or msgspec.UNSET
    ),
    action=st.none() | SENT,
    activated=st.booleans(),
    choice=CHOICE,
    seen=SEEN,
    versions=st.builds(
        Versions,
        catalogue=WORD,
        rules=WORD,
        schema=WORD,
        churn=st.none() | WORD,
        time_zones=WORD,
        build=TEXT,
        packs=st.lists(WORD, max_size=3).map(tuple),
        experiments=st.none() | WORD,
    ),
    sandbox=st.booleans(),
    sealed=st.binary(max_size=40),
    chain=st.none() | st.binary(max_size=32),
)


@SETTINGS
@given(RECORD)
def test_a_record_is_read_as_it_was_written_and_written_as_it_was_read(record: Record) -> None:
    data = dump_record(record)
    found = load_record(data)
    assert found == record
    assert dump_record(found) == data
    assert found.v == VERSION


@SETTINGS
@given(RECORD)
def test_a_record_without_what_was_added_later_is_still_read(record: Record) -> None:
    told = msgspec.to_builtins(record, builtin_types=(bytes,))
    for part, name in (("choice", "deferrals"), ("seen", "harm_sources"), ("versions", "packs")):
        del told[part][name]
    del told["journey"], told["shadows"], told["versions"]["experiments"]
    found = load_record(msgspec.msgpack.encode(told))
    assert (found.choice.deferrals, found.seen.harm_sources, found.versions.packs) == ((), {}, ())
    assert (found.journey, found.shadows, found.versions.experiments) == (None, (), None)
    assert found.seen.features == record.seen.features


@SETTINGS
@given(RECORD)
def test_a_record_names_stops_only_where_something_was_stopped(record: Record) -> None:
    """So that the bytes of every other record are those of builds that knew no stops."""
    written = msgspec.msgpack.decode(dump_record(record))
    assert ("stops" in written) == bool(record.stops)


@SETTINGS
@given(RECORD, WORD)
def test_a_record_of_the_first_version_is_read_as_one_of_one_experiment_or_none(record: Record, key: str) -> None:
    told = msgspec.to_builtins(record, builtin_types=(bytes,))
    for name in ("experiments", "use", "journey", "shadows"):
        del told[name]
    told |= {"v": 1, "experiment": key, "variant": "policy" if key else "", "bucket": 0.25}
    found = load_record(msgspec.msgpack.encode(told))
    assert found.experiments == ((Membership(key, "", 1, "policy", 0.25),) if key else ())
    assert found.use == ("control" if record.choice.role == "holdout" else "train")
    same = msgspec.structs.replace(found, v=VERSION, experiments=(), use="train")
    later: dict[str, Any] = {"journey": None, "shadows": (), "stops": msgspec.UNSET}
    assert same == msgspec.structs.replace(record, experiments=(), use="train", **later)
    assert msgspec.structs.replace(load_record(dump_record(found)), v=1) == found


@SETTINGS
@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_places_are_read_as_they_were_written(chosen: list[bool]) -> None:
    array = np.array(chosen, dtype=np.bool_)
    data = pack_places(array)
    assert len(data) == (len(chosen) + 7) // 8
    np.testing.assert_array_equal(unpack_places(data, len(chosen)), array)
    assert not unpack_places(data, 8 * len(data))[len(chosen) :].any()


@SETTINGS
@given(st.lists(st.floats(), max_size=30))
def test_numbers_are_read_bit_for_bit_and_stored_little_endian(values: list[float]) -> None:
    array = np.array(values, dtype=np.float64)
    data = pack_floats(array)
    assert data == array.astype("<f8").tobytes() == pack_floats(array.astype(">f8"))
    assert unpack_floats(data).tobytes() == array.tobytes()
    unpack_floats(data)[:] = 0


def exclusions(data: st.DataObject) -> dict[str, Candidates]:
    shapes = st.integers(0, 2**32 - 1).map(np.random.default_rng)
    found = {}
    for rule in data.draw(st.sets(st.sampled_from(["consent", "harm", "cap:player_day", "not_requested"]))):
        share = data.draw(st.sampled_from([0.1, 0.9, 1.0]))
        blocked = data.draw(shapes).random(CATALOGUE.size) < share
        blocked[NO_CONTACT] = False
        found[rule] = LAYOUT.loads(pack_places(blocked))
    return found


@SETTINGS
@given(st.data())
def test_sets_of_candidates_are_logged_by_the_same_bytes_as_places(data: st.DataObject) -> None:
    for blocked in exclusions(data).values():
        array = LAYOUT.array(blocked)
        assert LAYOUT.dumps(blocked) == pack_places(array)
        np.testing.assert_array_equal(unpack_places(LAYOUT.dumps(blocked), CATALOGUE.size), array)
        assert LAYOUT.loads(LAYOUT.dumps(blocked)) == blocked == sum(map(LAYOUT.bit, np.flatnonzero(array).tolist()))


def replay(choice: Choice, policy: Policy) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Eligible set and pmf from nothing but what was logged."""
    mask = unpack_places(choice.mask, CATALOGUE.size)
    scores = np.zeros(CATALOGUE.size)
    scores[mask] = unpack_floats(choice.scores)
    return mask, policy.pmf(scores, mask)


@pytest.mark.parametrize("name", POLICIES)
def test_a_choice_is_replayed_bit_for_bit_from_what_was_logged(name: str) -> None:
    policy = POLICIES[name]

    @SETTINGS
    @given(st.data(), st.floats(0, 1 - 2**-53) | st.sampled_from([0.0, 1 - 2**-53]))
    def law(data: st.DataObject, u: float) -> None:
        found = exclusions(data)
        choice = choose(name, policy, np.zeros(len(VECTOR)), found, u, LAYOUT)
        mask, pmf = replay(choice, policy)
        assert pack_floats(pmf[mask]) == choice.pmf
        assert draw(pmf, choice.u) == (choice.place, u, choice.propensity)
        # Also from the logged pmf alone, over the eligible places.
        place, _, propensity = draw(unpack_floats(choice.pmf), choice.u)
        assert (np.flatnonzero(mask)[place], propensity) == (choice.place, choice.propensity)
        # And the mask from the reasons.
        eligible = np.ones(CATALOGUE.size, dtype=np.bool_)
        for blocked in choice.excluded.values():
            eligible &= ~unpack_places(blocked, CATALOGUE.size)
        np.testing.assert_array_equal(eligible, mask)
        assert mask[0]
        rows = [LAYOUT.array(blocked) for blocked in found.values()]
        np.testing.assert_array_equal(~mask, np.any(rows, axis=0) if rows else np.zeros_like(mask))
        assert choice.excluded == {rule: LAYOUT.dumps(blocked) for rule, blocked in found.items()}
        assert (choice.role, choice.policy_version) == (name, policy.version)

    law()


CONTENT: dict[str, Any] = {
    "player_id": "p1",
    "request_id": None,
    "context": {"page": "lobby"},
    "facts": {"kyc": "1 0 x"},
}


def test_what_is_sealed_is_opened_with_its_key_only() -> None:
    key, other = sealing.new_seal(), sealing.new_seal()
    sealed = sealing.seal(key, CONTENT, "017-abc")
    assert sealing.unseal(key, sealed, "017-abc") == CONTENT
    assert sealing.unseal(other, sealed, "017-abc") is None
    assert sealing.unseal(None, sealed, "017-abc") is None
    assert sealing.unseal(key, sealed, "017-abd") is None
    for at in range(len(sealed)):
        assert sealing.unseal(key, sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], "017-abc") is None


def test_seals_are_never_alike_and_show_nothing() -> None:
    key = sealing.new_seal()
    one, other = sealing.seal(key, CONTENT, "a"), sealing.seal(key, CONTENT, "a")
    assert one != other
    assert b"p1" not in one
    assert len({sealing.new_seal() for _ in range(100)} | {key}) == 101
    assert len(key) == 32


def test_features_of_a_record_are_the_stored_values_in_their_order() -> None:
    stored = np.arange(len(STORED), dtype=np.float64)
    assert unpack_floats(pack_floats(stored)).tolist() == list(range(len(STORED)))


@given(RECORD, st.sampled_from([("drawn", "lost"), ("objected", "objected"), ("priority", "priority")]))
def test_a_contact_that_a_budget_cannot_bear_is_lost_to_an_experiment_only_if_it_was_drawn(
    record: Record, roles: tuple[str, str]
) -> None:
    """Who objected to profiling is no part of an experiment, whatever the budget."""
    role, after = roles
    made = msgspec.structs.replace(record, choice=msgspec.structs.replace(record.choice, role=role))
    found = lost(Decision(made, KeptDecision.of(made), b"", None, [], [], {}, [])).record
    assert (found.action, found.choice.role, found.choice.place) == (None, after, made.choice.place)
