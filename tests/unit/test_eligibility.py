"""Eligibility: the house's own reasons, several laws at once, and the record of exclusions."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.rule_cases import (
    BASE,
    BOOK,
    DAY_US,
    GOLDEN,
    HOUSE,
    facts_of,
    inputs_of,
    licensed_everywhere,
    merged,
    us,
    vector_of,
)

from features.moments import moment
from features.schema import CHANNELS
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import SLOTS, Catalogue, Offer, Purpose, Stage, Window, send_window
from models.policy.context import READINGS
from models.policy.policy import BusinessRules, Policy, Uniform, priorities
from service.contacts.stops import StopInForce
from service.decisions import reasons
from service.decisions.compose import choose
from service.decisions.eligibility import Asked, Standing, evaluate
from service.decisions.reasons import OWN
from service.players import harm
from service.players.facts import Facts, FactValue
from service.players.harm import Harm
from service.rules.compiler import CompiledRulebook, Verdict
from service.rules.inputs import INPUTS, InputRead, age_and_places, read

NOW = us("2026-06-01T12:00:00+02:00")
NOTICE = Offer.model_validate(HOUSE.offers[-1].model_dump() | {"id": "terms_changed", "purpose": "regulatory"})
CATALOGUE = Catalogue.model_validate(
    HOUSE.model_dump() | {"offers": [one.model_dump() for one in (*HOUSE.offers, NOTICE)]}
)
LAYOUT = CandidateSpace(CATALOGUE)
LAW = CompiledRulebook(licensed_everywhere(BOOK.hash, ""), LAYOUT)
EVERY_PURPOSE = frozenset[Purpose](get_args(Purpose))
PLACES = {
    place: list(BOOK.asked([place]))
    for pack in BOOK.packs
    for place in pack.jurisdictions
    if place != "*" and len(BOOK.asked([place])) > 0
}
"""Jurisdictions whose law asks registers."""


def windows(now_us: int = NOW, zone: str = "Europe/Malta") -> tuple[Window, ...]:
    return tuple(send_window(slot, now_us, zone) for slot in SLOTS)


def situation(now_us: int = NOW, law: CompiledRulebook = LAW, purposes: Any = EVERY_PURPOSE, **player: Any) -> Standing:
    said = merged(BASE["player"], player)
    return Standing(
        law=law,
        inputs=inputs_of(said, now_us),
        known=True,
        windows=windows(now_us, said["time_zone"] or "UTC"),
        stage="active",
        features=None,
        withheld={},
        asked=Asked(purposes=purposes),
    )


def allowed(found: Standing) -> int:
    left = found.law.layout.everything
    for bits in evaluate(found).blocked.values():
        left &= ~bits
    return left


def of(*purposes: str) -> int:
    return LAYOUT.where(lambda offer, _: offer.purpose in purposes)


def on(*channels: str) -> int:
    return LAYOUT.where(lambda _, channel: channel in channels)


PASSING = of("service", "rg_intervention", "regulatory")


def test_an_adult_who_consented_may_be_offered_what_is_for_them_and_nothing_else() -> None:
    wanted = LAYOUT.where(
        lambda offer, _: offer.promotional and "MT" in offer.jurisdictions and "active" in offer.stages
    )
    # The night slot opens at 21:00, when calls and texts rest until the slot ends at eight.
    resting = LAYOUT.slots[SLOTS.index("night")] & on("sms", "call")
    assert allowed(situation()) & LAYOUT.promotional == wanted & ~resting


@pytest.mark.parametrize(
    ("reason", "change", "denied"),
    [
        ("unknown_player", {"known": False}, LAYOUT.promotional),
        ("features_unavailable", {"features": "features_unavailable"}, LAYOUT.promotional),
        ("features_stale", {"features": "features_stale"}, LAYOUT.promotional),
        ("holdout", {"withheld": {"holdout": LAYOUT.everything}}, LAYOUT.promotional),
        *(
            ("lifecycle_stage", {"stage": stage}, LAYOUT.promotional & ~LAYOUT.by_stage[stage])
            for stage in get_args(Stage)
        ),
    ],
)
def test_the_houses_own_reasons_deny_what_is_promotional_and_nothing_else(
    reason: str, change: dict[str, Any], denied: int
) -> None:
    plain, changed = situation(), replace(situation(), **change)
    assert evaluate(changed).blocked.get(reason, 0) == denied
    assert set(evaluate(plain).blocked) & set(OWN) <= {"lifecycle_stage", "not_requested", reason}
    assert allowed(changed) & PASSING == PASSING


def test_without_a_time_zone_or_a_residence_nothing_promotional_is_sent() -> None:
    for word, reason in (("time_zone", "time_zone"), ("jurisdiction", "offer_elsewhere")):
        unknown: Any = {word: None}
        assert evaluate(situation(**unknown)).blocked[reason] == LAYOUT.promotional
        assert allowed(situation(**unknown)) == PASSING


def test_what_was_not_asked_for_is_denied_whatever_its_purpose() -> None:
    for purpose in get_args(Purpose):
        # A law of its own: what others asked for is remembered with a catalogue.
        asked = situation(law=CompiledRulebook(LAW.book, CandidateSpace(CATALOGUE)), purposes=frozenset({purpose}))
        assert evaluate(asked).blocked["not_requested"] == LAYOUT.everything & ~of(purpose)
        only = replace(asked, asked=Asked("main", frozenset({purpose}), frozenset({"sms"}), frozenset({"free_bet"})))
        mine = LAYOUT.where(lambda o, c, p=purpose: o.purpose == p and c == "sms" and o.id == "free_bet")  # type: ignore[misc]
        assert evaluate(only).blocked["not_requested"] == LAYOUT.everything & ~mine


def test_what_is_shown_at_once_needs_the_running_slot() -> None:
    found = evaluate(replace(situation(), asked=Asked(purposes=EVERY_PURPOSE, at_once=True))).blocked["not_requested"]
    running = LAYOUT.slots[SLOTS.index("afternoon")]
    assert found == LAYOUT.everything & ~running


def test_what_is_shown_at_once_never_waits_for_its_hours() -> None:
    """At 08:15 calls rest until nine: what waits is nothing to show right now."""
    early = us("2026-06-01T08:15:00+02:00")
    for at_once in (False, True):
        found = evaluate(replace(situation(early), asked=Asked(purposes=EVERY_PURPOSE, at_once=at_once)))
        calls = LAYOUT.slots[SLOTS.index("morning")] & on("call") & LAYOUT.promotional
        assert (found.blocked.get("quiet_call", 0) & calls == calls) == at_once
    for at_us, bits in found.moments:
        assert at_us == early or not bits & ~_union(found)


def test_a_contact_whose_moment_is_settled_is_judged_at_that_moment_and_not_moved() -> None:
    late, usual = us("2026-06-01T21:00:00+02:00"), situation()
    found = usual.settled(Window(late, late + 1))
    assert set(found.windows) == {found.asked.settled} == {Window(late, late + 1)}
    verdict = evaluate(found)
    assert verdict.blocked["quiet_sms"] == on("sms") & LAYOUT.promotional
    assert [at for at, _ in verdict.moments] == [late]


def test_under_a_rulebook_that_cannot_be_read_nothing_promotional_is_sent() -> None:
    found = replace(situation(), lawful=False)
    assert evaluate(found).blocked["rulebook_unreadable"] == LAYOUT.promotional
    assert allowed(found) == PASSING


# What the house has stopped ----------------------------------------------------------------------------------------

STOPPED_PLACES = ("MT", "DK", "US", "US-NJ", "US-NY", "GB", "CA-ON")
PLACE = st.sampled_from(STOPPED_PLACES)
STOP = st.one_of(
    st.just(("all", "")),
    st.tuples(st.just("jurisdiction"), PLACE),
    st.tuples(st.just("offer"), st.sampled_from((*CATALOGUE.ids, "gone"))),
    st.tuples(st.just("channel"), st.sampled_from((*CHANNELS, "fax"))),
)


def reaches(scope: str, value: str, places: set[str], offer: str, channel: str) -> bool:
    """A stop by the letter of the page: a region lies in its country, and who is in a country may be in any of its."""
    if scope == "jurisdiction":
        country, _, region = value.partition("-")
        regions = {one.partition("-")[2] for one in places if one.partition("-")[0] == country}
        return bool(regions) and (not region or bool({region, ""} & regions))
    return scope == "all" or value == {"offer": offer, "channel": channel}[scope]


@given(
    stops=st.lists(STOP, max_size=4, unique=True),
    residence=PLACE,
    more=st.fixed_dictionaries({}, optional={"licence": PLACE, "location": PLACE}),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_eligibility_under_stops_is_what_a_plain_reading_of_them_leaves(
    stops: list[tuple[Any, str]], residence: str, more: dict[str, str]
) -> None:
    told: Any = {"jurisdiction": residence, **more}
    plain = situation(**told)
    named = [StopInForce(id=f"{at:08x}", scope=scope, value=value) for at, (scope, value) in enumerate(stops)]
    found, before = evaluate(replace(plain, stops=named)).blocked, evaluate(plain).blocked
    assert {name: bits for name, bits in found.items() if not name.startswith("stop:")} == before
    for stop in named:
        wanted = LAYOUT.where(
            lambda offer, channel, stop=stop: (  # type: ignore[misc]
                offer.purpose in {"marketing", "bonus"}
                and reaches(stop.scope, stop.value, {residence, *more.values()}, offer.id, channel)
            )
        )
        assert found.get(stop.rule, 0) == wanted
    assert allowed(replace(plain, stops=named)) & PASSING == allowed(plain) & PASSING


def test_who_lives_nowhere_known_is_reached_by_a_stop_of_any_place() -> None:
    nowhere: Any = {"jurisdiction": None}
    stop = StopInForce(id="a", scope="jurisdiction", value="MT")
    assert evaluate(replace(situation(**nowhere), stops=[stop])).blocked["stop:a"] == LAYOUT.promotional


# Several laws at once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", [("jurisdiction",), ("licence",), ("location",)])
def test_the_strictest_of_residence_licence_and_present_place_wins(roles: tuple[str, ...]) -> None:
    """A Dane's law asks ROFUS; so does it of a Maltese whose account is Danish, or who is in Denmark now."""
    told: Any = {"jurisdiction": "MT", **dict.fromkeys(roles, "DK")}
    listed: Any = {"registers": {"rofus": {"listed": True}}}
    at_home = situation(**listed)
    assert "DK1" not in evaluate(at_home).blocked
    assert evaluate(situation(**told, **listed)).blocked["DK1"] == LAYOUT.promotional
    assert not allowed(situation(**told)) & ~allowed(at_home)


