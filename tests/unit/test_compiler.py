"""The compiled rulebook in small: counts, blocks, binding packs, and missing inputs."""

# `make mutate` changes the code of the rules in some 1,700 ways. What survives does so because it changes nothing:
# - mask.evaluate: `0` -> `1` where a reason does not hold: the lowest bit is no place, and the set is cut with the
#   promotional contacts; mask._elsewhere: the same for a place without offers, and a player is always in one place.
# - mask._not_requested: `asked[:4]` and `> _REQUESTS` only change what is remembered; law._in_force: `bits = 1` is cut.
# - `strict=` of zip, dropped: both sides are as long as the timing slots, or as each other.
# - Inputs.spent: `window_us or 1`: rules without a window never ask what was spent; CountCap.denies: a count asks no
#   worth; law._rule: a last moment of `FOREVER_US` is never reached, and `True` may be asked like any condition.
# - Layout: "big" is the default of to_bytes and from_bytes; reshape takes any negative length for the rest; a sum of
#   uint64 is uint64.

from datetime import date
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace
from support.rule_cases import BASE, BOOK, DAY_US, HOUSE, facts_of, inputs_of, law_of, merged, offer_of, us, vector_of

from features.moments import moment
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import SLOTS, Window, send_window
from service.decisions import reasons
from service.players import facts
from service.players.facts import Consent, Facts, FactValue
from service.players.harm import Harm
from service.rules.compiler import CompiledRulebook, _lost, _months_after
from service.rules.inputs import INPUTS, CountedContact, InputRead, Inputs, age_and_places, age_of, jurisdictions, read
from service.rules.rule import ConditionGroup, Money
from service.rules.rulebook import Pack, Rulebook, load_rulebook, places, rulebook_path
from service.rules.types import ContactsToCount, CountCap, SelectionBasis, TermLimit, ValueCap

NOW = us("2026-06-01T12:00:00+02:00")
HOUR = 3_600_000_000
PLAIN = {
    "id": "r",
    "reason": "a rule of this test",
    "source": "this test",
    "confidence": "house",
    "valid_from": "2000-01-01",
}
NOBODY = Harm("none", {}, {})


def player(**said: Any) -> Inputs:
    return inputs_of(merged(BASE["player"], said), NOW)


def reading(known: Facts) -> Inputs:
    return read(known, age_and_places(known, NOW), vector_of(BASE["player"], NOW), NOBODY, (), NOW, BOOK)


def told(**changes: Any) -> Inputs:
    return reading(replace(facts_of(BASE["player"], NOW), **changes))


# Counting ----------------------------------------------------------------------------------------------------------

SPINS = frozenset({("spins", "sms"), ("spins", "email")})
KNOWN = frozenset({"spins", "bet"})


def contacts(*sent: tuple[int, str, str]) -> Inputs:
    return replace(player(), contacts=tuple(CountedContact(*one) for one in sent))


def test_what_a_rule_does_not_cover_leaves_room() -> None:
    counted = ContactsToCount(SPINS, KNOWN, 24 * HOUR, {})
    assert contacts((NOW, "spins", "push"), (NOW, "bet", "sms")).room(counted, 1, NOW)
    assert not contacts((NOW, "spins", "sms")).room(counted, 1, NOW)
    assert contacts((NOW, "spins", "sms")).room(counted, 2, NOW)
    assert contacts((NOW - 24 * HOUR, "spins", "sms")).room(counted, 1, NOW)
    assert not contacts((NOW - 24 * HOUR + 1, "spins", "sms")).room(counted, 1, NOW)


def test_a_contact_of_an_offer_that_is_gone_counts_for_every_rule() -> None:
    counted = ContactsToCount(SPINS, KNOWN, 24 * HOUR, {})
    assert not contacts((NOW, "of_last_year", "push")).room(counted, 1, NOW)
    assert contacts((NOW, "of_last_year", "push")).spent(counted, "spins", NOW) == float("inf")


