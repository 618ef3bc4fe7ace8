"""Webhooks about revoked leases over real sockets and a real store: delivery, retries, refusals and failures."""

import asyncio
import json
import ssl
import threading
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import redis
import structlog
from aiohttp import web
from conftest import Opened
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook
from support.fault_house import PATIENCE, until
from support.players import adult_events, event, tell
from support.workers import running

from features.store.deployment import House
from features.store.keys import WEBHOOKS_GONE, outbox_key, outbox_state_key, tag, undelivered_key
from features.store.restored import Restored, mark
from features.store.server import Server
from pipelines import __main__ as cli
from pipelines.backup.restore import accept
from pipelines.worker import dispatcher as courier_file
from pipelines.worker.dispatcher import Dispatcher
from pipelines.worker.outbox import Outbox
from pipelines.worker.process import Worker
from pipelines.worker.webhooks import Webhooks
from service.delivery.http_client import AT_ONCE

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PARTITION = 17
OUTBOX = outbox_key(PARTITION)
STATE = outbox_state_key(PARTITION)
UNDELIVERED = undelivered_key(PARTITION)


class Got(NamedTuple):
    """A request that came in."""

    path: str
    headers: dict[str, str]
    text: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def decision(self) -> str:
        return str(self.verified()["data"]["decision_id"])

    def verified(self) -> Any:
        return Webhook(SECRET).verify(self.text, self.headers)


Reply = Callable[[int], Awaitable[web.Response]]


def always(status: int, **headers: str) -> Reply:
    """Answers each request the same."""

    async def reply(_: int) -> web.Response:
        return web.Response(status=status, headers=headers)

    return reply


def first(*statuses: int) -> Reply:
    """Answers the first requests so, the rest with 200."""

    async def reply(number: int) -> web.Response:
        return web.Response(status=statuses[number] if number < len(statuses) else 200)

    return reply


async def never(_: int) -> web.Response:
    """Does not answer."""
    await asyncio.Event().wait()
    raise AssertionError


class Senders:
    """A real server on loopback: what it answers by path, and what it got."""

    def __init__(self, secured: ssl.SSLContext | None = None) -> None:
        self._secured = secured
        self.replies: dict[str, Reply] = defaultdict(lambda: always(200))
        self.got: list[Got] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready: Future[int] = Future()
        self._thread = threading.Thread(target=self._run)

    async def _answer(self, request: web.Request) -> web.Response:
        got = Got(request.path, dict(request.headers), await request.text())
        number = len(self.at(request.path))
        self.got.append(got)
        return await self.replies[request.path](number)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._secured).start()
        self._ending = asyncio.Event()
        self._ready.set_result(runner.addresses[0][1])
        await self._ending.wait()
        await runner.cleanup()

    def at(self, path: str) -> list[Got]:
        return [one for one in self.got if one.path == path]

    def start(self) -> None:
        self._thread.start()
        self.port = self._ready.result(PATIENCE)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    def told(self, *names: str, **more: Any) -> Webhooks:
        """Subscriptions of endpoints, each at the path of its name."""
        ends = [
            {"id": name, "url": f"http://127.0.0.1:{self.port}/{name}", "secret_env": "SENDER_SECRET"} for name in names
        ]
        whole = {"endpoints": ends, "allow_private": ["127.0.0.0/8"], "retry_seconds": [0, 0, 0], **more}
        return Webhooks.model_validate(whole)


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Senders]:
    monkeypatch.setenv("SENDER_SECRET", SECRET)
    running = Senders()
    running.start()
    yield running
    running.stop()


