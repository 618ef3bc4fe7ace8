"""Send many contacts while worker, store and provider fail at every step; then look at what left and what is known.

`python tests/support/send_faults.py 10000` does it at length and prints what became of them; a test does it in small.
"""

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import redis
from support.deliveries import Plainly
from support.fault_house import PROCESSES, World
from support.players import adult_events, event, typed

from features.store.connection import Store
from features.store.deployment import real_now_us
from features.store.keys import PlayerKeys, send_key
from pipelines.imports import bulk
from pipelines.worker.consumer import serving_plan
from pipelines.worker.lanes import Delivery
from pipelines.worker.process import Worker
from service.api.app import serving_of_files
from service.contacts.ledger import Booking, RedisLedger
from service.decisions import outcomes
from service.decisions.compose import reservation
from service.decisions.decide import decide
from service.decisions.kept import KeptDecision, dump_kept
from service.decisions.outcomes import Outcome
from service.decisions.record import Record, dump_record
from service.decisions.request import DecisionRequest
from service.delivery.connectors_file import Connectors
from service.delivery.senders import senders
from service.events.accept import accept
from service.settings import Settings

SEED: Final = 7
HOUR_US: Final = 3_600_000_000
ENDED: Final = frozenset({"sent", "delivered", "failed", "unknown", "withdrawn"})
TAKING: Final = {"ok": 32, "slow": 2, "silent after": 1, "reset after": 1, "error after": 1}
REFUSING: Final = {"silent before": 1, "reset before": 1, "busy": 1, "away": 1}
MODES: Final = [mode for mode, weight in (TAKING | REFUSING).items() for _ in range(weight)]
CHUNK: Final = 2_000


class Provider:
    """A provider that fails on purpose: the first time that it is handed a message, later ones it takes.

    Attributes:
        taken: How often it took the message of each decision, whatever it answered.
        taken_at: When it took each last, unix seconds.
        handed: How often it was handed each.
    """

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.handed: Counter[str] = Counter()
        self.taken_at: dict[str, float] = {}
        self._meetings: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]

    async def _open(self) -> Any:
        return await asyncio.start_server(self._meet, "127.0.0.1", 0)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _end(self) -> None:
        """End the server with what it is in the middle of."""
        self._server.close()
        for task in self._meetings:
            task.cancel()
        await asyncio.gather(*self._meetings, return_exceptions=True)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._meetings.add(task)
        task.add_done_callback(self._meetings.discard)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:")
                body = json.loads(await reader.readexactly(length))
                if not await self._answer(body["personalizations"][0]["custom_args"]["decision_id"], writer):
                    break
        writer.close()
        with suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _answer(self, decision: str, writer: asyncio.StreamWriter) -> bool:
        """Answer, or fail; whether the connection stays."""
        self.handed[decision] += 1
        mode = random.Random(f"{SEED} {decision}").choice(MODES) if self.handed[decision] == 1 else "ok"
        if mode in TAKING:
            self.taken[decision] += 1
            self.taken_at[decision] = time.time()
        if mode.startswith("silent"):
            await asyncio.sleep(30)
            return False
        if mode.startswith("reset"):
            writer.transport.abort()
            return False
        if mode == "slow":
            await asyncio.sleep(0.5)
        status = {"busy": "429 Too Many", "away": "503 Away", "error after": "500 Oh"}.get(mode, "202 Accepted")
        wait = "Retry-After: 1\r\n" if mode in {"busy", "away"} else f"X-Message-Id: m-{decision}\r\n"
        writer.write(f"HTTP/1.1 {status}\r\n{wait}Content-Length: 0\r\n\r\n".encode())
        await writer.drain()
        return True


def told_of(port: int) -> Connectors:
    """The file of connectors that leads there."""
    post = {"kind": "sendgrid", "url": f"http://127.0.0.1:{port}", "key": {"env": "SENDS_KEY"}}
    return Connectors.model_validate(
        {
            "public_url": "https://house.example.com",
            "allow_private": ["127.0.0.0/8"],
            "connectors": {"post": post | {"timeout_seconds": 1, "at_once": 8}},
            "routes": [{"channel": "email", "connector": "post", "sender": "House <house@example.com>"}],
        }
    )


def _work(url: str, home: str, port: int) -> None:
    os.environ["SENDS_KEY"] = "sg-key"
    told = told_of(port)
    delivery = Delivery(told, Plainly(), lambda clock, keepers: senders(told, clock, keepers, sandbox=False))
    with (Path(home) / "worker.log").open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
        Worker(url, Path(home) / "lake", delivery=delivery).run()


class WorkerProcess:
    """A worker in a process of its own, which is killed and started again."""

    def __init__(self, world: World, port: int) -> None:
        self._world, self._port = world, port
        self.process = self._begin()

    def _begin(self) -> Any:
        process = PROCESSES.Process(target=_work, args=(self._world.server.url, str(self._world.home), self._port))
        process.start()
        return process

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(30)

    def again(self) -> None:
        """Start it again if it has ended; whatever it held is free at once, as after a lease's time."""
        if self.process.is_alive():
            return
        for key in self._world.client.scan_iter("lease:*"):
            self._world.client.hset(key, "until", "0")
        self.process = self._begin()


