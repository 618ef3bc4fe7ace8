"""The client against houses that fail: what it sends again, when, and what it raises; sync and async alike."""

import asyncio
import logging
import pickle
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Final

import msgspec
import pytest
from croupier_client import (
    Accepted,
    AsyncCroupier,
    Conflict,
    Croupier,
    CroupierError,
    Fault,
    NoAnswer,
    NotAllowed,
    NotFound,
    NotValid,
    Refused,
    Unavailable,
    UnreadableAnswer,
)
from support.cluster import free_ports
from support.flaky_house import Fault as Trouble
from support.flaky_house import FlakyHouse, before, busy, canned

from service.api.bounds import BOUNDS

KEY: Final = "ck_planted_" + "5ec2e7" * 8
TAKEN: Final = canned(200, b'{"position": "p001:1-0", "duplicate": false, "added_later": {"to": ["the answer"]}}')


class Asker:
    """Calls a method of either client, each time of a new one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, url: str, method: str, *given: Any, seconds: float = 10, key: str = KEY, **named: Any) -> Any:
        if self.kind == "sync":
            with Croupier(url, key, deadline_seconds=seconds) as croupier:
                return getattr(croupier, method)(*given, **named)

        async def awaited() -> Any:
            async with AsyncCroupier(url, key, deadline_seconds=seconds) as croupier:
                return await getattr(croupier, method)(*given, **named)

        return asyncio.run(awaited())


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Asker:
    return Asker(request.param)


@pytest.fixture
def house() -> Iterator[FlakyHouse]:
    with before() as made:
        yield made


def problem(status: int, code: str, **more: Any) -> bytes:
    return msgspec.json.encode({"title": "no", "status": status, "code": code, "detail": "a sentence", **more})


def ids(house: FlakyHouse, word: str = "event_id") -> set[str]:
    return {msgspec.json.decode(one.body)[word] for one in house.seen}


RETRIED: Final = {
    "503": busy(),
    "503 that names seconds": busy(retry_after="0"),
    "503 with a date of its own clock": busy(
        date="Sun, 29 Nov 2026 08:00:00 GMT", retry_after="Sun, 29 Nov 2026 08:00:00 GMT"
    ),
    "503 with a date that is past": busy(retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    "503 with nonsense": busy(retry_after="soon"),
    "429": canned(429, problem(429, "rate_limited")),
    "502 of a gateway": canned(502, b"<html>bad gateway</html>"),
    "504 of a gateway": canned(504, b""),
    "409 that says when to come back": canned(409, problem(409, "contended"), retry_after="0"),
    "a connection that is closed": Trouble(),
    "a connection that is reset": Trouble(reset=True),
}


@pytest.mark.parametrize("trouble", RETRIED.values(), ids=RETRIED)
def test_a_call_is_sent_again_as_it_was(ask: Asker, house: FlakyHouse, trouble: Trouble) -> None:
    house.faults = [trouble, trouble, TAKEN]
    assert ask(house.url, "event", "login", "p1").position == "p001:1-0"
    assert len(house.seen) == 3
    assert len({(one.method, one.path, one.body) for one in house.seen}) == 1
    assert len(ids(house)) == 1


REFUSED: Final = {
    (400, "invalid_json"): NotValid,
    (401, "unauthorised"): NotAllowed,
    (403, "insufficient_scope"): NotAllowed,
    (404, "unknown_decision"): NotFound,
    (408, "too_slow"): NotValid,
    (409, "already_linked"): Conflict,
    (413, "too_large"): NotValid,
    (422, "event_in_future"): NotValid,
    (422, "a_code_of_next_year"): NotValid,
    (500, "fault"): Fault,
    (418, "a_status_of_next_year"): NotValid,
    (302, ""): Refused,
}


@pytest.mark.parametrize(("status", "code"), REFUSED)
def test_what_is_refused_for_good_is_sent_once(ask: Asker, house: FlakyHouse, status: int, code: str) -> None:
    fields = {} if status == 409 else {"retry_after": "0"}
    house.faults = [canned(status, problem(status, code, pointer="/type", added_later=1), **fields)] * 2
    with pytest.raises(REFUSED[status, code]) as refused:
        ask(house.url, "event", "login", "p1")
    assert len(house.seen) == 1
    error = refused.value
    assert (error.status, error.code, error.detail, error.pointer) == (status, code, "a sentence", "/type")
    assert {error.id} == ids(house)
    assert {error.occurred_at} == ids(house, "occurred_at")
    assert type(pickle.loads(pickle.dumps(error))) is type(error)  # noqa: S301 - our own


def test_retry_after_is_waited_for_in_seconds_and_as_a_date(ask: Asker, house: FlakyHouse) -> None:
    at = datetime.now(UTC).replace(microsecond=0)
    date = {"date": format_datetime(at, usegmt=True), "retry-after": format_datetime(at + timedelta(seconds=1), True)}
    for fields in ({"retry-after": "1"}, date):
        house.faults = [busy(**fields), TAKEN]
        begun = time.monotonic()
        ask(house.url, "event", "login", "p1")
        assert 1 <= time.monotonic() - begun < 8


def test_who_is_asked_to_wait_longer_than_there_is_time_is_told_at_once(ask: Asker, house: FlakyHouse) -> None:
    house.faults = [busy(retry_after="3600")]
    begun = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        ask(house.url, "event", "login", "p1", seconds=5)
    assert time.monotonic() - begun < 4
    assert refused.value.retry_after == 3600
    assert len(house.seen) == 1


LATE: Final = {
    "nothing is answered": [Trouble(waits=True)],
    "an answer comes byte by byte": [Trouble(answer=(200, {}, b" " * 500), drip=0.05)],
    "it stays busy": [busy()] * 1_000,
    "it keeps closing": [Trouble()] * 1_000,
}


@pytest.mark.parametrize("faults", LATE.values(), ids=LATE)
def test_a_call_ends_by_its_deadline(ask: Asker, house: FlakyHouse, faults: list[Trouble]) -> None:
    house.faults = list(faults)
    begun = time.monotonic()
    with pytest.raises((NoAnswer, Unavailable)) as refused:
        ask(house.url, "event", "login", "p1", seconds=0.6)
    assert time.monotonic() - begun < 5
    assert len(ids(house)) == 1
    assert {refused.value.id} == ids(house)
    if isinstance(refused.value, NoAnswer):
        assert refused.value.arrived


def test_a_house_that_is_away_is_tried_until_the_deadline(ask: Asker) -> None:
    (port,) = free_ports(1)
    begun = time.monotonic()
    with pytest.raises(NoAnswer) as refused:
        ask(f"http://127.0.0.1:{port}", "decide", "p1", seconds=0.5)
    assert 0.1 < time.monotonic() - begun < 5, "it is tried more than once, and not for ever"
    assert not refused.value.arrived
    assert refused.value.id


def test_a_secret_that_may_have_been_made_is_not_made_twice(ask: Asker, house: FlakyHouse) -> None:
    """A rotation that keeps the secret before is done once; one that keeps none may be repeated."""
    house.faults = [Trouble(), TAKEN]
    with pytest.raises(NoAnswer):
        ask(house.url, "rotate_key", "abcd")
    assert len(house.seen) == 1
    house.faults = [busy(), TAKEN]
    with pytest.raises(Unavailable):
        ask(house.url, "rotate_key", "abcd")
    assert len(house.seen) == 2
    house.faults = [Trouble(), canned(404, problem(404, "unknown_key"))]
    with pytest.raises(NotFound):
        ask(house.url, "rotate_key", "abcd", keep_seconds=0)


def test_a_request_of_ones_own_is_repeated_only_if_it_may_be(ask: Asker, house: FlakyHouse) -> None:
    house.faults = [Trouble(), canned(200, b"[1]")]
    with pytest.raises(NoAnswer):
        ask(house.url, "request", "POST", "/v1/of-next-year", {})
    assert ask(house.url, "request", "GET", "/v1/of-next-year") == [1]
    house.faults = [Trouble(), canned(200, b"[1]")]
    assert ask(house.url, "request", "POST", "/v1/of-next-year", {}, repeatable=True) == [1]


def test_readiness_is_asked_once(ask: Asker, house: FlakyHouse) -> None:
    house.faults = [canned(503, problem(503, "not_ready"))]
    assert ask(house.url, "ready").trouble == "a sentence"
    house.faults = [Trouble()]
    with pytest.raises(NoAnswer):
        ask(house.url, "ready")
    assert len(house.seen) == 2


@pytest.mark.parametrize(
    "body", [b"", b"<html>sign in to the hotel</html>", b"[]", b'{"position": 3}', b'{"duplicate"']
)
def test_what_is_no_answer_of_a_house_is_called_so(ask: Asker, house: FlakyHouse, body: bytes) -> None:
    house.faults = [canned(200, body)]
    with pytest.raises(UnreadableAnswer):
        ask(house.url, "event", "login", "p1")
    assert len(house.seen) == 1


def test_items_that_could_not_be_done_are_sent_again_and_the_others_are_not(ask: Asker, house: FlakyHouse) -> None:
    def answer(*items: bytes) -> Trouble:
        return canned(200, b'{"answers": [' + b",".join(items) + b"]}")

    taken = (TAKEN.answer or (0, {}, b""))[2]
    house.faults = [
        answer(taken, problem(503, "contended"), problem(422, "unknown_type")),
        answer(taken),
    ]
    many = [{"type": "login", "player_id": f"p{number}"} for number in range(3)]
    first, second, third = ask(house.url, "events", many)
    assert first.position == second.position == "p001:1-0"
    assert isinstance(third, NotValid)
    sent = [msgspec.json.decode(one.body)["events"] for one in house.seen]
    assert sent[1] == [sent[0][1]], "the same event under the same id"
    assert third.id == sent[0][2]["event_id"]


def test_items_that_stay_undone_are_answered_so_when_the_time_is_over(ask: Asker, house: FlakyHouse) -> None:
    undone = canned(200, b'{"answers": [' + problem(503, "contended") + b"]}")
    house.faults = [undone, *[Trouble()] * 1_000]
    (only,) = ask(house.url, "decide_many", [{"player_id": "p1"}], seconds=1.5)
    assert isinstance(only, Unavailable)
    assert only.id == msgspec.json.decode(house.seen[0].body)["requests"][0]["request_id"]


def test_more_than_a_batch_holds_goes_in_several(ask: Asker, house: FlakyHouse) -> None:
    def answer(count: int) -> Trouble:
        return canned(200, b'{"answers": [' + b",".join([(TAKEN.answer or (0, {}, b""))[2]] * count) + b"]}")

    house.faults = [answer(500), Trouble(answer=(413, {}, problem(413, "too_large"))), answer(1)]
    answers = ask(house.url, "events", [{"type": "login", "player_id": "p1"}] * 1_001)
    assert [len(msgspec.json.decode(one.body)["events"]) for one in house.seen] == [500, 500, 1]
    assert [type(one).__name__ for one in answers[499:501]] == ["Accepted", "NotValid"]
    assert len({one.id for one in answers if isinstance(one, CroupierError)}) == 500


def test_no_batch_is_larger_than_a_house_takes(ask: Asker, house: FlakyHouse) -> None:
    house.faults = [
        canned(200, b'{"answers": [' + b",".join([problem(422, "invalid_body")] * many) + b"]}")
        for many in (120, 120, 60)
    ]
    answers = ask(house.url, "events", [{"type": "login", "player_id": "p1", "about": "ü" * 950}] * 300)
    assert len(answers) == 300
    assert [len(msgspec.json.decode(one.body)["events"]) for one in house.seen] == [120, 120, 60]
    assert max(len(one.body) for one in house.seen) <= BOUNDS.body_bytes


KEPT_SECRET: Final = {
    "refused": canned(401, problem(401, "unauthorised")),
    "busy": busy(retry_after="3600"),
    "cut": Trouble(),
    "reset": Trouble(reset=True),
    "silent": Trouble(waits=True),
    "unreadable": canned(200, b"<html>"),
}


@pytest.mark.parametrize("trouble", KEPT_SECRET.values(), ids=KEPT_SECRET)
def test_the_key_is_shown_nowhere(
    ask: Asker, house: FlakyHouse, trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in an error, in a traceback with the values of all frames of the client, in a log of any level."""
    house.faults = [trouble] * 100
    with caplog.at_level(logging.DEBUG), pytest.raises(CroupierError) as refused:
        ask(house.url, "event", "login", "p-secret", seconds=0.4)
    assert all(one.headers["authorization"] == f"Bearer {KEY}" for one in house.seen)
    assert refused.value.__context__ is None
    whole = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
    of_client = [frame for frame in whole.stack if "croupier_client" in frame.filename or "/httpx/" in frame.filename]
    assert of_client
    for text in (*(str(frame.locals) for frame in of_client), str(refused.value), repr(refused.value), caplog.text):
        assert KEY not in text
    assert "p-secret" not in caplog.text
    assert "p-secret" not in str(refused.value)


