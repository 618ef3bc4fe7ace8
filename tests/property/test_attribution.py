"""Attribution of rewards from the log, against a plain reading of the whole log at once."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.files import CatalogueError
from pipelines.learning.attribution import Attribution, DrawnDecision, OpenRewards, RewardTerms, TrainingEvent

TERMS = RewardTerms.read()
WINDOW = 1_000
LEASE = 300
PLAYERS = ("ann", "bob")


class Entry(NamedTuple):
    """One entry of a made log: what it is, when it became known, and its columns."""

    kind: str
    at: int
    fields: dict[str, Any]


def drawn(name: str, player: str, at: int, *, contact: bool, at_once: bool = False) -> DrawnDecision:
    offer = ("free_bet", "sms", "evening") if contact else ("NO_CONTACT", None, None)
    offer_id, channel, slot = offer
    return DrawnDecision(
        name, player, at, at, at + LEASE * contact, at_once or not contact, offer_id, channel, slot, b""
    )


EVENTS: list[dict[str, Any]] = [
    {"type": "bet", "product": "casino", "amount_minor": 1_000},
    {"type": "bet", "product": "sports", "amount_minor": 500},
    {"type": "bet", "product": "casino", "amount_minor": 0},
    {"type": "deposit", "status": "approved", "target": "account", "amount_minor": 9_000},
    {"type": "bet_cancelled", "bet_id": "b1", "product": "casino", "amount_minor": 1_000},
    {"type": "bet_cancelled", "bet_id": "b1", "product": "casino", "amount_minor": 1_000},
    {"type": "chargeback", "amount_minor": 9_000},
    {"type": "limit_set", "status": "lowered"},
    {"type": "limit_set", "status": "raised"},
    {"type": "support_contact", "tags": ["harm"]},
    {"type": "support_contact"},
    {"type": "time_out"},
    {"type": "consent_changed", "channel": "sms", "granted": False},
    {"type": "consent_changed", "channel": "sms", "granted": True},
    {"type": "consent_changed", "channel": "email", "granted": False},
]


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Decisions, confirms, outcomes and events of two players in order of time, with repeats and strangers."""
    at, names, entries = 1, 0, []
    for _ in range(draw(st.integers(0, 40))):
        at += draw(st.integers(0, 200))
        kind = draw(st.sampled_from(["decision", "decision", "outcome", "outcome", "event", "event", "event"]))
        if kind == "decision":
            contact, at_once = draw(st.booleans()), draw(st.integers(0, 5)) == 0
            name = f"d{names}"
            names += 1
            player = draw(st.sampled_from(PLAYERS))
            entries.append(Entry(kind, at, {"drawn": drawn(name, player, at, contact=contact, at_once=at_once)}))
        elif kind == "outcome" and names:
            name = f"d{draw(st.integers(0, max(0, names - 1)))}"
            type_ = draw(
                st.sampled_from(["confirmed", "confirmed", "delivered", "unsubscribed", "complained", "failed"])
            )
            entries.append(Entry(kind, at, {"name": name, "type": type_}))
        elif kind == "event":
            fields = draw(st.sampled_from(EVENTS)) | {"event_id": f"e{len(entries)}"}
            late = draw(st.sampled_from([0, 0, 0, 400]))
            entries.append(Entry(kind, at, {"player": draw(st.sampled_from(PLAYERS)), "event": fields, "late": late}))
    repeated = draw(st.lists(st.integers(0, max(0, len(entries) - 1)), max_size=3)) if entries else []
    for place in (one for one in repeated if entries[one].kind != "decision"):
        entries.insert(place + 1, entries[place])
    return entries


def told(attribution: Attribution, entries: Iterable[Entry]) -> Iterator[TrainingEvent]:
    for kind, at, fields in entries:
        yield from attribution.pass_time(at)
        if kind == "decision":
            yield from attribution.decided(fields["drawn"], at)
        elif kind == "outcome":
            yield from attribution.outcome(fields["name"], fields["type"], at, at)
        else:
            yield from attribution.event(fields["player"], fields["event"], at - fields["late"])


def lessons(entries: list[Entry]) -> list[TrainingEvent]:
    attribution = Attribution(TERMS, WINDOW)
    return [*told(attribution, entries), *attribution.pass_time(10**9)]


