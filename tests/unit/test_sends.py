"""Send states: what comes after an attempt, for every answer, purpose and provider."""

from itertools import product
from typing import get_args

import pytest

from models.catalogue.offers import PROMOTIONAL, Purpose
from service.delivery.message import Later, Refused, SendResult, Sent, Unknown
from service.delivery.sends import MOST_TRIES, SECOND_US, SETTLE_SECONDS, Attempt, Next, Send, after

NOW = 10**15
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def attempt(purpose: Purpose = "bonus", *, honours_key: bool = False, tries: int = 1, rate: float = 1.0) -> Attempt:
    """One whose leave ends in a minute of house time, and its lease in an hour."""
    return Attempt(purpose, honours_key, tries, NOW + 60 * SECOND_US, NOW + 3_600 * SECOND_US, rate)


def test_what_was_taken_is_sent() -> None:
    assert after(Sent("m-1"), attempt(), NOW) == Next("sent", provider_id="m-1")


@pytest.mark.parametrize("permanent", [True, False])
def test_what_was_refused_has_failed(permanent: bool) -> None:  # noqa: FBT001 - a parameter
    found = after(Refused("no such mailbox", permanent), attempt(), NOW)
    assert found == Next("failed", why="no such mailbox")


def test_what_may_come_later_is_due_again_within_its_leave_and_else_has_failed() -> None:
    assert after(Later(10.0, "busy"), attempt(), NOW) == Next("due", NOW + 10 * SECOND_US, "busy")
    assert after(Later(61.0, "busy"), attempt(), NOW).state == "failed"
    assert after(Later(61.0, "busy"), attempt("service"), NOW).state == "due"
    assert after(Later(1.0, "busy"), attempt(tries=MOST_TRIES), NOW).state == "failed"
    assert after(Later(10.0, "busy"), attempt(rate=10.0), NOW).state == "failed"


@pytest.mark.parametrize(("purpose", "honours_key"), list(product(PURPOSES, (True, False))))
def test_an_attempt_without_an_answer_is_repeated_only_where_it_does_no_harm(
    purpose: Purpose,
    honours_key: bool,  # noqa: FBT001 - a parameter
) -> None:
    found = after(Unknown("reset"), attempt(purpose, honours_key=honours_key), NOW)
    assert found.state == "unknown"
    assert found.look_us is not None
    again = honours_key or purpose not in PROMOTIONAL
    assert (found.look_us == NOW + SETTLE_SECONDS * SECOND_US) is not again
    assert (found.look_us <= NOW + 60 * SECOND_US) is again


def test_it_is_not_repeated_for_ever() -> None:
    results: list[SendResult] = [Unknown("reset"), Later(1.0, "busy")]
    for result in results:
        found = after(result, attempt("service", tries=MOST_TRIES), NOW)
        assert found.state in {"unknown", "failed"}
        assert found.look_us in {None, NOW + SETTLE_SECONDS * SECOND_US}


def test_what_the_store_holds_is_read_with_what_it_lacks() -> None:
    assert Send.loads({}) is None
    assert Send.loads({b"state": b"due", b"at": b"7", b"tries": b"0"}) == Send("due", 7, 0)
    held = {b"state": b"sent", b"at": b"7", b"tries": b"2", b"connector": b"post", b"id": b"m-1", b"later": b"x"}
    assert Send.loads(held) == Send("sent", 7, 2, "post", "m-1")