@pytest.mark.parametrize("kind", [Croupier, AsyncCroupier])
def test_a_client_shows_its_address_alone_and_refuses_what_cannot_be_one(kind: Any) -> None:
    assert repr(kind("http://127.0.0.1:1/t/acme", KEY)) == f"{kind.__name__}('http://127.0.0.1:1/t/acme')"
    for url in (
        "127.0.0.1:8000",
        "ftp://house",
        "http://",
        "http://user:planted@house",
        "http://house?key=planted",
        "",
    ):
        with pytest.raises(ValueError, match="the address of a house") as refused:
            kind(url, KEY)
        assert "planted" not in str(refused.value)
    for key in ("", "planted key", "planted\n", "plantéd"):
        with pytest.raises(ValueError, match="a key is") as refused:
            kind("http://house", key)
        assert "plant" not in str(refused.value)


def test_a_moment_must_have_a_zone_and_an_id_of_ones_own_its_moment(ask: Asker, house: FlakyHouse) -> None:
    with pytest.raises(ValueError, match="time zone"):
        ask(house.url, "event", "login", "p1", occurred_at=datetime(2026, 11, 29))  # noqa: DTZ001 - it is what is refused
    with pytest.raises(ValueError, match="occurred_at too"):
        ask(house.url, "event", "login", "p1", event_id="mine")
    with pytest.raises(ValueError, match="occurred_at too"):
        ask(house.url, "outcome", "sent", "001-a", outcome_id="mine")
    assert house.seen == []


