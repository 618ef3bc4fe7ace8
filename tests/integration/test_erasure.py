"""Erasing a player of a running house: nothing readable is left, and what restricts contact goes on holding."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import pytest
from support.deadlines import PATIENT
from support.fault_house import Caller, Serving, World, now, until
from support.keyed_house import calling, silent, under_key
from support.players import adult_events
from support.workers import running

from features.events import moment
from features.read_plan import ReadPlan
from features.store import erasures
from features.store.house_key import FILE
from features.store.keys import ERASURES_OPEN, PlayerKeys
from pipelines.audit.account import account, replayed, shown
from pipelines.audit.period import Period
from pipelines.audit.records import opening_key
from pipelines.audit.releases import Releases
from pipelines.audit.verify import verify
from pipelines.backup.backup import back_up
from pipelines.backup.restore import KeptApart, restore
from pipelines.privacy.erase import erase as by_hand
from pipelines.privacy.export import export
from pipelines.worker.erasures import settle
from pipelines.worker.lake import Lake
from pipelines.worker.process import Worker
from service.decisions.record import load_record
from service.decisions.replay import replay
from service.errors import UnknownPlayerError
from service.players.sealing import seals_of

MARK: Final = "zyzzyva"
"""Part of whatever is personal in these tests, and of nothing else."""
PERSON: Final = {"birth_date": "1990-01-01", "jurisdiction": "GB"}
ALWAYS: Final = Period(0, 4 * 10**15)
REASON: Final = "asked for by letter"


@pytest.fixture
def home(world: World) -> World:
    return under_key(world)


@pytest.fixture
def caller(home: World, tmp_path: Path) -> Iterator[Caller]:
    with calling(home, tmp_path) as made:
        yield made


def keys(world: World, player: str) -> PlayerKeys:
    return PlayerKeys(world.house.player_key(player))


def features(world: World, player: str) -> dict[bytes, bytes]:
    """Stored features of a player, by the fields in Feast's format."""
    held: Any = world.client.hgetall(world._plan.key(keys(world, player).player))  # type: ignore[arg-type]
    return dict(held)


def facts(world: World, player: str) -> dict[str, str]:
    held: Any = world.client.hgetall(keys(world, player).facts)
    return {name.decode(): value.decode() for name, value in held.items()}


def erase(caller: Caller, player: str, reason: str = REASON) -> dict[str, Any]:
    answer = caller._client.post("/v1/erasures", json={"player_id": player, "reason": reason})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def everything(world: World) -> dict[str, bytes]:
    """Every file of the house, and every key of its store with its content."""
    found = {str(file): file.read_bytes() for file in world.home.rglob("*") if file.is_file()}
    for key in world.client.scan_iter("*"):
        kind: Any = world.client.type(key)
        read: Any = {
            b"string": lambda key=key: world.client.get(key),
            b"hash": lambda key=key: world.client.hgetall(key),
            b"list": lambda key=key: world.client.lrange(key, 0, -1),
            b"set": lambda key=key: world.client.smembers(key),
            b"zset": lambda key=key: world.client.zrange(key, 0, -1),
            b"stream": lambda key=key: world.client.xrange(key),
        }
        found[key.decode()] = key + repr(read[kind]()).encode()
    return found


def with_marks(world: World) -> list[str]:
    return [name for name, content in everything(world).items() if MARK.encode() in content]


def verified(world: World) -> Any:
    return verify(world.client, world.lake, world.home, ALWAYS, silent)


def flushed(world: World) -> None:
    world.apply()
    Lake(world.client, world.lake).flush()


def welcome(caller: Caller, player: str) -> None:
    """Make a player known, in events whose ids name nobody: ids of events are not personal, and stay."""
    for event in adult_events(player):
        caller.event(player, **{**event, "event_id": caller.fresh("welcome"), "occurred_at": just_now()})


def just_now() -> str:
    """This moment, to the microsecond: what is told after an erasure must not have happened before it."""
    return datetime.now(UTC).isoformat()


def told(caller: Caller, player: str) -> None:
    """Everything that is personal, of which the store keeps some as it is."""
    welcome(caller, player)
    caller.event(player, type="registered", birth_date="1990-02-03", jurisdiction="GB", time_zone="Europe/London")
    caller.event(player, type="consent_changed", channel="sms", granted=True, origin="signup")
    caller.event(player, type="deposit", amount_minor=5_000, status="approved", method="card")
    caller.event(player, type="support_contact", tags=["complaint"])


