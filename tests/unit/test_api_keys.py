"""API keys as they are kept: what is taken, for how long, what rotation and revocation do, and what nobody is shown."""

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access import cookies
from service.access.keys import (
    ENVIRONMENT_SCOPES,
    LIVE_MOST,
    Caller,
    Key,
    KeySecret,
    Ring,
    digest_of,
    environment_callers,
    id_of,
    new_secret,
    revoked,
    ring,
    rotated,
)
from service.access.rates import ADDRESSES, WRONG_A_MINUTE, Counts, Rates, network_of, share
from service.access.register import Author, NewKey
from service.access.scopes import SCOPES
from service.errors import InsufficientScopeError, KeyRevoked, RotationUnfinishedError

NOW = 1_800_000_000
TIMES = st.integers(-100_000, 100_000)


def made(key_id: str = "abcd", expires_at: int | None = None, **more: Any) -> tuple[str, Key]:
    sent, secret = new_secret(key_id, expires_at)
    return sent.text, Key(scopes=("decide",), secrets=(secret,), **more)


def ring_of(**keys: Key) -> Ring:
    found, odd = ring({name.encode(): msgspec.json.encode(key) for name, key in keys.items()})
    assert odd == []
    return found


def taken(found: Ring, sent: str, at: float) -> bool:
    return found.caller(id_of(sent) or "", digest_of(sent), at) is not None


def test_a_secret_has_256_bits_and_is_kept_as_its_sha256() -> None:
    sent, secret = new_secret("abcd")
    assert sent.text.startswith("ck_abcd_")
    assert len(sent.text.removeprefix("ck_abcd_")) == 43
    assert secret.sha256 == hashlib.sha256(sent.text.encode()).hexdigest()
    assert new_secret("abcd")[0].text != sent.text


def test_nothing_that_is_kept_or_passed_on_shows_a_secret_by_itself() -> None:
    sent, secret = new_secret("abcd")
    key = Key(scopes=("read",), secrets=(secret,))
    hidden = sent.text.removeprefix("ck_abcd_"), secret.sha256
    for one in (sent, secret, key, NewKey("abcd", key, sent), ring_of(abcd=key), [sent], {"key": key}):
        assert not [text for text in hidden if text in f"{one} {one!r}"]


@given(TIMES)
def test_a_key_is_taken_until_the_second_of_its_end_and_never_from_then_on(before: int) -> None:
    sent, key = made(expires_at=NOW)
    assert taken(ring_of(abcd=key), sent, NOW + before) is (before < 0)
    assert key.state(NOW + before) == ("live" if before < 0 else "expired")


def test_another_id_another_secret_and_what_is_no_key_open_nothing() -> None:
    sent, key = made()
    other, _ = made()
    found = ring_of(abcd=key, efgh=key)
    assert taken(found, sent, NOW)
    wrong = [other, sent[:-1], sent + "x", sent.upper(), sent.replace("abcd", "wxyz"), "", "ck_abcd_", "ck__", "é"]
    assert not [one for one in wrong if taken(found, one, NOW)]


@given(st.lists(st.tuples(st.integers(0, 200_000), st.integers(0, 100_000)), max_size=6))
def test_however_often_a_key_is_rotated_two_secrets_at_most_are_live_and_the_newest_is_one(
    turns: list[tuple[int, int]],
) -> None:
    sent, key = made()
    at, newest = NOW, sent
    for wait, keep in turns:
        at += wait
        try:
            new, key = rotated(key, "abcd", at, keep, "tests")
        except RotationUnfinishedError:
            assert len(key.live(at)) == LIVE_MOST
            continue
        assert taken(ring_of(abcd=key), newest, at) is (keep > 0)
        assert not taken(ring_of(abcd=key), newest, at + keep)
        newest = new.text
        assert len(key.live(at)) <= LIVE_MOST
        assert len(key.secrets) <= LIVE_MOST
        assert taken(ring_of(abcd=key), newest, at)


def test_a_rotation_prolongs_nothing() -> None:
    sent, key = made(expires_at=NOW + 100)
    new, key = rotated(key, "abcd", NOW, 86_400, "tests")
    found = ring_of(abcd=key)
    assert [taken(found, one, NOW + 99) for one in (sent, new.text)] == [True, True]
    assert [taken(found, one, NOW + 100) for one in (sent, new.text)] == [False, False]


def test_a_revoked_key_has_no_hash_left_and_never_comes_back() -> None:
    sent, key = made()
    gone = revoked(key, NOW, "tests", "leaked")
    assert (gone.secrets, gone.state(NOW)) == ((), "revoked")
    assert not taken(ring_of(abcd=gone), sent, NOW)
    assert revoked(gone, NOW + 1, "somebody", "again") == gone, "who revoked it first stands"
    with pytest.raises(KeyRevoked):
        rotated(gone, "abcd", NOW, 0, "tests")


def test_a_key_of_a_later_build_allows_what_this_one_knows_and_one_that_it_cannot_read_nothing() -> None:
    sent, key = made()
    later = {**msgspec.to_builtins(key), "scopes": ["decide", "approve"], "colour": "red"}
    found, odd = ring({b"abcd": msgspec.json.encode(later), b"odd1": b"{", b"odd2": b'{"scopes": 1}', b"\xff": b"{}"})
    caller = found.caller("abcd", digest_of(sent), NOW)
    assert caller is not None
    assert caller.scopes == {"decide"}
    assert sorted(odd)[:2] == ["odd1", "odd2"]
    assert list(found.keys) == ["abcd"]