def test_an_offer_must_be_for_every_one_of_the_players_places() -> None:
    """free_bet is for Malta and Denmark, free_spins for Malta only."""
    both = evaluate(situation(location="DK")).blocked["offer_elsewhere"]
    wanted = LAYOUT.where(lambda offer, _: not {"MT", "DK"} <= set(offer.jurisdictions))
    assert both == wanted & LAYOUT.promotional


def test_a_region_is_bound_by_its_countrys_law_too() -> None:
    new_jersey: Any = {"jurisdiction": "US-NJ", "time_zone": "America/New_York", "born": "2006-01-01"}
    found = evaluate(situation(**new_jersey)).blocked
    assert found["H10-US"] == LAYOUT.promotional
    # A licence of the house is for the region itself.
    assert "jurisdiction" in evaluate(situation(law=CompiledRulebook(BOOK, LAYOUT), jurisdiction="CA")).blocked
    assert "jurisdiction" not in evaluate(situation(law=CompiledRulebook(BOOK, LAYOUT), jurisdiction="CA-ON")).blocked


# What passes -------------------------------------------------------------------------------------------------------

WORST: dict[str, Any] = {
    "account": "closed",
    "excluded": True,
    "returned": "2026-06-01T09:00:00Z",
    "time_out_until": "2027-01-01T00:00:00Z",
    "born": "2015-01-01",
    "verified": False,
    "registers": dict.fromkeys(BOOK.registers),
    "consent": None,
    "objects": True,
    "harm": "strong",
    "support": "2026-06-01T09:00:00Z",
    "complaint": "2026-06-01T09:00:00Z",
    "complaint_open": True,
    "withdrawal_pending": True,
    "in_session": True,
    "big_loss": "2026-06-01T09:00:00Z",
}