def test_for_ever_counts_what_was_granted_and_what_was_sent_however_long_ago() -> None:
    counted = ContactsToCount(SPINS, KNOWN, None, {})
    sent = contacts((NOW - 900 * DAY_US, "spins", "sms"))
    assert not sent.room(counted, 1, NOW)
    assert sent.room(counted, 2, NOW)
    sent.bonuses = 1
    assert not sent.room(counted, 2, NOW)
    sent.bonuses = None
    assert not sent.room(counted, 99, NOW)


def test_what_was_spent_is_the_worth_of_contacts_near_and_of_the_offer_on_top() -> None:
    counted = ContactsToCount(SPINS, KNOWN, 24 * HOUR, {"spins": 300.0, "bet": None})
    before, after = (NOW - 23 * HOUR, "spins", "sms"), (NOW + 23 * HOUR, "spins", "email")
    assert contacts().spent(counted, "spins", NOW) == 300.0
    assert contacts(before, after).spent(counted, "spins", NOW) == 900.0
    assert contacts((NOW - 24 * HOUR, "spins", "sms")).spent(counted, "spins", NOW) == 300.0
    assert contacts((NOW, "spins", "push")).spent(counted, "spins", NOW) == 300.0
    assert contacts().spent(counted, "bet", NOW) == float("inf")


def test_losses_are_counted_in_weeks_that_follow_each_other() -> None:
    assert _lost([5, 5, 5, 0], 3, 5)
    assert _lost([0, 5, 5, 5], 3, 5)
    assert not _lost([5, 5, 0, 5], 3, 5)
    assert _lost([4, 4, 4, 5], 1, 5)
    assert not _lost([4.9] * 4, 4, 5)
    assert not _lost([0, 0, 5, 5], 3, 5)
    assert _lost([5] * 4, 4, 5)


def test_months_are_those_of_the_calendar() -> None:
    def after(text: str, months: int) -> str:
        return moment(_months_after(us(text), months)).isoformat()

    assert after("2026-01-31T10:00:00+00:00", 1) == "2026-02-28T10:00:00+00:00"
    assert after("2024-01-31T10:00:00+00:00", 1) == "2024-02-29T10:00:00+00:00"
    assert after("2026-12-15T10:00:00+00:00", 1) == "2027-01-15T10:00:00+00:00"
    assert after("2026-11-22T00:00:00+00:00", 12) == "2027-11-22T00:00:00+00:00"
    assert after("2026-11-30T00:00:00+00:00", 25) == "2028-12-30T00:00:00+00:00"


# Money and groups --------------------------------------------------------------------------------------------------


def test_an_amount_is_compared_as_it_is_told_and_else_by_the_houses_rate() -> None:
    money = Money("EUR", {"DKK": 0.125, "PLN": 0.125})
    assert money.house(800, "EUR") == 800
    assert money.house(800, "DKK") == 100.0
    assert money.house(800, "SEK") is None
    offer = offer_of({"base": "bonus", "value_minor": 1000, "local": {"SEK": 11111}})
    assert money.worth(offer, "EUR") == 1000
    assert money.worth(offer, "SEK") == 11111
    assert money.worth(offer, "PLN") == 8000.0
    assert money.worth(offer, "CHF") is None


def test_the_stake_of_a_spin_is_told_in_the_currency_of_the_law_or_changed_into_it() -> None:
    rule = ValueCap.model_validate(
        {**PLAIN, "type": "value_cap", "measure": "spin_stake", "amount_minor": 500, "currency": "GBP"}
    )
    plain = offer_of({"base": "bonus", "terms": {"spin_stake_minor": 10}})
    assert rule.worth(plain, Money("EUR", {})) is None
    assert rule.worth(plain, Money("EUR", {"GBP": 1.25})) == 8.0
    local = offer_of({"base": "bonus", "terms": {"spin_stake_minor": 10, "spin_stake_local": {"GBP": 501}}})
    assert rule.worth(local, Money("EUR", {"GBP": 1.25})) == 501
    assert rule.violates(local, "email", Money("EUR", {}))


