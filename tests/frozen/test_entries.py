"""Entries are one text for both readers: the store's functions and Python find the same in the frozen bytes."""

from collections.abc import Sequence
from itertools import product
from typing import Any, Final

import msgspec
import pytest
import redis
from frozen.cases import Case, every

from features.store.keys import PlayerKeys, household_key, outbox_key
from models.catalogue.offers import PROMOTIONAL
from service.contacts.entries import ChargingLease, Reservation
from service.players.facts import StoredFact
from service.players.identity import Mark

PLAYER: Final = "{p017}" + "1" * 30
OTHER: Final = "{p017}" + "2" * 30
KEYS: Final = PlayerKeys(PLAYER)
HOUSEHOLD: Final = household_key(OTHER)
NAME: Final = "017-" + "a" * 24
MARKS: Final = {
    f"{OTHER} pending c2VhbGVkLW5hbWU=": Mark(OTHER, "pending", "c2VhbGVkLW5hbWU="),
    f"{OTHER} done c2VhbGVkLW5hbWU=": Mark(OTHER, "done", "c2VhbGVkLW5hbWU="),
}
REGISTERS: Final = {
    b"722952 0 1980-05-17": StoredFact(722_952, 0, "1980-05-17"),
    b"-86400000000 0 1959-12-31": StoredFact(-86_400_000_000, 0, "1959-12-31"),
    b"1793793600000000 0 granted basis=express origin=form": StoredFact(
        1_793_793_600_000_000, 0, "granted basis=express origin=form"
    ),
    b"1793793600000000 1 withdrawn": StoredFact(1_793_793_600_000_000, 1, "withdrawn"),
    b"1793793600000000 1 ": StoredFact(1_793_793_600_000_000, 1, ""),
}


def called(store: redis.Redis, function: str, keys: Sequence[str], *arguments: Any) -> Any:
    return store.fcall(function, len(keys), *keys, *arguments)


def clock(at_us: int) -> tuple[str, str, str]:
    """The clock of a house that stands still at a moment."""
    return "0", str(at_us), "0"


def held(store: redis.Redis, ledger: str = KEYS.ledger) -> Reservation:
    text: Any = store.hget(ledger, NAME)
    return Reservation.loads(text.decode())


def fact(store: redis.Redis, field: str) -> Any:
    return store.hget(KEYS.facts, field)


def shares(store: redis.Redis) -> dict[str, int]:
    found: Any = store.hgetall(KEYS.budget)
    return {name.decode(): int(value) for name, value in found.items()}


@every("contacts")
def test_a_confirm_reads_the_state_and_writes_the_moments(case: Case, store: redis.Redis) -> None:
    one = Reservation.loads(case.raw)
    store.hset(KEYS.ledger, NAME, case.raw)
    now_us = one.valid_until_us
    keys, send_us = [KEYS.facts, KEYS.ledger, KEYS.log], one.send_us + 1
    answer = called(store, "croupier_confirm", keys, *clock(now_us), "0", NAME, b"", "0", send_us)
    told, at = answer[0].decode(), int(answer[1])
    if one.state == "reserved":
        assert (told, at) == ("confirmed", now_us)
        assert held(store) == one._replace(state="confirmed", send_us=send_us, confirmed_us=now_us)
    else:
        assert (told, at) == (one.state, one.confirmed_us if one.state == "confirmed" else now_us)
        assert held(store) == one


@every("contacts")
def test_a_lease_that_ran_out_reads_its_end_and_its_charges(case: Case, store: redis.Redis) -> None:
    one = Reservation.loads(case.raw)
    store.hset(KEYS.ledger, NAME, case.raw)
    keys = [KEYS.expiry, KEYS.budget, KEYS.ledger]
    assert called(store, "croupier_expire", keys, *clock(one.valid_until_us), NAME) == 0
    assert held(store) == one
    ended = called(store, "croupier_expire", keys, *clock(one.valid_until_us + 1), NAME)
    assert ended == (one.state == "reserved")
    assert held(store) == (one._replace(state="expired") if ended else one)
    assert shares(store) == (dict(one.charges) if ended else {})


@every("contacts")
@pytest.mark.parametrize("channel", ["*", "sms", "call"])
def test_a_revocation_reads_what_is_sent_where_under_which_brand(case: Case, channel: str, store: redis.Redis) -> None:
    one = Reservation.loads(case.raw)
    store.hset(KEYS.ledger, NAME, case.raw)
    keys = [KEYS.facts, KEYS.ledger, KEYS.log, KEYS.budget]
    assert called(store, "croupier_assert", keys, *clock(1), PLAYER, channel, "exclusion:main", 1, 1, "on") == 1
    taken = one.state == "reserved" and one.purpose in PROMOTIONAL and channel in {"*", one.channel}
    assert held(store) == (one._replace(state="revoked") if taken else one)
    assert shares(store) == (dict(one.charges) if taken else {})
    log: Any = store.xrange(KEYS.log)
    assert [fields for _, fields in log] == [fields for _, fields in store.xrange(outbox_key(17))]  # type: ignore[union-attr]
    rows = [msgspec.msgpack.decode(fields[b"b"]) for _, fields in log]
    told = [(row["decision_id"], row["offer"], row["channel"], row["brand"]) for row in rows]
    assert told == ([(NAME, one.offer, one.channel, one.brand)] if taken else [])