def test_a_key_of_the_environment_allows_everything_but_keys() -> None:
    (caller,) = environment_callers(["secret"]).values()
    assert caller.scopes == ENVIRONMENT_SCOPES == set(SCOPES) - {"admin"}


def test_nobody_grants_what_they_lack() -> None:
    Author("command line").must_hold(SCOPES)
    Author("k", {"admin", "read"}).must_hold(["read"])
    with pytest.raises(InsufficientScopeError, match="decide, events"):
        Author("k", {"admin", "read"}).must_hold(["read", "decide", "events"])


# Cookies ----------------------------------------------------------------------------------------------------------


def test_a_cookie_names_key_and_secret_for_twelve_hours_and_no_other_house_signs_it() -> None:
    key, other = b"k" * 32, b"o" * 32
    cookie = cookies.signed(Caller("abcd", frozenset(), None, "f00d"), key, NOW)
    assert cookies.read_signed(cookie, key, NOW + 12 * 3_600 - 1) == ("abcd", "f00d")
    assert cookies.read_signed(cookie, key, NOW + 12 * 3_600) is None
    assert cookies.read_signed(cookie, other, NOW) is None
    head, body, _ = cookie.split(".")
    for forged in ("", "x", f"{head}.{body}.", f"eyJhbGciOiJub25lIn0.{body}.", cookie[:-2] + "AA", "\xff.\xff.\xff"):
        assert cookies.read_signed(forged, key, NOW) is None


# Rates ------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


@given(st.integers(1, 1_000), st.integers(1, 64))
def test_the_shares_of_all_processes_together_are_the_rate(rate: int, processes: int) -> None:
    item = share(rate, processes)
    assert item.amount * processes == rate * item.get_expiry()
    assert item.amount >= 1


@given(st.integers(1, 50), st.integers(1, 5), st.lists(st.floats(0, 0.5), min_size=10, max_size=200))
def test_no_key_gets_more_than_its_share_in_a_window_and_waiting_as_told_is_enough(
    rate: int, processes: int, waits: list[float]
) -> None:
    clock = Clock()
    rates = Rates(clock)
    rates.processes = processes
    item, passed = share(rate, processes), 0
    began = clock.at
    for wait in waits:
        clock.at += wait
        seconds = rates.wait("k", rate)
        passed += not seconds
        if seconds:
            assert 0 < seconds <= item.get_expiry()
    windows = (clock.at - began) // item.get_expiry() + 1
    assert passed <= windows * item.amount
    if seconds := rates.wait("k", rate):
        clock.at += seconds
        assert not rates.wait("k", rate)


def test_a_batch_costs_its_items_and_one_that_is_too_large_is_paid_for_afterwards() -> None:
    clock = Clock()
    rates = Rates(clock)
    assert not rates.wait("k", 10, 7)
    assert rates.wait("k", 10, 4)
    assert not rates.wait("k", 10, 3)
    clock.at += 1
    assert not rates.wait("k", 10, 500)
    assert rates.wait("k", 10) == pytest.approx(50)
    assert not rates.wait("other", 10), "another key has a rate of its own"
    clock.at += 50
    assert not rates.wait("k", 10)


def test_an_address_may_send_some_wrong_keys_a_minute_and_those_of_one_network_count_together() -> None:
    clock = Clock()
    rates = Rates(clock)
    assert not any(rates.wrong(f"2001:db8::{number:x}") for number in range(WRONG_A_MINUTE))
    assert 0 < rates.wrong("2001:db8::ffff") <= 60
    assert not rates.wrong("2001:db8:0:1::1")
    clock.at += 60
    assert not rates.wrong("2001:db8::1")


def test_addresses_are_counted_in_bounded_memory() -> None:
    clock = Clock()
    rates = Rates(clock)
    for number in range(3 * ADDRESSES):
        rates.wrong(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(rates._addresses._counts) <= ADDRESSES + 1
    assert rates.wrong("192.0.2.1") > 0, "those beyond are counted as one"
    clock.at += 61
    assert not rates.wrong("192.0.2.1")
    assert len(rates._addresses._counts) <= 2


def test_counts_are_of_the_window_that_is_open() -> None:
    clock = Clock()
    counts = Counts(2, clock)
    assert [counts.incr("a", 10), counts.incr("a", 10, 2), counts.get("a"), counts.get_expiry("a")] == [1, 3, 3, 1_010]
    clock.at += 10
    assert [counts.get("a"), counts.incr("a", 10)] == [0, 1]
    assert counts.check()
    counts.clear("a")
    counts.incr("b", 1)
    assert (counts.reset(), counts.get("b")) == (1, 0)


@pytest.mark.parametrize(
    ("address", "network"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::"), ("", "others"), ("unix", "others"), ("::1", "::")],
)
def test_networks_of_addresses(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_secret_of_a_kept_key_is_masked() -> None:
    assert repr(KeySecret(sha256="f" * 64)) == "KeySecret(***, expires_at=None)"