def test_a_group_holds_what_it_names() -> None:
    offer = offer_of({"base": "message"})
    assert ConditionGroup().holds(offer, "sms")
    assert ConditionGroup("sms").holds(offer, "sms")
    assert not ConditionGroup("email").holds(offer, "sms")
    assert ConditionGroup("", "casino").holds(offer, "sms")
    assert not ConditionGroup("", "sports").holds(offer, "sms")
    assert ConditionGroup("", "", "asked").holds(offer, "sms")
    assert not ConditionGroup("", "", "other").holds(offer, "sms")


def test_a_bonus_that_is_not_wagered_needs_no_base() -> None:
    rule = TermLimit.model_validate({**PLAIN, "type": "term_limit", "wagering_bases": ["bonus"]})
    for wagering, base, denied in ((0, None, False), (1, None, True), (1, "bonus", False), (1, "winnings", True)):
        offer = offer_of({"base": "bonus", "terms": {"wagering": wagering, "wagering_base": base}})
        assert rule.violates(offer, "email", Money("EUR", {})) == denied


def test_readings_are_forbidden_by_name_or_by_how_they_begin() -> None:
    rule = SelectionBasis.model_validate({**PLAIN, "type": "selection_basis", "forbidden": ["net_loss_*", "churn"]})
    assert rule.forbids("net_loss_7d")
    assert rule.forbids("net_loss_")
    assert not rule.forbids("net_los")
    assert not rule.forbids("net_losses")
    assert rule.forbids("churn")
    assert not rule.forbids("churn_score")


THRESHOLD = {**PLAIN, "id": "lost", "type": "loss_or_deposit_threshold", "metric": "net_deposit_month"}


@pytest.mark.parametrize(
    ("amounts", "age", "denied"),
    [
        ([[None, 500]], None, 500),
        ([[21, 100], [None, 500]], 20, 100),
        ([[21, 100], [None, 500]], 21, 500),
        ([[21, 100], [25, 300], [None, 500]], 20, 100),
        ([[21, 100], [25, 300], [None, 500]], 24, 300),
        ([[21, 100], [25, 300], [None, 500]], 25, 500),
    ],
)
def test_an_amount_may_hang_on_age(amounts: list[Any], age: int | None, denied: int) -> None:
    told = [{"under": under, "amount_minor": amount} for under, amount in amounts]
    small = law({**THRESHOLD, "amounts": told, "currency": "EUR"})
    for deposited, wanted in ((denied - 0.01, False), (denied, True)):
        seen = replace(player(), age=age, net_deposit_month=deposited)
        assert ("lost" in small.judge(seen, windows()).blocked) == wanted


def test_an_amount_that_hangs_on_age_or_on_an_unknown_rate_denies_where_that_is_not_known() -> None:
    by_age = [{"under": 21, "amount_minor": 100}, {"amount_minor": 500}]
    small = law({**THRESHOLD, "amounts": by_age, "currency": "EUR"})
    assert "lost" in small.judge(replace(player(), age=None, net_deposit_month=0), windows()).blocked
    foreign = law({**THRESHOLD, "amounts": [{"amount_minor": 500}], "currency": "XXX"})
    assert foreign.judge(player(), windows()).blocked["lost"] == foreign.layout.promotional


@pytest.mark.parametrize(
    ("terms", "age", "denied"),
    [
        ({"from_age": 18}, 17, False),
        ({"from_age": 18}, 18, True),
        ({"from_age": 18}, 99, True),
        ({"under": 25}, 24, True),
        ({"under": 25}, 25, False),
        ({"under": 25}, None, True),
        ({}, None, True),
    ],
)
def test_a_cap_on_value_may_be_for_some_ages_and_for_a_window(
    terms: dict[str, int],
    age: int | None,
    denied: bool,  # noqa: FBT001 - a column
) -> None:
    for window in ({}, {"hours": 24}):
        small = law({**WORTH, "hours": None, **terms, **window})
        found = small.judge(replace(player(), age=age), windows()).blocked
        assert ("worth" in found) == denied
        dear = law({**WORTH, "hours": None, "amount_minor": 10**9, **terms, **window})
        assert "worth" not in dear.judge(replace(player(), age=age), windows()).blocked