# --- Nothing is left


def test_nothing_readable_of_a_player_is_anywhere_afterwards(home: World, caller: Caller, tmp_path: Path) -> None:
    player, device = f"{MARK}-1", f"{MARK}-device"
    told(caller, player)
    caller.event(player, type="identify", anonymous_id=device)
    flushed(home)
    decision = caller.unless_left_alone(player, request_id="once", explain=True, context={"page": MARK}).json()
    linked = caller.unless_left_alone(device, explain=True).json()
    flushed(home)
    assert caller.get(f"/v1/decisions/{decision['decision_id']}").json()["player_id"] == player
    done = erase(caller, player)
    assert done["ids"] == 2
    assert done["facts_removed"] > 5
    assert settle(home.client, home.server.url, home.home, silent) == 1
    flushed(home)
    assert with_marks(home) == []
    held = facts(home, player)
    assert set(held) == {"v", "erased", "link:" + home.house.player_key(device), "complaint", "complained"}
    assert set(features(home, player)) == {b"_applied"}
    for one in (decision, linked):
        assert caller.get(f"/v1/decisions/{one['decision_id']}").json()["player_id"] is None
        found = account(home.client, home.lake, home.home, one["decision_id"])
        assert shown(home.client, found)["erased"] is True
        assert replayed(found)["verdict"] == "erased"
    back_up(home.home, tmp_path.parent / f"{tmp_path.name}-backup", silent)
    for file in (tmp_path.parent / f"{tmp_path.name}-backup").rglob("*"):
        assert file.is_dir() or MARK.encode() not in file.read_bytes(), file
    result = verified(home)
    assert (result.chain_ok, result.faults, result.erased, result.checked) == (True, 0, 2, 2)


def test_the_player_who_returns_begins_anew_and_old_and_new_records_verify(home: World, caller: Caller) -> None:
    told(caller, "back")
    flushed(home)
    caller.unless_left_alone("back", request_id="before")
    erase(caller, "back")
    silent_answer = caller.unless_left_alone("back").json()
    assert silent_answer["action"] == "NO_CONTACT"
    welcome(caller, "back")
    flushed(home)
    after = caller.unless_left_alone("back", request_id="after", explain=True).json()
    assert caller.get(f"/v1/decisions/{after['decision_id']}").json()["player_id"] == "back"
    flushed(home)
    result = verified(home)
    assert (result.chain_ok, result.faults, result.differing) == (True, 0, 0)
    assert result.erased == 1
    assert result.reproduced == result.checked - 1


def test_a_changed_record_of_an_erased_player_is_not_taken_for_an_erased_one(home: World, caller: Caller) -> None:
    told(caller, "p")
    flushed(home)
    erase(caller, "p")
    after = caller.unless_left_alone("p").json()["decision_id"]
    place: Any = home.client.get(f"decision:{{p{after[:3]}}}{after}")
    log = f"log:{{p{after[:3]}}}"
    ((stream, entry),) = [one for one in home.client.xrange(log) if one[1][b"k"] == b"decision"]  # type: ignore[union-attr]
    assert place.startswith(stream)
    record = load_record(entry[b"b"])
    at = entry[b"b"].index(record.sealed) + 20
    changed = entry[b"b"][:at] + bytes([entry[b"b"][at] ^ 1]) + entry[b"b"][at + 1 :]
    seals = seals_of(home.house, home.home)
    seal: Any = home.client.get(keys(home, "p").seal)
    erased: Any = home.client.hget(keys(home, "p").facts, "erased")
    key = opening_key(load_record(changed), seal, erased, seals)
    found = replay(load_record(changed), key, Releases(home.client, home.home).made_with(record))
    assert found.verdict == "differs"
    assert [one.field for one in found.differences][:1] == ["sealed"]


# --- What stays


RESTRICTING: Final[dict[str, dict[str, Any]]] = {
    "self_excluded": {"scope": "all"},
    "time_out": {"until": "2099-01-01T00:00:00Z"},
    "account_closed": {},
    "objection_changed": {"objects": True},
    "consent_changed": {"channel": "sms", "granted": False},
    "harm_scored": {"source": "vendor", "level": "strong"},
}