@dataclass
class Story:
    """What was asked for: decisions with their players, and when each exclusion was acknowledged."""

    players: dict[str, str]
    excluded_at: dict[str, float] = field(default_factory=dict)


async def reserve(world: World, count: int) -> Story:
    """Contacts of as many players that the house is to send now, each like one that was really decided."""
    house, client = world.house, world.client
    names = [f"sent-{number}" for number in range(count)]
    items = bulk.Items(client, house)
    for first in range(0, count, CHUNK):
        told = [one for name in names[first : first + CHUNK] for one in typed(adult_events(name))]
        bulk.append(client, house, [items.event(one) for one in told])
        world.apply()
    store = Store(world.server.url, 16)
    ledger, serving = RedisLedger(store, house), serving_of_files(house, Settings.here(world.server.url))
    serving = replace(serving, plan=serving_plan(client))
    pattern = await _decided(names, serving, ledger)
    story = Story({})
    for name in names:
        player = house.player_key(name)
        decision = f"{player[2:5]}-" + "".join(random.Random(name).choices("abcdefghijklmnop234567", k=24))
        await _book(ledger, player, _like(pattern, decision, player, house.now_us(real_now_us(client))))
        story.players[decision] = name
    await store.close()
    return story


async def _decided(names: list[str], serving: Any, ledger: RedisLedger) -> Record:
    """A promotional mail that was drawn."""
    for name in names * 20:
        done = await decide(DecisionRequest(player_id=name, channels=("email",), dry_run=True), serving, ledger)
        if done.record is not None and done.record.action is not None:
            return done.record
    raise AssertionError("no contact was drawn")


def _like(pattern: Record, decision: str, player: str, now_us: int) -> Record:
    assert pattern.action is not None
    action = msgspec.structs.replace(pattern.action, send_us=now_us, valid_until_us=now_us + HOUR_US)
    return msgspec.structs.replace(pattern, decision_id=decision, player=player, action=action)


async def _book(ledger: RedisLedger, player: str, record: Record) -> None:
    seal = (await ledger.seal(PlayerKeys(player))).stored
    held = reservation(record)
    kept = dump_kept(KeptDecision.of(record), record)
    booking = Booking(record.decision_id, dump_record(record), kept, "", "", seal, held, (), {}, (), delivers=True)
    status, _ = await ledger.reserve(PlayerKeys(player), booking)
    assert status == "reserved", status


async def exclude(world: World, story: Story, share: float) -> None:
    """Some players exclude themselves while their messages are on the way."""
    store = Store(world.server.url, 4)
    ledger = RedisLedger(store, world.house)
    chosen = random.Random(SEED).sample(sorted(story.players), int(len(story.players) * share))
    for decision in chosen:
        (told,) = typed([event(story.players[decision], "self_excluded")])
        await accept(told, world.house, ledger)
        story.excluded_at[decision] = time.time()
    await store.close()


def states(client: redis.Redis, story: Story) -> dict[str, str]:
    """The state of every message."""
    pipe: Any = client.pipeline(transaction=False)
    for decision in story.players:
        pipe.hget(send_key(decision), "state")
    return {name: (found or b"").decode() for name, found in zip(story.players, pipe.execute(), strict=True)}


async def call_back(world: World, story: Story, found: dict[str, str], provider: Provider) -> None:
    """The provider's receipts of what it took and nobody heard of."""
    store = Store(world.server.url, 4)
    ledger, house = RedisLedger(store, world.house), world.house
    catalogue = serving_of_files(house, Settings.here(world.server.url)).layout.catalogue
    for decision, state in found.items():
        if state == "unknown" and provider.taken[decision]:
            told = {"outcome_id": f"r-{decision}", "decision_id": decision, "type": "delivered"}
            at = event("x", "login")["occurred_at"]
            await outcomes.take(Outcome.model_validate(told | {"occurred_at": at}), house, catalogue, ledger)
    await store.close()
    assert story.players


@contextmanager
def provider_of() -> Iterator[Provider]:
    made = Provider()
    try:
        yield made
    finally:
        made.close()


def run(world: World, count: int, *, kills: int, store_kills: int) -> tuple[Story, dict[str, str], Provider]:
    """Send, and kill worker and store meanwhile; returns when every message is in a state that lasts."""
    chance = random.Random(SEED)
    story = asyncio.run(reserve(world, count))
    pause = threading.Event()
    with provider_of() as provider:
        worker = WorkerProcess(world, provider.port)
        for number in range(kills):
            pause.wait(chance.uniform(1.0, 3.0))
            worker.kill()
            if number < store_kills:
                world.restart()
            if number == kills // 2:
                asyncio.run(exclude(world, story, 0.1))
            worker.again()
        deadline = time.monotonic() + 60 + count / 8
        found = states(world.client, story)
        while not ENDED.issuperset(found.values()):
            assert time.monotonic() < deadline, Counter(found.values())
            pause.wait(0.5)
            worker.again()
            found = states(world.client, story)
        worker.kill()
        asyncio.run(call_back(world, story, found, provider))
        return story, found, provider