def plainly(entries: list[Entry]) -> dict[str, tuple[float | None, frozenset[str]]]:
    """Value (None where nothing was earned) and penalties of every decision that began.

    By reading the whole log again for each of them.
    """
    found = {}
    for entry in entries:
        if entry.kind == "decision":
            one: DrawnDecision = entry.fields["drawn"]
            span = _span(one, entries)
            if span is not None:
                found[one.decision_id] = _earned(one, *span, entries)
    return found


def _span(one: DrawnDecision, entries: list[Entry]) -> tuple[int, int] | None:
    """When a decision's window begins and ends; None if it never began."""
    if one.at_once:
        return one.at_us, one.at_us + WINDOW
    for entry in entries:
        if entry.kind == "outcome" and entry.fields["name"] == one.decision_id:
            if entry.fields["type"] in {"failed", "cancelled"} or entry.at > one.valid_until_us:
                return None
            if entry.fields["type"] == "confirmed":
                return entry.at, entry.at + WINDOW
    return None


def _earned(one: DrawnDecision, begun: int, ends: int, entries: list[Entry]) -> tuple[float | None, frozenset[str]]:
    value, penalties, seen, open_, closed = 0.0, set(), set(), one.at_once, False
    reached = earned = False
    for entry in entries:
        reached = reached or (entry.kind == "decision" and entry.fields["drawn"] == one)
        if not reached or closed or entry.at > ends:
            continue
        if entry.kind == "outcome" and entry.fields["name"] == one.decision_id:
            type_ = entry.fields["type"]
            open_ = open_ or type_ == "confirmed"
            closed = not open_ and type_ in {"failed", "cancelled"}
            if open_ and type_ in {"unsubscribed", "complained"}:
                penalties.add(type_)
        if entry.kind == "event" and entry.fields["player"] == one.player and open_:
            event, at = entry.fields["event"], entry.at - entry.fields["late"]
            name = event.get("bet_id", event["event_id"])  # a bet is cancelled once, under whichever id
            if begun < at <= ends and name not in seen:
                worth = TERMS.value_minor(event)
                value, earned = value + worth, earned or worth > 0
                seen.add(name)
                penalties |= _harm(event, one.channel)
    return (value if earned else None), frozenset(penalties)


def _harm(event: dict[str, Any], channel: str | None) -> set[str]:
    if event["type"] == "consent_changed":
        return {"unsubscribed"} if (event["channel"], event["granted"]) == (channel, False) else set()
    if event["type"] == "limit_set":
        return {"limit_set"} if event["status"] == "lowered" else set()
    if event["type"] == "support_contact":
        return {"harm_signalled"} if "harm" in event.get("tags", ()) else set()
    return {"time_out"} & {event["type"]}


@given(logs())
def test_lessons_add_up_to_what_a_plain_reading_of_the_log_says(entries: list[Entry]) -> None:
    expected, found = plainly(entries), lessons(entries)
    zeros = Counter(one.drawn.decision_id for one in found if one.kind == "zero")
    assert zeros == dict.fromkeys(expected, 1)
    values = {one.drawn.decision_id: one.amount_minor for one in found if one.kind == "value"}
    assert values == pytest.approx({name: value for name, (value, _) in expected.items() if value is not None})
    penalties = Counter[str]()
    for one in found:
        if one.kind == "penalty":
            penalties[one.drawn.decision_id] += int(one.amount_minor)
    named = {str(kind): minor for kind, minor in TERMS.penalties_minor.items()}
    assert penalties == Counter({name: sum(named[kind] for kind in kinds) for name, (_, kinds) in expected.items()})


@given(logs())
def test_every_decision_that_began_is_closed_once_and_nothing_stays_open(entries: list[Entry]) -> None:
    attribution = Attribution(TERMS, WINDOW)
    found = [*told(attribution, entries), *attribution.pass_time(10**9)]
    ends = Counter(one.drawn.decision_id for one in found if one.kind in {"value", "nothing"})
    assert ends == Counter(one.drawn.decision_id for one in found if one.kind == "zero")
    books = attribution.open_rewards
    assert not books.touches
    assert not books.by_player
    assert not books.firsts
    assert not books.early