@every("contacts")
def test_an_outcome_releases_what_was_reserved_or_confirmed(case: Case, store: redis.Redis) -> None:
    one = Reservation.loads(case.raw)
    store.hset(KEYS.ledger, NAME, case.raw)
    keys = [KEYS.facts, KEYS.ledger, KEYS.log, KEYS.budget, KEYS.seen("o-1")]
    called(store, "croupier_ingest", keys, *clock(1), "outcome", b"8 bytes.", 0, b"", NAME, "", "", "", 0)
    released = one.state in {"reserved", "confirmed"}
    assert held(store) == (one._replace(state="released") if released else one)
    assert shares(store) == (dict(one.charges) if released else {})


@every("contacts")
def test_a_reservation_is_charged_and_its_lease_is_found_when_it_runs_out(case: Case, store: redis.Redis) -> None:
    one = Reservation.loads(case.raw)
    for account, amount in one.charges:
        store.hset(KEYS.budget, account, str(amount + 7))
    names = [KEYS.facts, KEYS.ledger, KEYS.log, KEYS.decision(NAME), KEYS.seal, KEYS.recent, KEYS.budget, KEYS.expiry]
    arguments = [*clock(1), "0", "0", b"seal", 60, NAME, b"record", 20, one.dumps(), one.valid_until_us]
    assert called(store, "croupier_reserve", names, *arguments)[0] == b"reserved"
    assert held(store) == one
    assert shares(store) == {account: 7 for account, _ in one.charges}
    members: Any = store.zrange(KEYS.expiry, 0, -1, withscores=True)
    found = [(ChargingLease.loads(member), int(score)) for member, score in members]
    assert found == ([(ChargingLease(KEYS.ledger, NAME), one.valid_until_us)] if one.charges else [])


@every("contacts")
def test_a_household_takes_what_is_confirmed_over_what_it_holds(case: Case, store: redis.Redis) -> None:
    one = Reservation.loads(case.raw)
    first = one._replace(state="reserved", send_us=one.send_us - 1)
    store.hset(HOUSEHOLD, NAME, first.dumps())
    called(store, "croupier_join", [HOUSEHOLD], 0, NAME, case.raw)
    assert held(store, HOUSEHOLD) == (one if one.state == "confirmed" else first)


@pytest.mark.parametrize(("text", "mark"), list(MARKS.items()))
def test_a_mark_is_one_text_in_each_state(text: str, mark: Mark, store: redis.Redis) -> None:
    assert Mark.loads(text) == mark
    assert mark.dumps() == text
    keys = [KEYS.facts, KEYS.ledger, KEYS.log, KEYS.budget]
    store.hset(KEYS.facts, "to", text)
    # While it is pending it may be taken away again, so what is told of the id holds here too.
    assert called(store, "croupier_assert", keys, *clock(1), PLAYER, "", "kyc", 1, 0, "verified") == -1
    assert store.hexists(KEYS.facts, "kyc") == (mark.state == "pending")


def test_a_mark_is_made_and_settled_as_python_reads_it(store: redis.Redis) -> None:
    pending, done = MARKS
    begun: Any = called(store, "croupier_freeze", [KEYS.facts, KEYS.ledger], OTHER, "c2VhbGVkLW5hbWU=")
    assert begun[0].decode() == pending
    called(store, "croupier_settle", [KEYS.facts], pending)
    assert fact(store, "to") == done.encode()


@pytest.mark.parametrize(("raw", "register"), list(REGISTERS.items()))
def test_a_register_is_one_text(raw: bytes, register: StoredFact, store: redis.Redis) -> None:
    assert StoredFact.loads(raw) == register
    assert register.dumps() == raw
    keys = [KEYS.facts, KEYS.ledger, KEYS.log, KEYS.budget]
    assert called(store, "croupier_assert", keys, *clock(1), PLAYER, "", "consent", *register) == 1
    assert fact(store, "consent") == raw


def test_both_readers_let_the_same_register_win(store: redis.Redis) -> None:
    keys = [KEYS.facts, KEYS.ledger, KEYS.log, KEYS.budget]
    for first, second in product(REGISTERS, REGISTERS):
        store.hset(KEYS.facts, "consent", first.decode())
        told = StoredFact.loads(second)
        wins = told > StoredFact.loads(first)
        assert called(store, "croupier_assert", keys, *clock(1), PLAYER, "", "consent", *told) == wins
        assert fact(store, "consent") == (second if wins else first)