class Race(NamedTuple):
    """What became of players who excluded themselves while their messages were due: counts, and seconds.

    `late` are the seconds from an acknowledged exclusion to the provider's taking a message that was confirmed before.
    """

    withdrawn: int
    left_before: int
    late: list[float]
    acknowledged: list[float]


def race(world: World, count: int) -> Race:
    """Exclude every player while the worker sends what is due to them."""
    story, acknowledged = asyncio.run(reserve(world, count)), list[float]()
    with provider_of() as provider:
        worker = WorkerProcess(world, provider.port)
        until_taken = threading.Event()
        while provider.taken.total() < count // 20:
            until_taken.wait(0.01)
        asyncio.run(_exclude_all(world, story, acknowledged))
        deadline = time.monotonic() + 120
        while not ENDED.issuperset(states(world.client, story).values()):
            assert time.monotonic() < deadline, Counter(states(world.client, story).values())
            until_taken.wait(0.2)
        worker.kill()
        late = [provider.taken_at[one] - at for one, at in story.excluded_at.items() if one in provider.taken_at]
        withdrawn = Counter(states(world.client, story).values())["withdrawn"]
        return Race(withdrawn, sum(at <= 0 for at in late), sorted(at for at in late if at > 0), sorted(acknowledged))


async def _exclude_all(world: World, story: Story, acknowledged: list[float]) -> None:
    """Exclude players at once, the last reserved first: the worker comes from the other end."""
    store, turns = Store(world.server.url, 32), asyncio.Semaphore(16)
    ledger = RedisLedger(store, world.house)

    async def exclude(decision: str) -> None:
        async with turns:
            (told,), begun = typed([event(story.players[decision], "self_excluded")]), time.monotonic()
            await accept(told, world.house, ledger)
            story.excluded_at[decision] = time.time()
            acknowledged.append(time.monotonic() - begun)

    await asyncio.gather(*map(exclude, reversed(story.players)))
    await store.close()


def holds(world: World, story: Story, found: dict[str, str], provider: Provider) -> Counter[str]:
    """Nothing left twice, nothing after an acknowledged exclusion, and what is known is true."""
    assert max(provider.taken.values(), default=0) <= 1, "sent twice"
    for decision, state in found.items():
        taken = provider.taken[decision]
        assert (state, taken) in {
            ("sent", 1), ("failed", 0), ("withdrawn", 0), ("unknown", 0), ("unknown", 1)
        }, f"{decision} is {state}, and was taken {taken} times"  # fmt: skip
    for decision, at in story.excluded_at.items():
        assert provider.taken_at.get(decision, 0.0) <= at + 60, "sent after an exclusion was acknowledged"
    settled = states(world.client, story)
    proved = [one for one, state in found.items() if state == "unknown" and provider.taken[one]]
    assert all(settled[one] == "delivered" for one in proved), "a receipt settled nothing"
    return Counter(settled.values())


def at(values: list[float], share: float) -> float:
    """The value that a share of sorted ones is within, milliseconds; 0 of none."""
    return round(values[min(len(values) - 1, int(share * len(values)))] * 1_000, 1) if values else 0.0


def main() -> None:
    """Do it at length, and say what came of it."""
    import tempfile

    from features.definitions import apply, open_store
    from features.store.server import start_server

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        first = start_server(Path(folder) / "plan")
        plan = apply(open_store(Path(folder) / "feast", first.url), Path(folder) / "lake")
        first.stop()
        with World(Path(folder) / "house", plan) as world:
            begun = time.monotonic()
            story, found, provider = run(world, count, kills=max(6, count // 250), store_kills=max(2, count // 2_000))
            became = holds(world, story, found, provider)
            after = [one for one, at in story.excluded_at.items() if provider.taken_at.get(one, 0.0) > at]
            print(json.dumps({"contacts": count, **became, "twice": 0, "excluded": len(story.excluded_at),
                              "after_exclusion": len(after), "seconds": round(time.monotonic() - begun)}))  # fmt: skip
        with World(Path(folder) / "race", plan) as world:
            seen = race(world, 1_000)
            told: dict[str, float] = {
                "withdrawn": seen.withdrawn,
                "left_before": seen.left_before,
                "left_after": len(seen.late),
            }
            told |= {"latest_ms": at(seen.late, 1.0), "p99_ms": at(seen.late, 0.99)}
            print(json.dumps(told | {"excluded": 1_000, "acknowledged_ms_p99": at(seen.acknowledged, 0.99)}))


if __name__ == "__main__":
    main()