@contextmanager
def working(url: str, webhooks: Webhooks, partitions: tuple[int, ...] = (PARTITION,)) -> Iterator[Dispatcher]:
    """A courier in a thread, which must end well."""
    courier, ended = Dispatcher(url, webhooks, lambda: partitions), Future[None]()

    def work() -> None:
        try:
            courier.run()
            ended.set_result(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the test
            ended.set_exception(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield courier
    finally:
        courier.stop()
        thread.join()
        ended.result()


def revoke(store: redis.Redis, decision: str, **more: str) -> None:
    """Put into the outbox what the ledger puts there."""
    row = {"player": "{p017}secret", "decision_id": decision, "type": "revoked", "outcome_id": f"revoked/{decision}"}
    row |= {"brand": "main", "channel": "sms", "offer": "free_spins"} | more
    fields: dict[Any, Any] = {"k": "revocation", "t": 1_700_000_000_000_000, "z": "", "b": msgspec.msgpack.encode(row)}
    store.xadd(OUTBOX, fields)


def settled(store: redis.Redis) -> bool:
    return not store.xlen(OUTBOX) and not store.exists(STATE)


def undelivered(store: redis.Redis) -> list[dict[bytes, bytes]]:
    entries: Any = store.xrange(UNDELIVERED)
    return [fields for _, fields in entries]


async def test_a_self_exclusion_is_told_to_senders_signed_and_without_the_player(
    opened: Opened, senders: Senders, server: Server, house: House, store: redis.Redis, lake: Path
) -> None:
    with running(Worker(server.url, lake, None, senders.told("crm", "mail"))):
        async with opened() as client:
            position = await tell(client, adult_events("p1"))
            asked = {"player_id": "p1", "after": position}
            for _ in range(100):
                decision = (await client.post("/v1/decisions", json=asked)).json()
                if decision["action"] != "NO_CONTACT":
                    break
            await tell(client, [event("p1", "self_excluded")])
        outbox = f"outbox:{tag(int(decision['decision_id'][:3]))}"
        until(lambda: not store.xlen(outbox))
    assert sorted(one.path for one in senders.got if one.decision == decision["decision_id"]) == ["/crm", "/mail"]
    for one in senders.got:
        told = one.verified()
        assert told["type"] == "lease.revoked"
        assert told["data"].keys() == {"decision_id", "brand", "channel", "offer", "revoked_at"}
        assert house.player_key("p1") not in one.text
        assert "p1" not in told["data"].values()
    assert len({one.id for one in senders.got}) == len(senders.got)


def test_a_restored_house_tells_nobody_and_forgets_nothing_until_somebody_accepts_it(
    senders: Senders, server: Server, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Restored(at="2026-11-29T00:00:00+00:00", by="ann", backup="/backups/monday", taken_at="2026-11-28")
    mark(store, told)
    monkeypatch.setattr(courier_file, "TRIM_SECONDS", 0.01)
    revoke(store, "017-a")
    looks: list[bool] = []
    is_held_back = Outbox.is_held_back

    def look(outbox: Outbox) -> bool:
        looks.append(is_held_back(outbox))
        return looks[-1]

    monkeypatch.setattr(Outbox, "is_held_back", look)
    for webhooks in (senders.told("crm"), Webhooks()):
        looks.clear()
        with working(server.url, webhooks):
            until(lambda: len(looks) > 2)
        assert all(looks)
        assert (senders.got, store.xlen(OUTBOX)) == ([], 1)
    with working(server.url, senders.told("crm")):
        accept(store, "ann", "the former house is gone", datetime.now(UTC))
        until(lambda: settled(store))
    assert [one.decision for one in senders.got] == ["017-a"]


def test_failed_attempts_are_repeated_under_the_same_id_until_one_succeeds(
    senders: Senders, server: Server, store: redis.Redis
) -> None:
    senders.replies["/crm"] = first(500, 404)
    with working(server.url, senders.told("crm")):
        revoke(store, "017-a")
        until(lambda: len(senders.got) == 3 and settled(store))
    assert {one.id for one in senders.got} == {"revoked_017-a_crm"}
    assert len({one.text for one in senders.got}) == 1
    for one in senders.got:
        one.verified()
    assert not undelivered(store)


def test_a_hanging_endpoint_holds_up_neither_others_nor_new_entries(
    senders: Senders, server: Server, store: redis.Redis
) -> None:
    senders.replies["/dead"] = never
    with working(server.url, senders.told("dead", "crm")):
        for number in range(30):
            revoke(store, f"017-{number}")
        until(lambda: len(senders.at("/crm")) == 30)
        revoke(store, "017-late")
        until(lambda: len(senders.at("/crm")) == 31)
        assert len(senders.at("/dead")) == AT_ONCE
        assert store.xlen(OUTBOX) == 31
    assert not undelivered(store)


def test_after_a_restart_it_goes_on_where_it_was(senders: Senders, server: Server, store: redis.Redis) -> None:
    senders.replies["/crm"] = always(500)
    later = senders.told("crm", "mail", retry_seconds=[0, 3_600])
    with working(server.url, later):
        revoke(store, "017-a")
        until(lambda: sorted(one[:2] for one in progress(store)) == [b"2 ", b"do"])
    assert store.xlen(OUTBOX) == 1
    with working(server.url, later):
        revoke(store, "017-b")
        until(lambda: [one.decision for one in senders.at("/mail")] == ["017-a", "017-b"])
        assert "017-a" not in [one.decision for one in senders.at("/crm")[2:]]
    hour_passed(store)
    senders.replies["/crm"] = always(200)
    with working(server.url, later):
        until(lambda: settled(store))
    assert Counter(one.decision for one in senders.at("/mail")) == {"017-a": 1, "017-b": 1}
    assert senders.at("/crm")[-1].id in {"revoked_017-a_crm", "revoked_017-b_crm"}
    assert not undelivered(store)


def progress(store: redis.Redis) -> list[bytes]:
    held: Any = store.hvals(STATE)
    return list(held)


def hour_passed(store: redis.Redis) -> None:
    """Make everything that waits due."""
    held: Any = store.hgetall(STATE)
    for name, text in held.items():
        if text != b"done":
            store.hset(STATE, name, text.split()[0] + b" 0")


def test_an_answer_that_was_lost_is_asked_for_again_and_known_by_its_id(
    senders: Senders, server: Server, store: redis.Redis
) -> None:
    """Ended while a request was under way: the entry is still there, the next courier sends it again."""
    senders.replies["/crm"] = never
    with working(server.url, senders.told("crm")) as courier:
        revoke(store, "017-a")
        until(lambda: senders.got)
        courier.stop()
    assert store.xlen(OUTBOX) == 1
    senders.replies["/crm"] = always(204)
    with working(server.url, senders.told("crm")):
        until(lambda: settled(store))
    assert [one.id for one in senders.got] == ["revoked_017-a_crm"] * 2


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("call", range(6))
def test_wherever_it_dies_nothing_is_lost(
    senders: Senders,
    server: Server,
    store: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    call: int,
    written: bool,  # noqa: FBT001 - a case of the table
) -> None:
    """Three entries for two endpoints, of which one fails at first; it dies just before or just after a write."""
    senders.replies["/crm"] = first(500)
    calls, whole = iter(range(1_000)), Outbox.note

    def note(self: Outbox, *arguments: Any) -> None:
        dies = next(calls) == call
        if written or not dies:
            whole(self, *arguments)
        if dies:
            raise redis.ConnectionError("died")

    def story() -> None:
        with working(server.url, senders.told("crm", "mail")) as courier:
            until(lambda: courier._store._shutdown)

    names = ["017-a", "017-b", "017-c"]
    for name in names:
        revoke(store, name)
    monkeypatch.setattr(Outbox, "note", note)
    with pytest.raises(redis.ConnectionError):
        story()
    monkeypatch.setattr(Outbox, "note", whole)
    with working(server.url, senders.told("crm", "mail")):
        until(lambda: settled(store))
    for path, failed in (("/crm", 1), ("/mail", 0)):
        assert {one.decision for one in senders.at(path)[failed:]} == set(names)
    assert not undelivered(store)


def test_a_partition_that_another_worker_took_is_let_alone(
    senders: Senders, server: Server, store: redis.Redis
) -> None:
    mine = {PARTITION}
    senders.replies["/crm"] = always(500)
    courier = Dispatcher(server.url, senders.told("crm", retry_seconds=[0] * 10_000), lambda: tuple(mine))
    thread = threading.Thread(target=courier.run)
    thread.start()
    revoke(store, "017-a")
    until(lambda: senders.got)
    mine.clear()
    until(lambda: not courier._entries and not courier._tasks)
    revoke(store, "017-b")
    seen = courier._clock
    until(lambda: courier._clock[1] > seen[1] + 2 * courier_file.LOOK_SECONDS)
    courier.stop()
    thread.join()
    assert {one.decision for one in senders.got} == {"017-a"}
    senders.replies["/crm"] = always(200)
    with working(server.url, senders.told("crm")):
        until(lambda: settled(store))
    assert {one.decision for one in senders.got} == {"017-a", "017-b"}


def test_two_couriers_at_once_deliver_at_worst_twice(senders: Senders, server: Server, store: redis.Redis) -> None:
    for number in range(40):
        revoke(store, f"017-{number}")
    with working(server.url, senders.told("crm")), working(server.url, senders.told("crm")):
        until(lambda: not store.xlen(OUTBOX))
    counted = Counter(one.decision for one in senders.got)
    assert len(counted) == 40
    assert max(counted.values()) <= 2
    with working(server.url, senders.told("crm")):
        until(lambda: settled(store))


def test_progress_of_entries_that_are_gone_is_swept_away(senders: Senders, server: Server, store: redis.Redis) -> None:
    store.hset(STATE, "1-1 crm", "3 0")
    with working(server.url, senders.told("crm")):
        until(lambda: not store.exists(STATE))


def test_a_redirect_is_not_followed(senders: Senders, server: Server, store: redis.Redis) -> None:
    senders.replies["/crm"] = always(307, Location=f"http://127.0.0.1:{senders.port}/elsewhere")
    with working(server.url, senders.told("crm", retry_seconds=[0])):
        revoke(store, "017-a")
        until(lambda: settled(store))
    assert [one.path for one in senders.got] == ["/crm", "/crm"]
    assert undelivered(store)[0][b"error"] == b"answered 307"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_private_address_is_refused_unless_it_is_allowed(
    senders: Senders, server: Server, store: redis.Redis, host: str
) -> None:
    open_ = senders.told("crm", retry_seconds=[]).model_dump(mode="json")
    open_["endpoints"][0]["url"] = f"http://{host}:{senders.port}/crm"
    with working(server.url, Webhooks.model_validate(open_ | {"allow_private": ["10.0.0.0/8"]})):
        revoke(store, "017-a")
        until(lambda: settled(store))
    assert not senders.got
    (dead,) = undelivered(store)
    assert b"is no public address, and allow_private does not name it" in dead[b"error"]
    with working(server.url, Webhooks.model_validate(open_ | {"allow_private": ["127.0.0.0/8", "::1/128"]})):
        revoke(store, "017-b")
        until(lambda: settled(store))
    assert [one.decision for one in senders.got] == ["017-b"]


def test_gone_disables_an_endpoint_until_somebody_enables_it(
    senders: Senders,
    server: Server,
    store: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    senders.replies["/crm"] = first(410)
    told = senders.told("crm", "mail")
    with working(server.url, told):
        revoke(store, "017-a")
        until(lambda: settled(store) and store.hexists(WEBHOOKS_GONE, "crm"))
    with working(server.url, told):
        revoke(store, "017-b")
        until(lambda: settled(store))
        assert len(senders.at("/crm")) == 1
        assert [(one[b"endpoint"], one[b"error"]) for one in undelivered(store)] == [
            (b"crm", b"answered 410"),
            (b"crm", b"the endpoint is gone (410)"),
        ]
        subscribe(tmp_path, told, monkeypatch)
        monkeypatch.setenv("CROUPIER_STORE", server.url)
        assert command(monkeypatch, capsys, "enable", "crm")[1].endswith("crm is called again\n")
        assert command(monkeypatch, capsys, "enable", "crm")[1].endswith("crm was not disabled\n")
        until(lambda: not store.exists(WEBHOOKS_GONE))
        revoke(store, "017-c")
        until(lambda: settled(store))
    assert [one.decision for one in senders.at("/crm")] == ["017-a", "017-c"]
    assert len(senders.at("/mail")) == 3


def test_what_was_tried_often_enough_lands_among_the_undelivered(
    senders: Senders, server: Server, store: redis.Redis
) -> None:
    senders.replies["/crm"] = always(500)
    with structlog.testing.capture_logs() as logs, working(server.url, senders.told("crm", "mail")):
        revoke(store, "017-a")
        until(lambda: settled(store))
    assert len(senders.at("/crm")) == 4
    assert len(senders.at("/mail")) == 1
    (dead,) = undelivered(store)
    assert (dead[b"endpoint"], dead[b"attempts"], dead[b"error"]) == (b"crm", b"4", b"answered 500")
    assert msgspec.msgpack.decode(dead[b"b"])["decision_id"] == "017-a"
    assert [(one["log_level"], one["decision"]) for one in logs if one["event"] == "undelivered"] == [
        ("error", "017-a")
    ]


def test_an_endpoint_that_asks_for_time_gets_it_for_all_its_entries(
    senders: Senders, server: Server, store: redis.Redis
) -> None:
    senders.replies["/crm"] = always(429, **{"Retry-After": "3600"})
    with working(server.url, senders.told("crm", "mail")) as courier:
        revoke(store, "017-a")
        until(lambda: store.hlen(STATE) == 2)
        revoke(store, "017-b")
        until(lambda: len(senders.at("/mail")) == 2)
        lane = courier._lanes["crm"]
        until(lambda: len(lane.waiting) == 2)
        assert min(one.due_us or lane.paused_until_us for one in lane.waiting) > courier._clock[0] + 3_500_000_000
    assert len(senders.at("/crm")) == 1


def test_who_did_not_subscribe_is_not_told(senders: Senders, server: Server, store: redis.Redis) -> None:
    told = senders.told("crm", "mail").model_dump(mode="json", exclude_none=True)
    told["endpoints"][1]["channels"] = ["email"]
    with working(server.url, Webhooks.model_validate(told)):
        revoke(store, "017-sms")
        revoke(store, "017-email", channel="email")
        until(lambda: settled(store))
    assert sorted((one.path, one.decision) for one in senders.got) == [
        ("/crm", "017-email"),
        ("/crm", "017-sms"),
        ("/mail", "017-email"),
    ]


def test_a_server_that_answers_nonsense_or_too_much_harms_nobody(
    senders: Senders, server: Server, store: redis.Redis
) -> None:
    async def flood(_: int) -> web.Response:
        return web.Response(body=b"x" * 50_000_000)

    async def odd(_: int) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "yesterday", "Set-Cookie": "a=b"})

    senders.replies |= {"/flood": flood, "/odd": odd}
    with working(server.url, senders.told("flood", "odd")):
        revoke(store, "017-a")
        until(lambda: settled(store))
    assert len(senders.at("/flood")) == 1
    assert len(senders.at("/odd")) == 4
    assert not any("Cookie" in one.headers for one in senders.got)


def test_an_entry_that_nobody_can_read_is_put_aside_and_holds_up_none(
    senders: Senders, server: Server, store: redis.Redis
) -> None:
    store.xadd(OUTBOX, {"k": "revocation", "b": b"\xc1"})
    with working(server.url, senders.told("crm")):
        revoke(store, "017-a")
        until(lambda: settled(store))
    assert [one.decision for one in senders.got] == ["017-a"]
    (dead,) = undelivered(store)
    assert (dead[b"endpoint"], dead[b"b"]) == (b"*", b"\xc1")


def test_that_an_endpoint_fails_and_that_it_is_well_again_is_said_once(
    senders: Senders, server: Server, store: redis.Redis
) -> None:
    senders.replies["/crm"] = first(500, 500, 500)
    with structlog.testing.capture_logs() as logs, working(server.url, senders.told("crm")):
        revoke(store, "017-a")
        until(lambda: settled(store))
    said = [(one["log_level"], one["answer"]) for one in logs if one["event"] == "endpoint"]
    assert said == [("warning", "answered 500"), ("info", "answered 200")]


def test_a_certificate_that_nobody_vouches_for_is_refused(
    senders: Senders, server: Server, store: redis.Redis, tmp_path: Path
) -> None:
    secured = Senders(self_signed(tmp_path))
    secured.start()
    try:
        told = senders.told("crm", retry_seconds=[]).model_dump(mode="json")
        told["endpoints"][0]["url"] = f"https://127.0.0.1:{secured.port}/crm"
        with working(server.url, Webhooks.model_validate(told)):
            revoke(store, "017-a")
            until(lambda: settled(store))
    finally:
        secured.stop()
    assert not secured.got
    assert b"SSLCertVerificationError" in undelivered(store)[0][b"error"]


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate of 127.0.0.1 that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]), datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = made.add_extension(names, critical=False).sign(key, hashes.SHA256())
    plain = serialization.NoEncryption()
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