# The law of a catalogue --------------------------------------------------------------------------------------------


def law(*rules: Any, **pack: Any) -> CompiledRulebook:
    made = Pack.model_validate(
        {
            "pack": "small",
            "title": "Small",
            "version": 3,
            "checked_on": "2026-05-01",
            "jurisdictions": ["MT"],
            "time_zone": "Europe/Malta",
            "rules": rules,
            **pack,
        }
    )
    return CompiledRulebook(Rulebook(settings=BOOK.settings, harm=BOOK.harm, packs=(made,)), CandidateSpace(HOUSE))


def windows() -> tuple[Window, ...]:
    return tuple(send_window(slot, NOW, "Europe/Malta") for slot in SLOTS)


AGE = {**PLAIN, "id": "age", "type": "age_band", "under": 60}
ONCE = {**PLAIN, "id": "once", "type": "count_cap", "most": 1}
DAILY = {**PLAIN, "id": "daily", "type": "count_cap", "most": 1, "hours": 48}
WORTH = {**PLAIN, "id": "worth", "type": "value_cap", "amount_minor": 9, "currency": "EUR", "hours": 72}


def test_a_law_says_which_packs_bind_and_what_they_ask() -> None:
    small = law(AGE, {**PLAIN, "id": "off", "type": "harm_gate", "at_least": "low", "state": "off", "note": "x" * 9})
    assert small.packs(places(["MT"])) == ("small@3 2026-05-01",)
    assert small.packs(places(["GB"])) == ()
    assert small.needs(places(["MT"])) == ("age",)
    assert small.needs(places(["GB"])) == ()
    assert small.names == {"age"}


def test_a_law_says_how_far_back_it_looks() -> None:
    assert law(AGE).longest_us == 0
    assert law(AGE, DAILY).longest_us == 48 * HOUR
    assert law(DAILY, WORTH).longest_us == 72 * HOUR
    assert law(ONCE).longest_us == 0
    assert law(ONCE).ever(places(["MT"]))
    assert not law(ONCE).ever(places(["GB"]))
    assert not law(DAILY).ever(places(["MT"]))


def test_a_rule_binds_where_its_pack_does_or_in_a_part_of_it() -> None:
    part = law({**AGE, "jurisdictions": ["MT-01"]})
    assert not part.judge(player(), windows()).blocked
    assert part.judge(player(jurisdiction="MT-01"), windows()).blocked["age"] == part.layout.promotional
    assert law(AGE).judge(player(jurisdiction="MT-01"), windows()).blocked.keys() == {"age"}


def test_a_rule_binds_contacts_that_are_sent_while_it_is_in_force() -> None:
    """It begins tomorrow at the midnight of its place: the morning of tomorrow is denied, this afternoon is not."""
    begins = law({**AGE, "valid_from": "2026-06-02"}).judge(player(), windows()).blocked["age"]
    ends = law({**AGE, "valid_to": "2026-06-02"}).judge(player(), windows()).blocked["age"]
    layout = CandidateSpace(HOUSE)
    tomorrow = layout.slots[SLOTS.index("morning")] & layout.promotional
    assert begins == tomorrow
    assert ends == layout.promotional & ~tomorrow
    assert "age" not in law({**AGE, "valid_from": "2026-06-03"}).judge(player(), windows()).blocked
    midnight = us("2026-06-02T00:00:00+02:00")
    apart = (Window(midnight, midnight + HOUR), *(Window(midnight - 1, midnight + HOUR),) * 3)
    first = layout.slots[0] & layout.promotional
    assert law({**AGE, "valid_from": "2026-06-02"}).judge(player(), apart).blocked["age"] == first
    assert law({**AGE, "valid_to": "2026-06-02"}).judge(player(), apart).blocked["age"] == layout.promotional & ~first