@pytest.mark.parametrize("place", sorted({place for pack in BOOK.packs for place in pack.jurisdictions}))
@pytest.mark.parametrize("trouble", [None, "features_unavailable", "features_stale"])
def test_no_law_silences_service_safer_gambling_and_regulatory_messages(place: str, trouble: str | None) -> None:
    found = situation(**WORST, jurisdiction="MT" if place == "*" else place)
    found = replace(found, features=trouble, withheld={"holdout": LAYOUT.everything}, known=False)
    assert allowed(found) == PASSING
    verdict = evaluate(replace(found, asked=Asked(purposes=frozenset[Purpose]({"rg_intervention"}))))
    assert not verdict.blocked["self_excluded"] & PASSING


# Registers that stopped answering ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", sorted(PLACES))
def test_a_frozen_register_silences_all_marketing_and_bonuses_and_no_help(place: str) -> None:
    names = PLACES[place]
    zone = {"US-NJ": "America/New_York"}.get(place, "UTC")
    told: Any = {"jurisdiction": place, "time_zone": zone}
    oldest = min(BOOK.ages_us[name] for name in names)
    for age in (oldest + 1, oldest + 30 * DAY_US):
        checked = {"checked": _iso(NOW - age)}
        frozen = situation(**told, registers=dict.fromkeys(names, checked))
        verdict = evaluate(frozen)
        assert allowed(frozen) & LAYOUT.promotional == 0
        assert allowed(frozen) & of("rg_intervention") == of("rg_intervention")
        late = [name for name in names if age > BOOK.ages_us[name]]
        assert {f"stale_{name}" for name in late} <= verdict.blocked.keys()
        assert verdict.blocked[f"stale_{late[0]}"] == LAYOUT.promotional
    lately = _iso(NOW - oldest + DAY_US // 24)
    fresh = situation(**told, registers={name: {"checked": lately} for name in names})
    assert not any(name.startswith("stale_") for name in evaluate(fresh).blocked if name[6:] not in _at_send())


def _iso(at_us: int) -> str:
    return moment(at_us).isoformat()


def _at_send() -> set[str]:
    """Registers whose answer must be fresh at the moment of sending, which may be tomorrow."""
    return {rule.register_name for pack in BOOK.packs for rule in pack.rules if rule.type == "register_freshness"}


def test_an_answer_of_the_future_is_none() -> None:
    found = situation(jurisdiction="DK", registers={"rofus": {"checked": _iso(NOW + 60_000_000)}})
    verdict = evaluate(found)
    assert verdict.blocked["future_rofus"] == LAYOUT.promotional
    assert not allowed(found) & LAYOUT.promotional


# The policy sees what is left --------------------------------------------------------------------------------------

POLICIES: dict[str, Policy] = {
    "uniform": Uniform(CATALOGUE.size),
    "business_rules": BusinessRules(priorities(CATALOGUE), CATALOGUE.exploration_floor),
}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    u=st.floats(0, 1, exclude_max=True),
    level=st.sampled_from(["none", "low", "moderate", "strong"]),
    place=st.sampled_from(["MT", "GB", "DK", "NL", "SE"]),
    policy=st.sampled_from(sorted(POLICIES)),
)
def test_whatever_is_drawn_lies_inside_the_mask(u: float, level: str, place: str, policy: str) -> None:
    verdict = evaluate(situation(jurisdiction=place, harm=level, purposes=frozenset({"marketing", "bonus"})))
    chosen = choose("drawn", POLICIES[policy], np.zeros(len(READINGS)), verdict.blocked, u, LAYOUT)
    assert chosen.place == 0 or LAYOUT.bit(chosen.place) & ~_union(verdict)
    assert chosen.propensity > 0