@given(logs())
def test_a_one_comes_once_before_its_value_and_only_of_what_is_worth_something(entries: list[Entry]) -> None:
    first: dict[str, float] = {}
    for one in lessons(entries):
        name = one.drawn.decision_id
        if one.kind == "one":
            assert name not in first
            assert one.amount_minor > 0
            first[name] = one.amount_minor
        if one.kind == "value":
            assert one.provisional_minor == first[name]


@given(logs(), st.integers(0, 40))
def test_books_that_were_written_and_read_again_teach_the_same(entries: list[Entry], cut: int) -> None:
    before = Attribution(TERMS, WINDOW)
    begun = list(told(before, entries[:cut]))
    held = msgspec.msgpack.decode(msgspec.msgpack.encode(before.open_rewards), type=OpenRewards)
    after = Attribution(TERMS, WINDOW, held)
    rest = [*told(after, entries[cut:]), *after.pass_time(10**9)]
    assert begun + rest == lessons(entries)


def test_an_outcome_that_comes_before_its_decision_waits_for_it() -> None:
    one = drawn("d0", "ann", 100, contact=True)
    entries = [
        Entry("outcome", 100, {"name": "d0", "type": "confirmed"}),
        Entry("decision", 101, {"drawn": one}),
        Entry("event", 200, {"player": "ann", "event": EVENTS[0] | {"event_id": "e"}, "late": 0}),
    ]
    assert [lesson.kind for lesson in lessons(entries)] == ["zero", "one", "value"]


def test_an_outcome_whose_decision_never_comes_is_forgotten_after_the_window() -> None:
    attribution = Attribution(TERMS, WINDOW)
    list(attribution.outcome("nobody", "delivered", 100, 100))
    list(attribution.pass_time(100 + WINDOW))
    assert attribution.open_rewards.early
    list(attribution.pass_time(101 + WINDOW))
    assert not attribution.open_rewards.early


def test_a_contact_that_is_never_confirmed_teaches_nothing() -> None:
    entries = [
        Entry("decision", 100, {"drawn": drawn("d0", "ann", 100, contact=True)}),
        Entry("event", 200, {"player": "ann", "event": EVENTS[0] | {"event_id": "e"}, "late": 0}),
    ]
    assert lessons(entries) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("share: 0.04", "worth.0.share"),
        ("unsubscribed: 500", "penalties_minor.unsubscribed"),
    ],
)
def test_a_reward_file_that_is_wrong_names_the_place(tmp_path: Path, change: str, named: str) -> None:
    text = (Path(__file__).parents[2] / "pipelines" / "reward.yaml").read_text("utf8")
    file = tmp_path / "reward.yaml"
    file.write_text(text.replace(change, change.partition(":")[0] + ": -1"), "utf8")
    with pytest.raises(CatalogueError, match=named):
        RewardTerms.read(file)


@pytest.mark.parametrize("first", ["bet", "bet_cancelled"])
@pytest.mark.parametrize("placed", [50, None])
def test_a_bet_that_was_cancelled_is_worth_nothing_whichever_is_known_first(first: str, placed: int | None) -> None:
    attribution, one = Attribution(TERMS, WINDOW), drawn("d", "ann", 1, contact=False)
    said: dict[str, Any] = {"bet_id": "b", "product": "casino", "amount_minor": 1_000}
    back = said | ({} if placed is None else {"placed_at": f"1970-01-01T00:00:00.{placed:06d}+00:00"})
    events = [("bet", {**said, "event_id": "1"}, 50), ("bet_cancelled", {**back, "event_id": "2"}, 70)]
    found = [*attribution.decided(one, 1)]
    for type_, event, at in sorted(events, key=lambda event: event[0] != first):
        found += attribution.event("ann", {**event, "type": type_}, at)
    found += attribution.pass_time(10**9)
    assert [event.amount_minor for event in found if event.kind == "value"] == [0.0]


def test_a_bet_that_was_placed_before_a_decision_and_cancelled_after_it_is_nothing_of_its_reward() -> None:
    attribution, one = Attribution(TERMS, WINDOW), drawn("d", "ann", 100, contact=False)
    back = {"type": "bet_cancelled", "bet_id": "b", "event_id": "2", "product": "casino", "amount_minor": 1_000}
    found = [*attribution.decided(one, 100)]
    found += attribution.event("ann", {**back, "placed_at": "1970-01-01T00:00:00.000050+00:00"}, 150)
    assert [event.kind for event in found] == ["zero"]