@pytest.mark.parametrize("kind", RESTRICTING)
def test_what_restricts_contact_stays_whether_it_was_told_before_or_comes_late(
    kind: str, home: World, caller: Caller
) -> None:
    for player in ("before", "late", "elsewhere"):
        welcome(caller, player)
        flushed(home)
    at = now()
    assert caller.event("before", type=kind, occurred_at=at, **RESTRICTING[kind]).status_code == 200
    caller.event("elsewhere", type="identify", anonymous_id="device")
    assert caller.event("device", type=kind, **RESTRICTING[kind]).status_code == 200
    held = [name for name, value in facts(home, "before").items() if name != "v"]
    for player in ("before", "late", "elsewhere"):
        erase(caller, player)
    assert caller.event("late", type=kind, occurred_at=at, **RESTRICTING[kind]).status_code == 200
    assert set(facts(home, "before")) - {"v", "erased"} <= set(held)
    assert len(facts(home, "before")) > 2
    assert set(facts(home, "late")) == set(facts(home, "before"))
    assert len([one for one in facts(home, "elsewhere") if one.startswith("~")]) == len(facts(home, "before")) - 2


def test_facts_and_behaviour_of_before_that_come_late_do_not_come_back(home: World, caller: Caller) -> None:
    at = now()
    welcome(caller, "p")
    erase(caller, "p")
    caller.event("p", type="registered", occurred_at=at, birth_date="1990-01-01", jurisdiction="GB")
    caller.event("p", type="kyc_verified", occurred_at=at)
    caller.event("p", type="consent_changed", occurred_at=at, channel="email", granted=True)
    caller.event("p", type="deposit", occurred_at=at, amount_minor=1_000, status="approved", method="card")
    flushed(home)
    assert set(facts(home, "p")) == {"v", "erased"}
    assert set(features(home, "p")) == {b"_applied"}
    assert caller.get("/v1/players/p").status_code == 404
    caller.event("p", type="registered", occurred_at=just_now(), birth_date="1990-01-01", jurisdiction="GB")
    caller.event("p", type="deposit", occurred_at=just_now(), amount_minor=1_000, status="approved", method="card")
    flushed(home)
    assert {"opened", "birth_date", "jurisdiction"} <= set(facts(home, "p"))
    assert len(features(home, "p")) > 10


def test_an_erased_child_stays_a_child(home: World, caller: Caller) -> None:
    born = f"{datetime.now(UTC).year - 15}-06-01"
    caller.event("child", type="registered", birth_date=born, jurisdiction="GB")
    erase(caller, "child")
    assert [name for name in facts(home, "child") if name == "birth_date"]
    caller.event("child", type="registered", birth_date="1980-01-01", jurisdiction="GB")
    assert facts(home, "child")["birth_date"].endswith(born), "of dates that were merely stated the youngest holds"