def test_a_policy_is_barred_while_the_law_that_forbids_its_readings_is_in_force_there() -> None:
    rule = {**PLAIN, "id": "select", "type": "selection_basis", "forbidden": ["churn_score"]}
    small = law({**rule, "valid_from": "2026-06-01", "valid_to": "2026-06-02"})
    assert small.bars(("bet_count_1d", "churn_score"), player())
    assert not small.bars(("bet_count_1d",), player())
    assert not small.bars((), player())
    assert not small.bars(("churn_score",), player(jurisdiction="GB"))
    begins, ends = us("2026-06-01T00:00:00+02:00"), us("2026-06-02T00:00:00+02:00")
    for at, barred in ((begins - 1, False), (begins, True), (ends - 1, True), (ends, False)):
        assert small.bars(("churn_score",), replace(player(), now_us=at)) == barred
    for off in (-2 * DAY_US, 2 * DAY_US):
        assert not small.bars(("churn_score",), replace(player(), now_us=NOW + off))


def test_freshness_is_named_even_where_the_register_itself_may_be_older() -> None:
    fresh = {**PLAIN, "id": "fresh", "type": "register_freshness", "register_name": "rofus", "hours": 1}
    register = {"rofus": {"title": "R", "max_age_hours": 99, "source": "this test"}}
    small = law(fresh, registers=register)
    late = {"registers": {"rofus": {"checked": "2026-06-01T11:00:00+02:00"}}}
    window = (Window(NOW, NOW + HOUR),) * 4
    assert not small.judge(player(**late), window, fixed=True).blocked
    over = (Window(NOW + 1, NOW + HOUR),) * 4
    found = small.judge(player(**late), over, fixed=True).blocked
    assert found.keys() == {"fresh", "stale_rofus"}
    assert small.judge(player(registers={"rofus": None}), window).blocked.keys() == {"fresh", "unknown_rofus"}


def test_deferrals_say_which_rule_and_from_when() -> None:
    found = law_of(offer_of({"base": "message"})).judge(
        player(), tuple(send_window(slot, us("2026-06-01T05:00:00+02:00"), "Europe/Malta") for slot in SLOTS)
    )
    morning = [one for one in found.deferrals if one.timing_slot == "morning"]
    assert {(one.rule, one.allowed_from_us) for one in morning} == {("quiet_call", us("2026-06-01T09:00:00+02:00"))}


def test_more_than_sixty_four_reasons_do_not_pass_for_fewer() -> None:
    layout = CandidateSpace(HOUSE)
    assert layout.by_candidate([1] * 64).shape == (HOUSE.size,)
    with pytest.raises(ValueError, match="65 sets"):
        layout.by_candidate([1] * 65)


def test_sets_of_candidates_are_the_bits_that_records_keep() -> None:
    layout = CandidateSpace(HOUSE)
    for place in (0, 1, 7, 8, HOUSE.size - 1):
        held = layout.array(layout.bit(place))
        assert held.nonzero()[0].tolist() == [place]
        assert layout.loads(layout.dumps(layout.bit(place))) == layout.bit(place)
    assert layout.array(layout.everything).sum() == HOUSE.size - 1
    assert not layout.everything & layout.bit(0)
    assert layout.find("no_such_offer", "sms", "night") == 0
    assert layout.find("free_bet", "sms", "night") == layout.bit(HOUSE.place("free_bet", "sms", "night"))
    everything = 0
    for one, other in pairwise(layout.slots):
        assert not one & other
    for slot in layout.slots:
        everything |= slot
    assert everything == layout.everything


def test_a_cap_counts_the_promotions_of_its_channel_and_offer() -> None:
    layout = CandidateSpace(HOUSE)
    of = {cap.id: cap for cap in HOUSE.caps}
    assert layout.group(of["player_day"]) == layout.promotional
    for cap in of.values():
        wanted = layout.where(
            lambda offer, channel, cap=cap: (  # type: ignore[misc]
                offer.purpose in {"marketing", "bonus"}
                and (cap.channel is None or cap.channel == channel)
                and (cap.offer is None or cap.offer == offer.id)
            )
        )
        assert layout.group(cap) == wanted


# Inputs ------------------------------------------------------------------------------------------------------------