def _union(verdict: Verdict) -> int:
    found = 0
    for bits in verdict.blocked.values():
        found |= bits
    return found


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(harm.MARKERS), st.floats(0, 1e6)), st.integers(0, 2**64 - 1))
def test_the_chances_of_eligible_actions_do_not_hang_on_any_marker(values: dict[str, float], bits: int) -> None:
    """Markers reach a choice through the mask alone: no reading of a policy is a marker, and the pmf takes only
    scores and the eligible set."""
    blocked = {"any": LAYOUT.everything & (bits * 0x9E3779B97F4A7C15 & ((1 << 256) - 1))}
    plain = situation()
    marked = replace(plain, inputs=inputs_of(BASE["player"], NOW, markers=values))
    seen = np.zeros(len(READINGS))
    found = [
        choose("drawn", POLICIES["business_rules"], seen, blocked | evaluate(one).blocked, 0.5, LAYOUT)
        for one in (plain, marked)
    ]
    assert found[0] == found[1]
    assert not {name.partition("=")[0] for name in READINGS} & set(harm.MARKERS)


# Replay ------------------------------------------------------------------------------------------------------------


def test_the_same_inputs_and_rulebook_give_the_same_mask_in_another_process(tmp_path: Path) -> None:
    cases = [("MT", "none"), ("DK", "low"), ("GB", "moderate"), ("US-NJ", "none"), ("DE", "none")]
    here = [_mask(place, level) for place, level in cases]
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/unit', '.']; import test_eligibility as t\n"
        f"print('\\n'.join(t._mask(*case) for case in {cases!r}))"
    )
    environment = {"PYTHONHASHSEED": "77", "PATH": str(tmp_path)}
    root = GOLDEN.parents[1]
    there = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout.split() == here


