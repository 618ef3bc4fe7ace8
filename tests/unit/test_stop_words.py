"""Stops in words: wishes in the spelling of the closed lists, and texts of other builds read on the safe side."""

from typing import Any

import msgspec
import pytest

from service.contacts.stops import Lifted, Stop, read_journal, read_stops, wished
from service.errors import StopRefused

OFFERS = ("free_bet", "free_spins")


@pytest.mark.parametrize(
    ("of", "scope", "value"),
    [
        ({}, "all", ""),
        ({"jurisdiction": "us nj"}, "jurisdiction", "US-NJ"),
        ({"jurisdiction": "mt"}, "jurisdiction", "MT"),
        ({"offer": "Free-Bet"}, "offer", "free_bet"),
        ({"channel": " SMS "}, "channel", "sms"),
    ],
)
def test_any_spelling_means_the_same(of: dict[str, str], scope: str, value: str) -> None:
    assert wished("ann", " so  it is ", OFFERS, **of) == (scope, value, "ann", "so it is")


@pytest.mark.parametrize(
    ("of", "reason", "said"),
    [
        ({"jurisdiction": "Jersey City"}, "x", "ISO 3166"),
        ({"jurisdiction": "US-NX"}, "x", "did you mean"),
        ({"offer": "free"}, "x", "known are free_bet, free_spins"),
        ({"channel": ""}, "x", "which channel? this one is empty"),
        ({"offer": "  "}, "x", "which offer? this one is empty"),
        ({"offer": "free_bet", "jurisdiction": "MT"}, "x", "jurisdiction and offer"),
        ({}, "", "say why"),
        ({}, "x" * 1_001, "at most 1,000 characters"),
    ],
)
def test_what_nobody_knows_is_refused_with_what_may_be_meant(of: dict[str, str], reason: str, said: str) -> None:
    with pytest.raises(StopRefused, match=said.replace("?", r"\?")):
        wished("ann", reason, OFFERS, **of)


def test_an_offer_is_taken_as_it_is_where_none_can_be_listed() -> None:
    assert wished("ann", "x", None, offer="free_bte").value == "free_bte"
    with pytest.raises(StopRefused):
        wished("ann", "x", None, offer="")


def text(**more: Any) -> bytes:
    told = {
        "id": "a",
        "kind": "marketing",
        "scope": "offer",
        "value": "free_bet",
        "at": "t",
        "by": "ann",
        "reason": "x",
    }
    return msgspec.json.encode(told | more)


@pytest.mark.parametrize("held", [text(kind="journeys"), text(scope="brand"), b"{", b"\xff"])
def test_a_stop_that_this_build_cannot_read_stops_all_marketing(held: bytes) -> None:
    version, (stop,) = read_stops({b"b7": held, b"v": b"17"})
    assert (version, stop.id, stop.scope, stop.rule) == ("17", "b7", "all", "stop:b7")


def test_fields_of_a_later_build_are_passed_over() -> None:
    _, (stop,) = read_stops({b"a": text(until="tomorrow"), b"v": b"17"})
    assert stop == Stop(id="a", scope="offer", value="free_bet", at="t", by="ann", reason="x")


def test_the_journal_tells_of_each_stop_whether_and_why_it_was_lifted() -> None:
    lifted = Lifted(at="u", by="bob", reason="mended")
    held = {b"b": text(id="b", at="s"), b"a": text(), b"lifted b": msgspec.json.encode(lifted), b"stands x": b"a"}
    found = read_journal(held)
    assert list(found) == ["b", "a"]
    assert (found["b"].lifted, found["b"].stands, found["a"].stands) == (lifted, False, True)