def test_consent_to_a_product_comes_before_consent_that_names_none() -> None:
    seen = player()
    seen.consents = {("sms", "*"): Consent(True, 5), ("sms", "casino"): Consent(False, 6)}
    assert seen.consent("sms", "casino") == Consent(False, 6)
    assert seen.consent("sms", "sports") == Consent(True, 5)
    assert seen.consent("sms", "sports", narrow=True) is None
    assert seen.consent("email", "casino") is None


def test_inputs_in_words_tell_what_a_register_said_and_what_became_of_consent() -> None:
    seen = player(registers={"rofus": {"listed": True}, "oasis": {"listed": False}}, consent={"granted": False})
    told = seen.in_words(["rofus", "oasis", "consent"])
    assert told["rofus"] == InputRead(value=True, age_seconds=0.0)
    assert told["oasis"].value is False
    assert told["consent"].value["sms:*"] == "withdrawn express site since 2026-01-01T00:00:00+00:00"


def test_age_is_that_of_the_players_own_day_and_of_a_verified_identity_only() -> None:
    known = facts_of(BASE["player"], NOW)
    midnight = us("2026-05-17T00:00:00+02:00")
    assert age_of(known, midnight) == 46
    assert age_of(known, midnight - 1) == 45
    assert age_of(replace(known, time_zone=None), midnight) == 45
    assert age_of(replace(known, kyc_verified=None), NOW) is None
    assert age_of(replace(known, birth_date=None), NOW) is None


def test_a_player_is_where_they_live_are_licensed_and_are_now() -> None:
    known = facts_of(BASE["player"], NOW)
    assert jurisdictions(known) == frozenset({"MT"})
    assert jurisdictions(replace(known, licence="GB", location="US-NJ")) == frozenset({"MT", "GB", "US-NJ"})
    assert jurisdictions(replace(known, jurisdiction=None, location="US-NJ")) is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("opened", {"opened_us": NOW + 6_000_000}),
        ("reopened", {"reopened_us": NOW + 6_000_000}),
        ("returned", {"returned_us": NOW + 6_000_000}),
        ("support_contact", {"support_us": NOW + 6_000_000}),
        ("complaint", {"complained_us": NOW + 6_000_000}),
        ("big_loss", {"big_loss_us": NOW + 6_000_000}),
        ("limit_raised", {"limit_raised_us": NOW + 6_000_000}),
        ("vip_checked", {"vip_checked_us": NOW + 6_000_000}),
        ("objection", {"objection": FactValue("none", NOW + 6_000_000)}),
        ("withdrawal_pending", {"withdrawal": FactValue("settled", NOW + 6_000_000)}),
        ("in_session", {"session": FactValue("off", NOW + 6_000_000)}),
        ("complaint_open", {"complaint": FactValue("resolved", NOW + 6_000_000)}),
        ("vip", {"vip": FactValue("none", NOW + 6_000_000)}),
    ],
)
def test_what_is_told_for_later_is_not_known_now(name: str, change: dict[str, Any]) -> None:
    found = told(**change)
    assert found.troubles == {name: "future"}
    assert found.in_words([name])[name].value is None
    near = {key: _nearer(value) for key, value in change.items()}
    assert told(**near).troubles == {}, "clocks may differ by some seconds"


def _nearer(value: Any) -> Any:
    return value._replace(at_us=NOW + 5_000_000) if isinstance(value, FactValue) else NOW + 5_000_000


def test_consent_that_begins_later_is_none_and_a_withdrawal_that_does_ends_it_now() -> None:
    later = NOW + 6_000_000
    assert told(consent={("sms", "*"): Consent(True, later)}).consents == {}
    kept = {("sms", "*"): Consent(True, 1), ("sms", "casino"): Consent(False, later)}
    assert told(consent=kept).consents == kept


