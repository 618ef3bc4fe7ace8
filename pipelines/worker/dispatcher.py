"""Deliver outbox entries to subscribed webhook endpoints, at least once.

    outbox of a partition --read--> one delivery per endpoint --POST--> done | again later | given up
                                                                  `--> progress; when nobody is owed any more, the
                                                                       entry goes, in one call with its progress

Whatever dies in between, the entry and what is known of it are still in the store, and the next owner of the
partition goes on there. An endpoint knows a repetition by its webhook-id.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple, TypeVar

import structlog

from features.moments import moment
from features.store.connection import connect
from pipelines.worker.http_client import AttemptResult, HttpClient, wire
from pipelines.worker.outbox import Outbox, OutboxEntry, Progress, Undelivered
from pipelines.worker.webhooks import SECOND_US, Endpoint, Webhooks, body, verdict, wait_seconds, webhook_id
from service.delivery.calls import retry_after_seconds
from service.delivery.http_client import AT_ONCE

LOOK_SECONDS: Final = 0.2
TRIM_SECONDS: Final = 5.0
GRACE_SECONDS: Final = 1.0
"""How long requests under way may still take when the worker ends."""
_ERROR_CHARACTERS: Final = 300
_LOG: Final = structlog.get_logger()
_T = TypeVar("_T")


class Delivery(NamedTuple):
    """An entry due to an endpoint at a moment; sorts by the moment."""

    due_us: int
    stream_id: str
    partition: int
    entry: OutboxEntry
    attempts: int


class EndpointQueue:
    """Queue of one endpoint, independent of others: entries, requests under way, pauses.

    What was never tried goes first: it is due since ever.
    """

    def __init__(self, endpoint: Endpoint, way: HttpClient) -> None:
        self.endpoint, self.way = endpoint, way
        self.waiting: list[Delivery] = []
        self.busy = 0
        self.paused_until_us = 0
        self.gone = False
        self.ailing = False

    def owe(self, entry: OutboxEntry) -> None:
        """Queue an entry at its recorded progress."""
        progress = entry.noted.get(self.endpoint.id) or Progress()
        due = Delivery(progress.due_us, entry.stream_id, entry.partition, entry, progress.attempts)
        heapq.heappush(self.waiting, due)

    def next(self, now_us: int) -> Delivery | None:
        """Take the next delivery that may be sent now, None if there is none."""
        if not self.waiting or self.busy >= AT_ONCE or now_us < max(self.waiting[0].due_us, self.paused_until_us):
            return None
        self.busy += 1
        return heapq.heappop(self.waiting)

    def told(self, *, well: bool, answer: str) -> None:
        """Log once that the endpoint fails, and once that it accepts notices again."""
        if well == self.ailing:
            self.ailing = not well
            _LOG.log(logging.INFO if well else logging.WARNING, "endpoint", endpoint=self.endpoint.id, answer=answer)

    def forget(self, entries: Collection[OutboxEntry]) -> None:
        """Drop the deliveries of some entries."""
        self.waiting = [one for one in self.waiting if one.entry not in entries]
        heapq.heapify(self.waiting)


class Dispatcher:
    """Delivers to subscribed endpoints until stopped; a store error ends it.

    In a restored house the outboxes stay as they are until somebody accepts it: the former house may deliver the same.

    Args:
        url: The store.
        webhooks: Settings of endpoints and delivery.
        owned: Gives the partitions that this worker holds; called from the courier's thread.
    """

    def __init__(self, url: str, webhooks: Webhooks, owned: Callable[[], Collection[int]]) -> None:
        self._webhooks, self._owned = webhooks, owned
        self._outbox = Outbox(connect(url))
        self._store = ThreadPoolExecutor(1, "outbox")
        self._stopping = threading.Event()
        self._lanes: dict[str, EndpointQueue] = {}
        self._entries: dict[int, set[OutboxEntry]] = {}
        self._tasks: dict[asyncio.Task[AttemptResult], tuple[EndpointQueue, Delivery]] = {}
        self._clock = (0, 0.0)
        self._held = False

    def run(self) -> None:
        """Deliver until `stop`; without subscribers, trim the outboxes only."""
        if self._webhooks.endpoints:
            # A thread of its own: what waits for the store must not hold up answers, nor queue behind lookups.
            with self._store:
                asyncio.run(self._work())
            return
        while not self._stopping.wait(TRIM_SECONDS):
            if not self._outbox.is_held_back():
                self._outbox.trim(self._owned())

    def stop(self) -> None:
        """Ask `run` to end; requests under way get a grace period."""
        self._stopping.set()

    async def _work(self) -> None:
        async with AsyncExitStack() as stack:
            for endpoint in self._webhooks.endpoints:
                way = await stack.enter_async_context(wire(endpoint, self._webhooks))
                self._lanes[endpoint.id] = EndpointQueue(endpoint, way)
            try:
                while not self._stopping.is_set():
                    await self._look()
                    await self._send_until(time.monotonic() + LOOK_SECONDS)
                await self._finish(time.monotonic() + GRACE_SECONDS)
            finally:
                await self._abandon()

    async def _finish(self, deadline: float) -> None:
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await self._collect(left)

    async def _abandon(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _call(self, work: Callable[..., _T], *arguments: Any) -> _T:  # noqa: ANN401 - those of the work
        return await asyncio.get_running_loop().run_in_executor(self._store, work, *arguments)

    async def _look(self) -> None:
        """Take up new entries, and drop those of partitions that another worker owns now."""
        if await self._call(self._outbox.is_held_back):
            self._tell_held()
            return
        owned = sorted(self._owned())
        seen = await self._call(self._outbox.look, owned)
        self._clock = seen.now_us, time.monotonic()
        lost = [self._entries.pop(partition) for partition in self._entries.keys() - set(owned)]
        for lane in self._lanes.values():
            lane.gone = seen.gone.get(lane.endpoint.id) == str(lane.endpoint.url)
            for entries in lost:
                lane.forget(entries)
        for entry in seen.entries:
            if (trouble := entry.fault()) is None:
                await self._take(entry)
            else:
                await self._drop(entry, trouble)

    def _tell_held(self) -> None:
        """Log once that nothing is delivered."""
        if not self._held:
            self._held = True
            _LOG.warning("webhooks", held="the house was restored: `croupier restore --accept` lets it send")

    async def _take(self, entry: OutboxEntry) -> None:
        for name, lane in self._lanes.items():
            if lane.endpoint.wants(entry.notice) and entry.noted.get(name, Progress()) is not None:
                entry.owed.add(name)
                lane.owe(entry)
        if entry.owed:
            self._entries.setdefault(entry.partition, set()).add(entry)
        else:
            await self._call(self._outbox.note, entry, {}, ())

    async def _drop(self, entry: OutboxEntry, trouble: str) -> None:
        """Set an unreadable entry aside, so that it cannot end the worker again and again."""
        _LOG.error("unreadable", partition=entry.partition, entry=entry.stream_id, trouble=trouble)
        await self._call(self._outbox.note, entry, {}, (Undelivered("*", 0, f"unreadable: {trouble}"),))

    async def _send_until(self, deadline: float) -> None:
        """Start due deliveries and collect answers until the next look."""
        while (left := deadline - time.monotonic()) > 0 and not self._stopping.is_set():
            for lane in self._lanes.values():
                await self._start(lane)
            await self._collect(left)

    def _now_us(self) -> int:
        """The store's clock, extrapolated since the last look, unix microseconds."""
        read_us, at = self._clock
        return read_us + int((time.monotonic() - at) * SECOND_US)

    async def _start(self, lane: EndpointQueue) -> None:
        while lane.gone and lane.waiting:
            one = heapq.heappop(lane.waiting)
            await self._end(lane, one, Undelivered(lane.endpoint.id, one.attempts, "the endpoint is gone (410)"))
        while (due := lane.next(self._now_us())) is not None:
            told = due.entry.notice
            sending = lane.way.post(webhook_id(told, lane.endpoint.id), body(told), moment(self._now_us()))
            self._tasks[asyncio.create_task(sending)] = lane, due

    async def _collect(self, seconds: float) -> None:
        """Wait until some request ends, and record all that did."""
        if not self._tasks:
            await asyncio.sleep(seconds)
            return
        done, _ = await asyncio.wait(self._tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            lane, delivery = self._tasks.pop(task)
            lane.busy -= 1
            if delivery.entry in self._entries.get(delivery.partition, ()):
                await self._settle(lane, delivery, task.result())

    async def _settle(self, lane: EndpointQueue, delivery: Delivery, answer: AttemptResult) -> None:
        found, name, attempts = verdict(answer.status), lane.endpoint.id, delivery.attempts + 1
        lane.told(well=found == "delivered", answer=answer.trouble)
        if found == "delivered":
            await self._end(lane, delivery, None)
            return
        if found == "gone":
            await self._disable(lane)
        now_us = self._now_us()
        asked = retry_after_seconds(answer.retry_after, moment(now_us)) if answer.status in {429, 503} else 0.0
        wait = wait_seconds(self._webhooks.retry_seconds, attempts, asked, random.random())
        lane.paused_until_us = max(lane.paused_until_us, now_us + int(asked * SECOND_US))
        if found == "gone" or wait is None:
            await self._end(lane, delivery, Undelivered(name, attempts, answer.trouble[:_ERROR_CHARACTERS]))
            return
        again = Progress(attempts, now_us + int(wait * SECOND_US))
        await self._call(self._outbox.note, delivery.entry, {name: again}, ())
        lane.owe(delivery.entry)

    async def _end(self, lane: EndpointQueue, delivery: Delivery, given_up: Undelivered | None) -> None:
        """Finish an entry for an endpoint: delivered, or given up."""
        entry, name = delivery.entry, lane.endpoint.id
        entry.owed.discard(name)
        await self._call(self._outbox.note, entry, {name: None}, () if given_up is None else (given_up,))
        if given_up is not None:
            _LOG.error("undelivered", decision=entry.notice.decision_id, **given_up._asdict())
        if not entry.owed:
            self._entries[entry.partition].discard(entry)

    async def _disable(self, lane: EndpointQueue) -> None:
        if not lane.gone:
            _LOG.error("endpoint disabled", endpoint=lane.endpoint.id, trouble="it answered 410 Gone")
        lane.gone = True
        await self._call(self._outbox.disable, lane.endpoint)
