"""Send what falls due: a loop of its own in the worker, under the leases of its partitions.

    sends of a partition --due, or heard of--> courier --> sent | failed | unknown | withdrawn | due again

Features wait for nothing of this. Messages are heard of as they are reserved; a look at all partitions finds the rest.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from features.errors import CroupierError
from features.steps import Step, no_step
from features.store.connection import Store, connect
from features.store.deployment import open_house
from features.store.errors import StoreError
from features.store.keys import SENDS_COUNTED
from pipelines.worker.consumer import OwnedPartition
from pipelines.worker.courier import Courier, Turn
from pipelines.worker.due import DueMessage, DueMessages, Listener
from pipelines.worker.lanes import Delivery, HouseTime, Lane, lanes_of
from pipelines.worker.law import ServedLaw
from service.contacts.ledger import RedisLedger
from service.delivery.calls import Clock
from service.delivery.kept_messages import keepers
from service.delivery.sends import SECOND_US
from service.errors import Contended
from service.players.sealing import seals_of

LOOK_SECONDS: Final = 1.0
"""How often every partition is looked at."""
AHEAD_SECONDS: Final = 1.5
TASKS: Final = 128
"""Messages in hand."""
GRACE_SECONDS: Final = 3.0
"""How long connectors may still take when the worker ends; what they do not answer is unknown."""
FAULT_SECONDS: Final = 60.0
_CONNECTIONS: Final = 64
_LOG: Final = structlog.get_logger()
_T = TypeVar("_T")


class SendLoop:
    """Sends what falls due in owned partitions until stopped; a store error of its looks ends it.

    In a restored house everything waits until somebody lets it send: the former house may have sent the same.

    Args:
        url: The store.
        delivery: Connectors and what renders.
        owned: Gives the partitions that this worker holds; called from the loop's thread.
        home: The home, which has the house key.
        step: Called before every step with its name.
    """

    def __init__(
        self,
        url: str,
        delivery: Delivery,
        owned: Callable[[], Mapping[int, OwnedPartition]],
        home: Path,
        step: Step = no_step,
    ) -> None:
        self._url, self._delivery, self._owned, self._step = url, delivery, owned, step
        self._client = connect(url)
        self._house = open_house(self._client)
        self._seals = seals_of(self._house, home)
        self._law = ServedLaw(self._client, self._house, self._seals)
        self._queue = DueMessages(self._client)
        self._clock = HouseTime(self._house)
        self._stopping = threading.Event()
        self._blocking = ThreadPoolExecutor(1, "sends")
        self._heap: list[DueMessage] = []
        self._known: set[str] = set()
        """Messages in the heap, in hand, or waiting for a turn."""
        self._lane_of: dict[str, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard: set[int] = set()
        self._told = self._unread = ""

    def run(self) -> None:
        """Send until `stop`."""
        with self._blocking:
            asyncio.run(self._work())

    def stop(self) -> None:
        """Ask `run` to end; connectors get a grace period."""
        self._stopping.set()

    async def _work(self) -> None:
        self._wake, loop = asyncio.Event(), asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            store = Store(self._url, _CONNECTIONS)
            stack.push_async_callback(store.close)
            ledger = RedisLedger(store, self._house, seals=self._seals)
            clock = Clock(lambda: datetime.now(UTC), self._clock.left_seconds)
            senders = await stack.enter_async_context(self._delivery.senders(clock, keepers(ledger)))
            lanes = lanes_of(self._delivery.told, senders, TASKS // 2)
            stopping = self._stopping.is_set
            rendering = self._delivery.rendering
            self._courier = Courier(self._house, ledger, lanes, rendering, self._clock, self._step, stopping)
            listener = Listener(self._url, lambda partition: loop.call_soon_threadsafe(self._hear, partition))
            listener.start()
            try:
                await self._until_stopped()
            finally:
                await asyncio.to_thread(listener.stop)
                await self._abandon()

    async def _until_stopped(self) -> None:
        while not self._stopping.is_set():
            await self._call(self._follow)
            await self._look(sorted(self._owned()))
            await self._call(self._tell_counts)
            await self._start_until(time.monotonic() + LOOK_SECONDS)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GRACE_SECONDS)

    def _follow(self) -> None:
        """Take up what serves; what cannot be read now is no reason to drop a message: it waits."""
        try:
            self._law.look()
            self._delivery.rendering.look(self._law.serving)
        except CroupierError as error:
            self._unread = str(error)
        else:
            self._unread = ""

    async def _abandon(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._call(self._tell_counts)

    async def _call(self, work: Callable[..., _T], *arguments: Any) -> _T:  # noqa: ANN401 - those of the work
        return await asyncio.get_running_loop().run_in_executor(self._blocking, work, *arguments)

    def _hear(self, partition: int) -> None:
        self._heard.add(partition)
        self._wake.set()

    async def _look(self, partitions: list[int]) -> None:
        """Take up what falls due soon in some partitions."""
        self._step("look")
        if trouble := await self._call(self._trouble):
            if self._told != trouble:
                self._told = trouble
                _LOG.warning("sends", held=trouble)
            return
        self._told = ""
        ahead_us = int(AHEAD_SECONDS * SECOND_US * self._house.rate)
        seen = await self._call(self._queue.look, partitions, lambda real_us: self._house.now_us(real_us) + ahead_us)
        self._clock.read(seen.real_us)
        for due in seen.found:
            if due.decision_id not in self._known:
                self._known.add(due.decision_id)
                heapq.heappush(self._heap, due)

    def _trouble(self) -> str:
        """Why nothing may be sent now, if it may not."""
        if self._queue.is_held_back():
            return "the house was restored: `croupier connectors resume` lets it send"
        return self._unread

    async def _start_until(self, end: float) -> None:
        """Start what is due, and look at partitions that were heard of, until the next look at all of them."""
        while (left := end - time.monotonic()) > 0 and not self._stopping.is_set():
            self._wake.clear()
            if self._heard:
                heard, self._heard = self._heard & self._owned().keys(), set()
                await self._look(sorted(heard))
            now_us = self._clock.now_us()
            while self._heap and self._heap[0].look_us <= now_us and len(self._tasks) < TASKS:
                self._start(heapq.heappop(self._heap))
            if self._heap and len(self._tasks) < TASKS:
                left = min(left, max(0.001, self._clock.left_seconds(self._heap[0].look_us)))
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except TimeoutError:
                continue

    def _start(self, due: DueMessage) -> None:
        lane = self._lane_of.get(due.decision_id)
        if lane is not None and lane.is_full:
            lane.waiting.append(due)
            return
        task = asyncio.create_task(self._pass(due))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    async def _pass(self, due: DueMessage) -> None:
        """Take one message as far as it goes now, and keep it where it waits for something of this process."""
        found = await self._handled(due)
        if isinstance(found, Lane):
            self._lane_of[due.decision_id] = found
            found.waiting.append(due)
        elif found is not None:
            heapq.heappush(self._heap, due._replace(look_us=found))
        else:
            self._known.discard(due.decision_id)
            self._lane_of.pop(due.decision_id, None)
        self._call_up()

    def _call_up(self) -> None:
        """Bring back messages whose connectors have a turn for them."""
        for lane in self._courier.lanes.values():
            for _ in range(min(len(lane.waiting), lane.at_once - lane.busy)):
                heapq.heappush(self._heap, lane.waiting.popleft())

    async def _handled(self, due: DueMessage) -> int | Lane | None:
        lease = self._owned().get(due.partition)
        if lease is None or self._unread:
            return None
        try:
            return await self._courier.handle(due, Turn(lease, self._law.serving))
        except (StoreError, Contended):
            return self._clock.after(1.0)
        except Exception:  # noqa: BLE001 - one message must not hold up the others
            _LOG.exception("fault", decision=due.decision_id)
            return self._clock.after(FAULT_SECONDS)

    def _tell_counts(self) -> None:
        """Add what was counted to the store's counts."""
        counted, self._courier.counted = self._courier.counted, Counter()
        pipe: Any = self._client.pipeline(transaction=False)
        for name, count in counted.items():
            if count:
                pipe.hincrby(SENDS_COUNTED, name, count)
        pipe.execute()