@pytest.mark.parametrize(
    ("field", "name", "states"),
    [
        ("objection", "objects", {"objects": True, "none": False}),
        ("withdrawal", "withdrawal_pending", {"pending": True, "settled": False}),
        ("session", "in_session", {"on": True, "off": False}),
        ("complaint", "complaint_open", {"open": True, "resolved": False}),
        ("vip", "vip", {"vip": True, "none": False}),
    ],
)
def test_a_state_is_what_was_told_last_and_false_if_nothing_was(field: str, name: str, states: dict[str, bool]) -> None:
    assert getattr(told(**{field: None}), name) is False
    for text, wanted in states.items():
        assert getattr(told(**{field: FactValue(text, NOW - HOUR)}), name) is wanted


def test_a_register_that_named_the_player_once_ends_consent_from_before() -> None:
    raw = {
        b"opened": b"1 0 1",
        b"register:rofus": f"{NOW} 0 clear".encode(),
        b"listed:rofus": f"{NOW - 9} 0 ".encode(),
    }
    assert facts.read(raw, "main").returned_us == NOW - 9
    raw[b"register:rofus"] = f"{NOW} 1 listed".encode()
    assert facts.read(raw, "main").returned_us is None


def test_behaviour_that_cannot_be_relied_on_leaves_its_inputs_unknown() -> None:
    known = facts_of(BASE["player"], NOW)
    found = read(known, age_and_places(known, NOW), None, NOBODY, (), NOW, BOOK)
    lost = {"last_login", "last_deposit", "net_loss_week", "net_deposit_month", "bonuses", "has_played", "harm"}
    assert found.troubles == dict.fromkeys(lost, "unknown")
    assert {name for name in lost if found.in_words([name])[name].value is not None} == set()
    assert lost < set(INPUTS)


def test_scores_that_the_house_wants_of_everybody_must_be_there_and_fresh() -> None:
    wants = BOOK.model_copy(update={"settings": BOOK.settings.model_copy(update={"scores": {"mindway": 24.0}})})

    def harm(**said: FactValue) -> tuple[int | None, str | None]:
        known = replace(facts_of(BASE["player"], NOW), harm=said)
        found = read(known, age_and_places(known, NOW), vector_of(BASE["player"], NOW), NOBODY, (), NOW, wants)
        return found.harm, found.troubles.get("harm")

    assert harm() == (None, "unknown")
    assert harm(**{"by:mindway": FactValue("none", NOW - 24 * HOUR)}) == (0, None)
    assert harm(**{"by:mindway": FactValue("none", NOW - 24 * HOUR - 1)}) == (None, "stale")
    assert harm(**{"by:mindway": FactValue("none", NOW + 6_000_000)}) == (None, "future")
    assert harm(**{"by:other": FactValue("none", NOW)}) == (None, "unknown")


def test_a_reason_is_told_with_where_it_binds_how_sure_it_is_and_when_it_was_checked() -> None:
    book = load_rulebook(rulebook_path())
    known = reasons.reasons(book)
    rules = {rule.id: (rule, pack) for pack in book.packs for rule in pack.rules}
    rule, pack = rules["H4b-FL-count"]
    assert rule.note
    assert known["H4b-FL-count"] == reasons.Reason(
        rule.reason, rule.source, ("US-FL",), str(pack.checked_on), rule.confidence, rule.note, stands=True
    )
    assert known["GB3"].jurisdictions == ("GB",)
    assert known["stale_rofus"].reason.endswith(": what is known is too old")
    assert known["unknown_age"].source == "house: unknown, stale and future inputs deny"
    assert reasons.reason("cap:x", known) == reasons.Reason("the cap has no room", "catalogue")
    assert reasons.reason("GB3", known) == known["GB3"]
    other = reasons.reason("ZZ", known)
    assert other == reasons.Reason("ZZ, a rule of another rulebook", "the rulebook that the record names")


def test_a_rule_that_was_compared_with_its_source_by_itself_says_when() -> None:
    small = law({**AGE, "checked_on": date(2026, 5, 20)})
    assert reasons.reasons(small.book)["age"].checked_on == "2026-05-20"
    assert CountCap.model_validate(ONCE).needs == ("bonuses",)
    assert CountCap.model_validate(DAILY).needs == ()