def test_open_leases_are_revoked_and_a_confirmed_contact_goes_on_counting(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    home.apply()
    confirmed = caller.contact("p", channels=["push", "in_app"])
    assert caller.confirm(confirmed).status_code == 200
    open_lease = caller.contact("p", channels=["push", "in_app"])
    done = erase(caller, "p")
    assert done["leases_revoked"] == 1
    assert caller.confirm(open_lease).json()["code"] == "revoked"
    ledger: Any = home.client.hgetall(keys(home, "p").ledger)
    assert {confirmed.encode(), open_lease.encode()} <= set(ledger)


# --- Again, unknown, linked, broken off


def test_whoever_is_erased_twice_is_erased_once_unless_something_was_told_since(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    caller.event("p", type="self_excluded", scope="all")
    caller.event("p", type="identify", anonymous_id="d")
    first = erase(caller, "p")
    assert (first["facts_removed"] > 3, first["already"]) == (True, False)
    settle(home.client, home.server.url, home.home, silent)
    before = everything(home)
    for name in ("p", "d"):
        again = erase(caller, name)
        assert (again["facts_removed"], again["leases_revoked"], again["ids"]) == (0, 0, 2)
        assert (again["already"], again["erased_at"]) == (True, first["erased_at"])
    assert settle(home.client, home.server.url, home.home, silent) == 0
    assert {name: one for name, one in everything(home).items() if "erasures" in name} == {
        name: one for name, one in before.items() if "erasures" in name
    }
    for count, decides in enumerate((True, False), 2):
        assert (caller.ask("p") if decides else caller.event("d", type="login")).status_code == 200
        assert not erase(caller, "p")["already"]
        assert len(erasures.journal(home.client)) == count
        assert erase(caller, "p")["already"]


def test_versions_go_on_counting_over_erasures(home: World, caller: Caller) -> None:
    versions = list[int]()
    for _ in range(2):
        welcome(caller, "p")
        versions.append(int(facts(home, "p")["v"]))
        erase(caller, "p")
        versions.append(int(facts(home, "p")["v"]))
    assert versions == sorted(set(versions))


def test_an_id_of_which_nothing_is_held_is_neither_erased_nor_exported(home: World, caller: Caller) -> None:
    answer = caller._client.post("/v1/erasures", json={"player_id": "typo", "reason": REASON})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_player")
    for command in (["erase", "-", "--reason", REASON], ["export", "-"]):
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *command],
            env=os.environ | {"CROUPIER_HOME": str(home.home), "CROUPIER_STORE": home.server.url},
            input="typo\n",
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "nothing is known of this player" in done.stderr
    player = keys(home, "typo").player
    assert [name for name in everything(home) if player in name or "erasures" in name] == []
    caller.ask("asked-only")
    assert not erase(caller, "asked-only")["already"], "of whom something was decided a record is held"


@pytest.mark.parametrize("reason", ["as D-1 wrote", "letter of 'd-1'.", "see crm/d-1,", "(d-1)", "d-1;p-2"])
def test_a_reason_that_names_a_linked_id_is_refused(reason: str, home: World, caller: Caller) -> None:
    welcome(caller, "p")
    for device in ("d-1", "d.2"):
        caller.event("p", type="identify", anonymous_id=device)
    answer = caller._client.post("/v1/erasures", json={"player_id": "p", "reason": reason})
    assert (answer.status_code, answer.json()["code"]) == (422, "reason_names_player")
    assert not home.client.exists("croupier:erasures")


def test_a_linked_id_is_answered_after_its_player_was_erased_by_either_id(home: World, caller: Caller) -> None:
    for player, device, by in (("p1", "d1", "p1"), ("p2", "d2", "d2")):
        welcome(caller, player)
        caller.event(player, type="identify", anonymous_id=device)
        erase(caller, by)
        for name in (player, device):
            answer = caller.ask(name, request_id="r")
            assert (answer.status_code, answer.json()["recorded"]) == (200, True), answer.text
        caller.event(device, type="login")
        assert caller.event(device, type="self_excluded").status_code == 200
        assert [name for name in facts(home, player) if name.startswith("~") and "exclusion" in name]
    flushed(home)
    assert verified(home).faults == 0


def test_what_broke_off_is_ended_by_a_worker(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    caller.event("p", type="identify", anonymous_id="d")
    ids = (keys(home, "d").player, keys(home, "p").player)
    begun = erasures.Erasure(player=ids[1], ids=ids, begun_us=1, by="somebody", reason=REASON)
    erasures.note(home.client, begun)
    with running(Worker(home.server.url, home.lake)):
        until(lambda: all(one.rewritten for one in erasures.journal(home.client)))
    assert set(facts(home, "p")) == {"v", "erased", f"link:{ids[0]}"}
    assert "erased" in facts(home, "d")
    (kept,) = erasures.read(home.home / erasures.FILE).erasures
    assert (kept.player, kept.reason, kept.erased_us is not None) == (ids[1], REASON, True)
    assert (home.home / erasures.FILE).stat().st_mode & 0o077 == 0


def test_where_the_store_writes_no_file_anew_that_is_said_and_asked_again_later(
    home: World, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    welcome(caller, "p")
    monkeypatch.setenv("CROUPIER_HOME", str(home.home))
    kept: Any = home.client.config_get("appendonly")
    home.client.config_set("appendonly", "no")
    try:
        done = by_hand(home.client, home.server.url, home.home, "p", "ann", REASON, silent)
        assert not done.rewritten
        assert [one.rewritten for one in erasures.journal(home.client)] == [False]
        assert [one.by for one in erasures.read(home.home / erasures.FILE).erasures] == ["ann"]
        assert settle(home.client, home.server.url, home.home, silent) == 0, "not at every flush"
    finally:
        home.client.config_set("appendonly", "yes")
    names: Any = home.client.zrange(ERASURES_OPEN, 0, -1)
    home.client.zadd(ERASURES_OPEN, dict.fromkeys(names, 0))
    assert settle(home.client, home.server.url, home.home, silent) == 1
    assert [one.rewritten for one in erasures.journal(home.client)] == [True]
    assert home.client.zcard(ERASURES_OPEN) == 0
    assert kept["appendonly"] == "yes"


def test_who_erased_is_the_key_over_http_and_is_found_among_many_without_reading_them(
    home: World, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("p", "q"):
        welcome(caller, name)
        erase(caller, name)
    assert {one.by for one in erasures.journal(home.client)} == {"key environment"}
    assert settle(home.client, home.server.url, home.home, silent) == 2
    monkeypatch.setattr(erasures, "journal", lambda _: pytest.fail("the whole journal was read"))
    assert settle(home.client, home.server.url, home.home, silent) == 0


def test_erasures_that_an_earlier_build_wrote_down_are_found_by_a_worker(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    erase(caller, "p")
    home.client.delete(ERASURES_OPEN)
    with running(Worker(home.server.url, home.lake)):
        until(lambda: all(one.rewritten for one in erasures.journal(home.client)))


def test_a_worker_outlives_a_file_that_cannot_be_written_and_ends_erasures_when_it_can(
    home: World, caller: Caller
) -> None:
    file = home.home / erasures.FILE
    file.mkdir()
    welcome(caller, "p")
    erase(caller, "p")
    worker = Worker(home.server.url, home.lake)
    for _ in range(2):
        worker._settle()
    assert not erasures.journal(home.client)[0].rewritten
    file.rmdir()
    file.write_bytes(b'{"player":"torn')
    worker._settle()
    assert [one.rewritten for one in erasures.journal(home.client)] == [True]
    assert len(erasures.read(file).erasures) == 1


def test_a_reason_that_names_the_player_is_refused(home: World, caller: Caller) -> None:
    body = {"player_id": "p-77", "reason": "P-77 asked for it"}
    answer = caller._client.post("/v1/erasures", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "reason_names_player")
    assert not home.client.exists("croupier:erasures")


# --- At once


@contextmanager
def busy(socket: Path, player: str) -> Iterator[list[Any]]:
    """Callers who ask and tell of a player without a pause while the block runs; what they were answered."""
    ending, answers = threading.Event(), list[Any]()

    def go_on() -> None:
        with Caller(socket) as one:
            while not ending.is_set():
                answers.append(one.ask(player))
                deposit = {"amount_minor": 100, "status": "approved", "method": "card"}
                answers.append(one.event(player, type="deposit", event_id=token_hex(8), **deposit))
                answers.append(one.event(player, type="registered", event_id=token_hex(8), **PERSON))

    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(go_on) for _ in range(4)]
        try:
            yield answers
        finally:
            ending.set()
        for one in work:
            one.result()


def test_an_erasure_amid_decisions_and_events_leaves_every_record_readable_or_erased(
    home: World, tmp_path: Path
) -> None:
    environment = {"CROUPIER_HOME": str(home.home), **PATIENT}
    with (
        Serving(home.server.url, tmp_path, **environment) as serving,
        Caller(serving.socket) as caller,
        running(Worker(home.server.url, home.lake)),
    ):
        welcome(caller, "p")
        with busy(serving.socket, "p") as answers:
            for _ in range(20):
                seen = len(answers)
                until(lambda seen=seen: len(answers) > seen + 15)  # type: ignore[misc]
                erase(caller, "p")
    assert {answer.status_code for answer in answers} <= {200, 503}
    flushed(home)
    result = verified(home)
    assert (result.chain_ok, result.faults, result.differing) == (True, 0, 0), result.first_fault
    assert result.erased > 0
    assert result.checked >= sum(answer.status_code == 200 and "decision_id" in answer.json() for answer in answers)


def test_features_read_before_an_erasure_are_not_written_after_it(home: World, caller: Caller) -> None:
    welcome(caller, "p")
    home.apply()
    caller.event("p", type="deposit", amount_minor=100, status="approved", method="card")

    def step(name: str) -> None:
        if name == "apply" and "erased" not in facts(home, "p"):
            erase(caller, "p")
            caller.event(
                "p", type="deposit", occurred_at=just_now(), amount_minor=700, status="approved", method="card"
            )

    consumer = home.consumer(step)
    consumer.renew()
    while consumer.step(1):
        pass
    consumer.release()
    home.apply()
    stored = features(home, "p")
    row = home._plan.decode([stored.get(name) for name in home._plan.fields])
    named = dict(zip((one.name for one in home._plan.features), row.values, strict=False))
    assert named["deposit_count"] == 1


# --- By hand


def test_the_command_erases_and_keeps_the_id_out_of_what_it_says(home: World, caller: Caller) -> None:
    welcome(caller, f"{MARK}-9")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "erase", "-", "--reason", REASON, "--json"],
        env=os.environ | {"CROUPIER_HOME": str(home.home), "CROUPIER_STORE": home.server.url},
        input=f"{MARK}-9\n",
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["ids"], told["rewritten"]) == (1, True)
    assert MARK not in done.stdout + done.stderr
    assert with_marks(home) == []
    assert moment(erasures.journal(home.client)[0].erased_us or 0).isoformat() == told["erased_at"]


# --- Brought back


def test_whoever_was_erased_after_a_backup_is_erased_in_what_is_restored_of_it(
    home: World, caller: Caller, plan: ReadPlan, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("elsewhere")
    for player in ("gone", "there"):
        welcome(caller, player)
    flushed(home)
    before = {player: caller.unless_left_alone(player).json()["decision_id"] for player in ("gone", "there")}
    back_up(home.home, place / "backup", silent)
    erase(caller, "gone")
    settle(home.client, home.server.url, home.home, silent)
    apart = KeptApart(home.home / FILE, home.home / erasures.FILE)
    restore(place / "backup", place / "new", "somebody", datetime.now(UTC), silent, apart)
    assert (place / "new" / erasures.FILE).exists()
    with World(place / "new", plan) as again:
        assert "erased" in facts(again, "gone")
        assert "erased" not in facts(again, "there")
        found = {name: account(again.client, again.lake, again.home, one).seal for name, one in before.items()}
        assert found["gone"] is None
        assert found["there"] is not None


def test_a_restore_without_the_file_of_erasures_or_with_a_torn_one_says_so_and_goes_on(
    home: World, caller: Caller, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("elsewhere")
    welcome(caller, "gone")
    back_up(home.home, place / "backup", silent)
    erase(caller, "gone")
    settle(home.client, home.server.url, home.home, silent)
    torn = place / "erasures"
    torn.write_bytes((home.home / erasures.FILE).read_bytes() + b'{"player":"{p0')
    command = [sys.executable, "-m", "pipelines", "restore", str(place / "backup"), "--json"]
    command += ["--house-key", str(home.home / FILE)]
    for name, file, said in (("none", None, "no file `erasures`"), ("torn", torn, "was torn off")):
        done = subprocess.run(
            [*command, *(["--erasures", str(file)] if file else []), "--home", str(place / name)],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        (sentence,) = json.loads(done.stdout)["warnings"]
        assert said in sentence
        assert f"croupier: warning: {sentence}" in done.stderr.splitlines()
    assert len(erasures.read(place / "torn" / erasures.FILE).erasures) == 1


# --- Everything that is held


def test_everything_of_a_player_is_exported_by_any_id_and_nothing_personal_after_an_erasure(
    home: World, caller: Caller
) -> None:
    player, device = f"{MARK}-3", f"{MARK}-phone"
    told(caller, player)
    caller.event(player, type="identify", anonymous_id=device)
    flushed(home)
    in_lake = caller.unless_left_alone(player, request_id="once").json()["decision_id"]
    flushed(home)
    in_log = caller.unless_left_alone(device).json()["decision_id"]
    found = export(home.client, home.lake, home.home, device)
    assert json.loads(json.dumps(found)) == found
    assert {one["decision_id"]: one["personal"]["player_id"] for one in found["decisions"]} == {
        in_lake: player,
        in_log: device,
    }
    assert {"birth_date": "1990-02-03"} in [one.get("personal") for one in found["events"]]
    assert {one["fact"]: one["says"] for one in found["facts"]}["jurisdiction"] == "GB"
    behaviour = {(one["of"], one["feature"]): one["value"] for one in found["features"]}
    assert behaviour[keys(home, player).player, "deposit_count"] == 3
    with pytest.raises(UnknownPlayerError):
        export(home.client, home.lake, home.home, "another")
    erase(caller, player)
    after = export(home.client, home.lake, home.home, player)
    assert MARK not in json.dumps({**after, "asked_for": ""})
    assert [one["reason"] for one in after["erasures"]] == [REASON]