def test_an_address_with_a_path_keeps_it(ask: Asker, house: FlakyHouse) -> None:
    house.faults = [TAKEN]
    ask(f"{house.url}/t/acme/", "event", "login", "p1")
    assert house.seen[0].path == "/t/acme/v1/events"


def test_two_clients_of_a_kind_share_nothing_but_what_within_shares(house: FlakyHouse) -> None:
    house.faults = [TAKEN, busy(retry_after="1"), TAKEN]
    with Croupier(house.url, KEY) as croupier:
        croupier.within(5).event("login", "p1")
        with pytest.raises(Unavailable):
            croupier.within(0.5).event("login", "p1")
        assert len(house.seen) == 2, "the house asked to wait for longer than there was"
        croupier.event("login", "p1")


def test_a_crowd_of_calls_is_answered_whole(house: FlakyHouse) -> None:
    house.faults = [TAKEN] * 200

    async def crowd() -> list[Accepted]:
        async with AsyncCroupier(house.url, KEY, deadline_seconds=60) as croupier:
            return await asyncio.gather(*(croupier.event("login", f"p{number}") for number in range(200)))

    assert [one.position for one in asyncio.run(crowd())] == ["p001:1-0"] * 200
    assert len(ids(house)) == len(house.seen) == 200


def test_who_had_no_turn_in_time_is_told_that_nothing_was_sent(house: FlakyHouse) -> None:
    house.faults = [Trouble(waits=True)] * 400

    async def crowd() -> list[Accepted | BaseException]:
        async with AsyncCroupier(house.url, KEY, deadline_seconds=0.5) as croupier:
            calls = [croupier.event("login", f"p{number}") for number in range(100)]
            return await asyncio.gather(*calls, return_exceptions=True)

    ended = [one for one in asyncio.run(crowd()) if isinstance(one, NoAnswer)]
    assert len(ended) == 100
    unsent = {str(one.id) for one in ended if not one.arrived}
    assert len(unsent) >= 50
    assert not unsent & ids(house)


def test_a_call_that_is_cancelled_leaves_the_client_as_it_was(house: FlakyHouse) -> None:
    house.faults = [Trouble(waits=True)] * 60

    async def cancelled() -> Any:
        async with AsyncCroupier(house.url, KEY) as croupier:
            for _ in range(60):
                call = asyncio.create_task(croupier.event("login", "p1"))
                await asyncio.wait([call], timeout=0.01)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            house.faults = [TAKEN]
            return await croupier.event("login", "p1")

    assert asyncio.run(cancelled()).position
