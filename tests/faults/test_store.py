"""Store failures during requests: callers get the safe answer, acknowledged writes stay, once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.fault_house import Caller, Serving, World, now, players, timed, until
from support.faulty_store import Between, Fault, Moment

from features.store.deployment import order
from features.store.keys import PlayerKeys
from features.store.lane import MISSES

ASKS = 30
MANY = 1_000 if os.environ.get("CROUPIER_FAULTS") == "all" else ASKS
"""Decisions under each fault: as many as show the slowest of a thousand, or a few."""
FULL = "store_unavailable", "store_full"
pytestmark = pytest.mark.timed


@pytest.fixture
def serving(between: Between, tmp_path: Path) -> Iterator[Serving]:
    with Serving(between.url, tmp_path) as made:
        yield made


@pytest.fixture
def caller(serving: Serving) -> Iterator[Caller]:
    with Caller(serving.socket) as made:
        yield made


@pytest.fixture
def player(world: World, caller: Caller) -> str:
    """A player of whom everything is known, features too."""
    (name,) = players("p")
    caller.welcome(name)
    world.apply()
    return name


def left_alone(answer: httpx.Response) -> None:
    """Nothing was drawn, nothing recorded, and the answer says so."""
    assert answer.status_code == 200
    told = answer.json()
    assert (told["action"], told["recorded"], told["propensity"]) == ("NO_CONTACT", False, None)
    assert "store_unavailable" in [one["rule"] for one in told["exclusions"]]


def put_off(answer: httpx.Response, codes: Collection[str] = ("store_unavailable",)) -> None:
    """To be asked again under the same id."""
    assert answer.status_code == 503
    assert answer.json()["code"] in codes
    assert int(answer.headers["retry-after"]) >= 1


def writes(caller: Caller, player: str, decision: str) -> list[tuple[str, Callable[[], httpx.Response]]]:
    return [
        ("event", lambda: caller.event(player)),
        ("outcome", lambda: caller.outcome(decision)),
        ("confirm", lambda: caller.confirm(decision)),
    ]


def goes_on(world: World, caller: Caller, player: str) -> None:
    """Everything can be done again, by the processes that were there, and all that was promised is kept."""
    until(lambda: caller.event(player).status_code == 200)
    (other,) = players("q")
    caller.welcome(other)
    world.apply()
    decision = caller.contact(other, channels=["email", "in_app", "push"])
    until(lambda: caller.confirm(decision).status_code == 200)
    told = {"outcome_id": caller.fresh("told"), "occurred_at": now()}
    until(lambda: caller.outcome(decision, **told).status_code == 200)
    world.keeps(caller)


def decided(caller: Caller, player: str, asked: dict[str, Any]) -> httpx.Response:
    """The recorded answer to a request, however often it takes: the deadline holds on a busy machine too."""
    answers: list[httpx.Response] = []

    def recorded() -> bool:
        answers.append(caller.ask(player, **asked))
        return answers[-1].status_code == 200 and bool(answers[-1].json()["recorded"])

    until(recorded)
    return answers[-1]


def test_where_nobody_listens_a_decision_leaves_alone_but_one_that_may_be_recorded_and_writes_are_put_off(
    world: World, tmp_path: Path
) -> None:
    (player,) = players("p")
    with Serving(world.server.url, tmp_path) as serving, Caller(serving.socket) as caller:
        caller.welcome(player)
        world.apply()
        decision = caller.contact(player)
        world.server.stop()
        until(lambda: caller.ask(player).status_code == 200)  # connections that were open break first
        for answer in timed("refused, decision", [lambda: caller.ask(player)] * MANY):
            left_alone(answer)
        for answer in timed("refused, decision with a request_id", [lambda: caller.ask(player, request_id="r")] * ASKS):
            put_off(answer)
        for word, write in writes(caller, player, decision):
            for answer in timed(f"refused, {word}", [write] * ASKS, 2_000):
                put_off(answer)
        world.restart()
        goes_on(world, caller, player)


def test_a_connection_that_breaks_puts_off_for_the_store_may_have_done_what_it_was_asked(
    world: World, caller: Caller, player: str
) -> None:
    world.server.stop()
    for answer in timed("broken connection, decision", [lambda: caller.ask(player)] * MANY):
        put_off(answer)
    world.restart()
    goes_on(world, caller, player)


def test_a_store_that_hangs_is_waited_for_until_the_deadline_and_soon_not_at_all(
    world: World, between: Between, caller: Caller, player: str
) -> None:
    decision = caller.contact(player)
    world.server.signal(signal.SIGSTOP)
    for answer in timed("hung, first decisions", [lambda: caller.ask(player)] * MISSES):
        put_off(answer)
    between.calls.clear()
    for answer in timed("hung, later decisions", [lambda: caller.ask(player)] * MANY):
        put_off(answer)
    assert "MULTI" not in between.calls, "a silent store was asked again"
    for word, write in writes(caller, player, decision):
        for answer in timed(f"hung, {word}", [write] * 2, 2_000):
            put_off(answer)
    world.server.signal(signal.SIGCONT)
    until(lambda: caller.ask(player).status_code == 200)
    goes_on(world, caller, player)


def test_what_restricts_is_put_to_a_silent_store_too_and_gets_in_when_it_answers_again(
    world: World, caller: Caller, player: str
) -> None:
    decision = caller.contact(player)
    world.server.signal(signal.SIGSTOP)
    for _ in range(MISSES):
        put_off(caller.ask(player))
    # A first write in vain leaves the store silent for longer than the next decision or event would wait.
    put_off(caller.event(player))
    go_on = threading.Timer(0.5, lambda: world.server.signal(signal.SIGCONT))
    go_on.start()
    answer = caller.event(player, type="self_excluded", scope="all")
    go_on.join()
    assert answer.status_code == 200
    until(lambda: caller.confirm(decision).status_code == 409)
    world.keeps(caller)


def test_a_request_that_names_its_deadline_is_answered_by_then_and_another_later(
    world: World, caller: Caller, player: str
) -> None:
    world.server.signal(signal.SIGSTOP)
    took = []
    for milliseconds in (1_500, 400, 50):
        begun = time.monotonic()
        put_off(caller.ask(player, deadline_ms=milliseconds))
        took.append(time.monotonic() - begun)
    world.server.signal(signal.SIGCONT)
    assert took == sorted(took, reverse=True)
    assert took[0] >= 1.5


def test_a_store_that_hangs_between_read_and_reservation_is_asked_again_under_the_same_id(
    world: World, between: Between, caller: Caller, player: str
) -> None:
    """The store is stopped at the reserving call itself; it takes it when it goes on, the caller long gone."""
    asked = [{"request_id": f"once-{number}", "channels": ["email", "in_app"]} for number in range(ASKS)]

    def stop() -> None:
        world.server.signal(signal.SIGSTOP)

    def hung(number: int) -> httpx.Response:
        between.fault = Fault("croupier_decide", "before", "go on", stop)
        answer = caller.unless_left_alone(player, **asked[number])
        world.server.signal(signal.SIGCONT)
        return answer

    for answer in timed("hung before the reservation", [partial(hung, number) for number in range(ASKS)]):
        put_off(answer)
    for one in asked:
        assert decided(caller, player, one).content == decided(caller, player, one).content
    goes_on(world, caller, player)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_without_an_answer_to_the_reservation_a_retry_gets_the_one_decision_that_there_is(
    world: World, between: Between, caller: Caller, player: str, moment: Moment
) -> None:
    asked = {"request_id": "once", "channels": ["email", "in_app"]}
    between.fault = Fault("croupier_decide", moment, "hang")
    put_off(caller.unless_left_alone(player, **asked))
    held = world.ledger(player)
    decided(caller, player, asked)
    if moment == "after":
        assert world.ledger(player) == held, "asked twice, reserved twice"
    goes_on(world, caller, player)


@pytest.mark.parametrize("milliseconds", [5, 20, 60])
def test_a_slow_store_is_waited_for_and_everything_is_recorded(
    world: World, between: Between, caller: Caller, player: str, milliseconds: int
) -> None:
    between.delay = milliseconds / 1_000
    answers = timed(f"slow by {milliseconds} ms, decision", [lambda: caller.ask(player)] * MANY)
    assert [one for one in answers if one.status_code == 200]
    for answer in answers:
        if answer.status_code == 200:
            assert answer.json()["recorded"]
        else:
            put_off(answer)
    for answer in timed(f"slow by {milliseconds} ms, event", [lambda: caller.event(player)] * ASKS, 2_000):
        assert answer.status_code == 200
    between.delay = 0
    goes_on(world, caller, player)


def test_a_decision_that_takes_more_calls_has_no_more_time(
    world: World, between: Between, caller: Caller, player: str
) -> None:
    """A member of a household who has a linked id: two reads more, one write more; no call of it is late by itself."""
    until(lambda: caller.event(player, type="household_changed", household_id="h").status_code == 200)
    until(lambda: caller.event(player, type="identify", anonymous_id="cookie").status_code == 200)
    between.delay = 0.06
    word = "slow by 60 ms, decision about a member of a household with a linked id, 150 ms"
    for answer in timed(word, [lambda: caller.ask(player, deadline_ms=150)] * ASKS, 150):
        put_off(answer)
    between.delay = 0
    goes_on(world, caller, player)


def test_out_of_memory_the_store_reads_on_and_every_write_is_put_off_whole(
    world: World, caller: Caller, player: str
) -> None:
    decision = caller.contact(player)
    held = everything(world)
    world.client.config_set("maxmemory", 1)
    answers = timed("out of memory, decision", [lambda: caller.ask(player)] * MANY)
    for answer in answers:
        put_off(answer, FULL)
    for word, write in writes(caller, player, decision):
        for answer in timed(f"out of memory, {word}", [write] * ASKS, 2_000):
            put_off(answer, FULL)
    assert caller.get(f"/v1/decisions/{decision}").status_code == 200
    assert caller.get("/readyz").status_code == 200
    world.client.config_set("maxmemory", 0)
    assert everything(world) == held
    goes_on(world, caller, player)


def test_a_full_store_sheds_decisions_and_events_and_takes_every_exclusion(
    world: World, caller: Caller, player: str, tmp_path: Path
) -> None:
    """Also one that a process takes which started when the store was full already."""
    decision = caller.contact(player)
    world.client.config_set("maxmemory", 1)
    until(lambda: caller.ask(player).json().get("code") == "store_full")
    put_off(caller.event(player), ["store_full"])
    put_off(caller.outcome(decision), ["store_full"])
    (later := tmp_path / "later").mkdir()
    excluded = [f"{player}-{number}" for number in range(MANY)]
    tell = [partial(caller.event, name, type="self_excluded") for name in excluded[:-1]]
    assert all(answer.status_code == 200 for answer in timed("full, exclusion", tell, 5_000))
    assert caller.event(player, type="self_excluded").status_code == 200
    assert caller.confirm(decision).status_code == 409
    with Serving(world.server.url, later) as serving, Caller(serving.socket) as other:
        assert other.get("/readyz").status_code == 200
        assert other.event(excluded[-1], type="self_excluded").status_code == 200
        put_off(other.ask(player), ["store_full"])
    consumer = world.consumer_beside()
    consumer.renew()
    assert consumer.step(1)
    world.flush()
    assert not world.client.xlen(f"log:{caller_slot(world, player)}")
    world.client.config_set("maxmemory", 0)
    until(lambda: caller.ask(player).status_code == 200)
    for name in (player, *excluded):
        assert "self_excluded" in [one["rule"] for one in decided(caller, name, {}).json()["exclusions"]]
    world.keeps(caller)


def test_a_write_that_begins_in_the_last_memory_is_done_whole(world: World, caller: Caller, player: str) -> None:
    """Memory runs out somewhere inside a call: what is acknowledged has its facts, its id and its place in the log."""
    used: Any = world.client.info("memory")
    world.client.config_set("maxmemory", used["used_memory"] + 256 * 1024)
    taken: list[str] = []
    full = False
    while not full:
        name, changed = f"full-{len(taken)}", {"type": "consent_changed", "channel": "sms", "occurred_at": now()}
        answer = caller.event(player, event_id=name, granted=True, **changed)
        if answer.status_code == 200:
            taken.append(name)
            continue
        put_off(answer, FULL)
        full = answer.json()["code"] == "store_full" or "cannot take" in answer.json()["detail"]
    assert taken
    log: Any = world.client.xrange(f"log:{caller_slot(world, player)}")
    world.client.config_set("maxmemory", 0)
    keys = PlayerKeys(world.house.player_key(player))
    for name in taken:
        place: Any = world.client.get(keys.seen(name))
        assert place is not None, name
        assert place[8:] in [stream_id for stream_id, _ in log], name
    assert not world.client.exists(keys.seen(f"full-{len(taken)}"))
    assert len({order(stream_id.decode()) for stream_id, _ in log}) == len(log)
    fact: Any = world.client.hget(keys.facts, "consent:main:sms")
    assert fact is not None
    goes_on(world, caller, player)


def caller_slot(world: World, player: str) -> str:
    return world.house.player_key(player)[:6]


def everything(world: World) -> dict[bytes, bytes]:
    """All that the store holds, but for what serving processes tell of themselves, and try."""
    keys: Any = world.client.keys("*")
    own = (b"croupier:live", b"croupier:probe")
    return {key: world.client.dump(key) for key in keys if not key.startswith(own)}  # type: ignore[misc]


def test_killed_and_started_again_on_its_file_the_store_has_everything_and_everybody_goes_on(
    world: World, caller: Caller, player: str
) -> None:
    decision = caller.contact(player, channels=["in_app"])
    for _ in range(20):
        caller.event(player)
        caller.ask(player, channels=["email"])
    world.restart()
    for answer in timed("after the restart, decision", [lambda: caller.ask(player)] * MANY):
        assert answer.status_code in {200, 503}
    until(lambda: caller.confirm(decision).status_code == 200)
    goes_on(world, caller, player)
