"""One connection that calls share: everybody gets their own reply, whatever is late, cut, refused, or cancelled."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from features.store import lane as lanes
from features.store.lane import MISSES, Lane
from features.store.server import socket_path, start_server

CALLERS: Final = 1_000


class Way:
    """A way to a store, over TCP, that may be stopped, cut, or closed to whoever comes anew."""

    def __init__(self, path: Path, context: ssl.SSLContext | None = None) -> None:
        self._path, self._context = path, context
        self.opened = 0
        self.told: Callable[[bytes], bytes] = lambda reply: reply
        self.passes = asyncio.Event()
        self.passes.set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._context)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def refuse(self) -> None:
        """Listen no more."""
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def _telling(self, reply: bytes) -> bytes:
        return self.told(reply)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        stopped = self.passes  # of the moment at which it came: one that is stopped stays so
        there, beyond = await asyncio.open_unix_connection(str(self._path))
        self._writers += writer, beyond
        await asyncio.gather(_pass(reader, beyond, stopped), _pass(there, writer, stopped, self._telling))


async def _pass(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    passes: asyncio.Event,
    told: Callable[[bytes], bytes] = bytes,
) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            await passes.wait()
            writer.write(told(data))
            await writer.drain()
    writer.close()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("wire")
    embedded = start_server(home)
    yield socket_path(home)
    embedded.stop()


@pytest.fixture
async def way(stored: Path) -> AsyncIterator[Way]:
    async with Way(stored) as opened:
        yield opened


@pytest.fixture
async def lane(way: Way) -> AsyncIterator[Lane]:
    made = Lane(way.url, 64)
    yield made
    await made.close()


async def echoes(lane: Lane, numbers: range, seconds: float = 30.0) -> list[Any]:
    return await asyncio.gather(*(lane.send(seconds, ("ECHO", str(one))) for one in numbers), return_exceptions=True)


def own(numbers: range) -> list[bytes]:
    return [str(one).encode() for one in numbers]


async def test_a_thousand_at_once_each_get_their_own_reply_over_one_connection(lane: Lane, way: Way) -> None:
    assert await echoes(lane, range(CALLERS)) == own(range(CALLERS))
    assert way.opened == 1


async def test_whoever_is_refused_something_is_the_only_one(lane: Lane) -> None:
    wrong = asyncio.gather(*(lane.send(30.0, ("NO-SUCH", one)) for one in range(20)), return_exceptions=True)
    assert await echoes(lane, range(200)) == own(range(200))
    assert {type(one) for one in await wrong} == {redis.ResponseError}


async def test_a_reply_that_comes_after_its_deadline_is_nobody_elses(lane: Lane, way: Way) -> None:
    await lane.send(30.0, ("PING",))
    way.passes.clear()
    late = [asyncio.create_task(lane.send(0.02, ("ECHO", f"late {one}"))) for one in range(MISSES - 1)]
    in_time = asyncio.create_task(echoes(lane, range(100)))
    done = await asyncio.gather(*late, return_exceptions=True)
    assert {type(one) for one in done} == {TimeoutError}
    way.passes.set()
    assert await in_time == own(range(100))
    assert way.opened == 1


async def test_whoever_gives_up_takes_no_reply_of_others(lane: Lane, way: Way) -> None:
    await lane.send(30.0, ("PING",))
    way.passes.clear()
    gone = [asyncio.create_task(lane.send(30.0, ("ECHO", "gone"))) for _ in range(100)]
    staying = asyncio.create_task(echoes(lane, range(100)))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    way.passes.set()
    assert await staying == own(range(100))


async def test_a_connection_that_is_cut_fails_those_under_way_and_nobody_after_them(lane: Lane, way: Way) -> None:
    await lane.send(30.0, ("PING",))
    way.passes.clear()
    under_way = asyncio.create_task(echoes(lane, range(20)))
    await asyncio.sleep(0)
    way.cut()
    assert {type(one) for one in await under_way} == {redis.ConnectionError}
    way.passes.set()
    assert await echoes(lane, range(20)) == own(range(20))
    assert way.opened == 2


async def test_where_nobody_listens_everybody_hears_it_at_once(lane: Lane, way: Way) -> None:
    await lane.send(30.0, ("PING",))
    await way.refuse()
    await asyncio.sleep(0.01)
    found = await echoes(lane, range(50))
    assert {type(one) for one in found} == {redis.ConnectionError}
    assert {type(one.__cause__) for one in found} <= {ConnectionRefusedError, ConnectionResetError}
    assert isinstance((await echoes(lane, range(1)))[0].__cause__, ConnectionRefusedError)


async def test_a_connection_that_leads_nowhere_is_left_for_another(lane: Lane, way: Way) -> None:
    await lane.send(30.0, ("PING",))
    way.passes.clear()
    patient = asyncio.create_task(lane.send(30.0, ("ECHO", "patient")))
    for _ in range(MISSES):
        with pytest.raises(TimeoutError):
            await lane.send(0.02, ("PING",))
    stopped, way.passes = way.passes, asyncio.Event()
    way.passes.set()  # for whoever comes anew
    assert await lane.send(30.0, ("ECHO", "anew")) == b"anew"
    assert way.opened == 2
    stopped.set()
    assert await patient == b"patient"


async def test_a_connection_that_leads_nowhere_ends_once_nobody_can_wait_for_it(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LONGEST_SECONDS", 0.2)
    lane = Lane(way.url, 64)
    await lane.send(0.2, ("PING",))
    way.passes.clear()
    wire = lane._wire
    assert wire is not None
    for _ in range(MISSES):
        with pytest.raises(TimeoutError):
            await lane.send(0.01, ("PING",))
    async with asyncio.timeout(60):
        while not wire.lost:  # noqa: ASYNC110 - nothing else tells it
            await asyncio.sleep(0.01)
    await lane.close()


async def test_a_server_that_answers_no_greeting_is_waited_for_by_one(lane: Lane, way: Way) -> None:
    way.passes.clear()
    late = await asyncio.gather(*(lane.send(0.05, ("PING",)) for _ in range(50)), return_exceptions=True)
    assert {type(one) for one in late} == {TimeoutError}
    stopped = asyncio.create_task(lane.send(lanes.PATIENT_SECONDS + 26, ("ECHO", "at last")))
    await asyncio.sleep(0.05)
    assert way.opened == 1
    way.passes.set()
    assert await stopped == b"at last"


async def test_what_is_no_reply_ends_the_connection_and_not_the_lane(lane: Lane, way: Way) -> None:
    await lane.send(30.0, ("PING",))
    way.told = lambda _: b"?nonsense\r\n"
    with pytest.raises(redis.ConnectionError):
        await lane.send(30.0, ("ECHO", "spoilt"))
    way.told = bytes
    assert await lane.send(30.0, ("ECHO", "whole")) == b"whole"
    way.told = lambda reply: 2 * reply  # one of them is nobody's
    assert await lane.send(30.0, ("ECHO", "twice")) == b"twice"
    way.told = bytes
    assert await lane.send(30.0, ("ECHO", "whole")) == b"whole"
    assert way.opened == 3


async def test_calls_go_over_tls_where_the_address_asks_for_it(stored: Path, tmp_path: Path) -> None:
    certificate, key = certified(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with Way(stored, context) as way:
        lane = Lane(f"rediss://localhost:{way.port}?ssl_ca_certs={certificate}", 64)
        assert await echoes(lane, range(200)) == own(range(200))
        await lane.close()
        strict = Lane(f"rediss://localhost:{way.port}", 64)
        with pytest.raises(redis.ConnectionError):
            await strict.send(30.0, ("PING",))
        await strict.close()


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate of localhost that vouches for itself, and its key."""
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]),
    )
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate, private