def test_without_subscribers_outboxes_are_emptied(
    server: Server, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_file, "TRIM_SECONDS", 0.01)
    revoke(store, "017-a")
    with working(server.url, Webhooks()):
        until(lambda: settled(store))


def test_a_worker_that_was_given_no_subscriptions_leaves_outboxes_to_others(worker: Worker, store: redis.Redis) -> None:
    revoke(store, "017-a")
    until(lambda: PARTITION in worker.consumer.owned)
    worker.stop()
    assert store.xlen(OUTBOX) == 1


def test_a_store_that_goes_away_ends_the_courier(
    senders: Senders, server: Server, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise redis.ConnectionError("gone")

    def story() -> None:
        with working(server.url, senders.told("crm")) as courier:
            revoke(store, "017-a")
            until(lambda: settled(store))
            monkeypatch.setattr(Outbox, "look", lost)
            until(lambda: courier._store._shutdown)

    with pytest.raises(redis.ConnectionError):
        story()
    assert len(senders.got) == 1


def subscribe(tmp_path: Path, told: Webhooks, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "webhooks.yaml"
    file.write_text(json.dumps(told.model_dump(mode="json", exclude_none=True)), "utf8")
    monkeypatch.setenv("CROUPIER_WEBHOOKS", str(file))


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run `croupier webhooks` with these words: exit code, what it printed, and what it complained."""
    monkeypatch.setattr("sys.argv", ["croupier", "webhooks", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, told.out, told.err


def test_the_commands_check_and_try_endpoints(
    senders: Senders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CROUPIER_WEBHOOKS", raising=False)
    assert command(monkeypatch, capsys, "check")[::2] == (
        2,
        "croupier: nobody is subscribed: CROUPIER_WEBHOOKS names no file with endpoints\n",
    )
    subscribe(tmp_path, senders.told("crm", "ill"), monkeypatch)
    code, printed, _ = command(monkeypatch, capsys, "check", "--json")
    assert code == 0
    assert json.loads(printed)["endpoints"][0] == {
        "id": "crm",
        "host": "127.0.0.1",
        "addresses": ["127.0.0.1"],
        "trouble": "",
    }
    assert not senders.got
    code, printed, _ = command(monkeypatch, capsys, "test", "crm")
    assert (code, senders.got[0].verified()["type"]) == (0, "lease.revoked")
    assert "answered 200" in printed
    senders.replies["/ill"] = always(500)
    code, _, sentence = command(monkeypatch, capsys, "test", "ill", "--json")
    assert (code, sentence) == (2, "croupier: ill did not take the example: answered 500\n")
    assert command(monkeypatch, capsys, "test", "who")[::2] == (
        2,
        "croupier: there is no endpoint 'who'; the file has crm, ill\n",
    )
    subscribe(tmp_path, senders.told("crm", allow_private=[]), monkeypatch)
    code, printed, sentence = command(monkeypatch, capsys, "check")
    assert (code, sentence) == (2, "croupier: not every endpoint can be called: crm\n")
    assert "127.0.0.1 is no public address" in printed