def _mask(place: str, level: str) -> str:
    verdict = evaluate(situation(jurisdiction=place, harm=level))
    return "-".join(f"{name}:{LAYOUT.dumps(bits).hex()}" for name, bits in sorted(verdict.blocked.items()))


def test_inputs_are_kept_with_value_age_and_trouble() -> None:
    found = situation(jurisdiction="DK", registers={"rofus": {"checked": _iso(NOW - 30 * 3_600_000_000)}}).inputs
    told = found.in_words(LAW.needs(found.places))
    assert told["rofus"] == InputRead(value=None, age_seconds=30 * 3600.0, trouble="stale")
    assert told["age"].value == 46
    assert told["residence"].value == ["DK"]
    assert told["harm"].value == "none"
    assert told["returned"].value == "never"
    assert told["consent"].value["sms:casino"] == "granted express site since 2026-01-01T00:00:00+00:00"
    assert set(LAW.needs(found.places)) == set(told)


def test_every_reason_that_can_be_given_is_told_in_words_with_its_source() -> None:
    known = reasons.reasons(LAW.book)
    worst = situation(**WORST, jurisdiction="DK")
    for name in evaluate(worst).blocked:
        assert known[name].reason
        assert known[name].source
    assert reasons.reason("cap:player_day", known).source == "catalogue"
    assert "another rulebook" in reasons.reason("GB99", known).reason


def test_bits_of_reasons_by_candidate_say_the_same_as_candidates_by_reason() -> None:
    verdict = evaluate(situation(jurisdiction="DK", harm="moderate"))
    masks = LAW.by_candidate(verdict)
    for bit, bits in enumerate(verdict.blocked.values()):
        held = {place for place in range(1, CATALOGUE.size) if int(masks[place]) >> bit & 1}
        assert held == {place for place in range(1, CATALOGUE.size) if bits & LAYOUT.bit(place)}


# Facts to inputs ---------------------------------------------------------------------------------------------------


def test_a_player_of_whom_nothing_is_known_has_no_input_at_all() -> None:
    nobody = Facts()
    found = read(nobody, age_and_places(nobody, NOW), None, Harm("none", {}, {}), (), NOW, BOOK)
    assert found.troubles == dict.fromkeys((*INPUTS, *BOOK.registers), "unknown")
    empty = replace(situation(), inputs=found)
    assert allowed(empty) == PASSING


def test_whether_a_session_without_an_end_still_runs_is_not_known_after_twelve_hours() -> None:
    def playing(hours: float) -> bool | None:
        begun = NOW - int(timedelta(hours=hours).total_seconds() * 1e6)
        said = replace(facts_of(BASE["player"], NOW), session=FactValue("on", begun))
        person, behaviour = age_and_places(said, NOW), vector_of(BASE["player"], NOW)
        return read(said, person, behaviour, Harm("none", {}, {}), (), NOW, BOOK).in_session

    assert playing(12) is True
    assert playing(12.1) is None
