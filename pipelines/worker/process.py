"""The worker process: features at once, the lake every few seconds, messages, webhooks, schedules, errands."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import redis
import structlog

from features.errors import CroupierError
from features.files import CatalogueError
from features.steps import Step, no_step
from features.store import erasures
from features.store.cluster import is_away, replies
from features.store.connection import connect
from features.store.deployment import order
from features.store.errors import StoreError
from features.store.keys import LAKE_LEASE, lease_key
from pipelines.served import kept_of_served, read_kept
from pipelines.worker.consumer import Consumer, serving_plan
from pipelines.worker.dispatcher import Dispatcher
from pipelines.worker.erasures import settle
from pipelines.worker.errands import EXPORTS, HISTORY, Runner
from pipelines.worker.lake import Lake, reach
from pipelines.worker.lake_keeping import COLLECTION, lake_keeping
from pipelines.worker.lanes import Delivery
from pipelines.worker.schedule import Scheduler
from pipelines.worker.sender import SendLoop
from pipelines.worker.webhooks import Webhooks
from service.contacts import kill_switch
from service.rules.rulebook import Rulebook, load_rulebook, rulebook_path

RENEW_SECONDS: Final = 1.0
BLOCK_MS: Final = 200
FLUSH_SECONDS: Final = 5.0
LAKE_LEASE_SECONDS: Final = 15
LOOK_SECONDS: Final = 1.0
_LOG: Final = structlog.get_logger()


class Worker:
    """Runs the worker until stopped. Exits on a store error; the supervisor restarts it.

    Of a cluster, the partitions of a node that is away wait until it is back, and so does the lake, which is written
    of all partitions or not at all; the others go on. `step` is called before every step of the consumer and of the
    lake with its name.
    """

    def __init__(
        self,
        url: str,
        lake: Path,
        scheduler: Scheduler | None = None,
        webhooks: Webhooks | None = None,
        step: Step = no_step,
        delivery: Delivery | None = None,
    ) -> None:
        self._client, self._lake_client, self._url = connect(url), connect(url), url
        plan = serving_plan(self._client)
        if plan is None:
            raise StoreError("feature definitions were not applied yet: run `croupier up` once")
        self._rules = b""
        self.consumer = Consumer(self._client, plan, load_rulebook(rulebook_path()).harm, step)
        self._lake = lake
        self._scheduler = scheduler
        errands = (EXPORTS, HISTORY, lake_keeping(lake), COLLECTION)
        self._errands = [Runner(errand, self._client, url, lake.parent) for errand in errands]
        # None leaves the outboxes to another worker; the consumer's thread changes `owned` meanwhile, so it is copied.
        self._courier = None if webhooks is None else Dispatcher(url, webhooks, lambda: tuple(self.consumer.owned))
        # None leaves what falls due to another worker, or to nobody.
        owned = lambda: dict(self.consumer.owned)  # noqa: E731 - of another thread
        self._sender = None if delivery is None else SendLoop(url, delivery, owned, lake.parent, step)
        self._step = step
        self._owner = secrets.token_hex(8)
        self._flushed_us = ""
        self._erasures_found = False
        self._stopping = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Work until `stop`; then release the partitions, flush a last time and end scheduled commands."""
        looker = self._half(self._look_often)
        looker.start()
        try:
            self._work()
        finally:
            self._stopping.set()
            looker.join()

    def _work(self) -> None:
        beside = [self._half(work) for work in (self._flush_often, self._tell_often, self._send_often)]
        for one in beside:
            one.start()
        try:
            self._consume()
        finally:
            self._stopping.set()
            for teller in (self._courier, self._sender):
                if teller is not None:
                    teller.stop()
            for one in beside:
                one.join()
        self.consumer.release()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Ask `run` to end after the step under way."""
        self._stopping.set()

    def _consume(self) -> None:
        renewed = 0.0
        while not self._stopping.is_set():
            if time.monotonic() - renewed >= RENEW_SECONDS:
                self._renew()
                self._unless_away("rulebook", self._follow_rules)
                self._unless_away("budgets", self.consumer.expire)
                self._mend_stops()
                renewed = time.monotonic()
            if not self.consumer.owned:
                self._stopping.wait(RENEW_SECONDS)
                continue
            self.consumer.step(BLOCK_MS)

    def _renew(self) -> None:
        before = self.consumer.away
        self.consumer.renew()
        if self.consumer.away != before:
            _LOG.warning("store", partitions_away=self.consumer.away)

    def _follow_rules(self) -> None:
        """Take up the harm settings of the rulebook that serves; of its own files until one is known to."""
        try:
            kept = kept_of_served(self._client, "rules")
            if kept is None or kept == self._rules:
                return
            self._rules = kept
            self.consumer.settings = read_kept(Rulebook, kept).harm
        except CatalogueError as error:
            _LOG.error("rulebook", trouble=str(error), kept="the signs of harm of the one before")

    def _mend_stops(self) -> None:
        """Bring what is stopped, and what no longer is, to partitions of ours that were away when that was said."""
        try:
            if mended := kill_switch.mend(self._client, self.consumer.owned):
                _LOG.warning("stops", mended=mended)
        except StoreError as error:
            _LOG.warning("stops", trouble=str(error))

    def _half(self, work: Callable[[], None]) -> threading.Thread:
        """A thread beside the consumer; an exception in it ends the worker, which is then restarted."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - told by `run`
                self._failure = error
                self._stopping.set()

        return threading.Thread(target=guarded, daemon=True)

    def _flush_often(self) -> None:
        while not self._stopping.wait(FLUSH_SECONDS):
            self._unless_away("lake", self._flush)
        self._unless_away("lake", self._flush_last)

    def _tell_often(self) -> None:
        if self._courier is not None:
            self._courier.run()

    def _send_often(self) -> None:
        if self._sender is not None:
            self._sender.run()

    def _look_often(self) -> None:
        try:
            while not self._stopping.wait(LOOK_SECONDS):
                for errand in self._errands:
                    self._unless_away("errands", errand.look)
                if self._scheduler is not None:
                    self._unless_away("scheduler", self._scheduler.look)
        finally:
            for errand in self._errands:
                self._unless_away("errands", errand.stop)
            if self._scheduler is not None:
                self._scheduler.stop()

    def _flush_last(self) -> None:
        self._flush()
        self._lake_client.fcall("croupier_release", 1, LAKE_LEASE, self._owner)

    def _unless_away(self, what: str, work: Callable[[], None]) -> None:
        """Run a function, or log that it waits for a part of the store."""
        try:
            work()
        except redis.RedisError as error:
            if not is_away(error):
                raise
            _LOG.warning(what, trouble=f"waits until the whole store answers: {error}")

    def _lease(self) -> object:
        held_us = str(LAKE_LEASE_SECONDS * 1_000_000)
        return self._lake_client.fcall("croupier_lease", 1, LAKE_LEASE, self._owner, held_us, self._flushed_us)

    def _flush(self) -> None:
        """Flush if this worker holds or gets the lease of the lake: one writer at a time.

        A lake that cannot be written, as when its disk is full, must not hold up features: the log keeps what the lake
        misses, and the next flush tries again.
        """
        if self._lease() == 0:
            return
        try:
            lake = Lake(self._lake_client, self._lake, self._step)
            written = lake.flush()
        except OSError as error:
            _LOG.error("lake", trouble=f"it cannot be written: {error}", kept="the log keeps what it misses")
            return
        self._flushed_us = str(lake.reach.flushed * 1_000)
        self._lease()  # with how far the lake reaches, for whoever watches its lag
        if written:
            _LOG.info("flushed", entries=written)
        self._settle()

    def _settle(self) -> None:
        """End erasures: one worker at a time, beside the lake and the file of erasures. The next flush tries again."""
        try:
            if not self._erasures_found:
                erasures.find_waiting(self._lake_client)
                self._erasures_found = True
            settle(self._lake_client, self._url, self._lake.parent, lambda what: _LOG.info("erasures", did=str(what)))
        except (OSError, CroupierError) as error:
            _LOG.error("erasures", trouble=str(error), kept="the journal of the store, and the next flush tries again")


def wait_until_applied(client: redis.Redis, reached: Mapping[int, str], seconds: float = 600.0) -> None:
    """Block until features include these places of the log; raises StoreError after `seconds`."""
    deadline = time.monotonic() + seconds
    missing = dict(reached)
    while missing := _missing(client, missing):
        if time.monotonic() > deadline:
            raise StoreError("the worker does not keep up: features still miss what was appended")
        time.sleep(0.05)


def _missing(client: redis.Redis, reached: Mapping[int, str]) -> dict[int, str]:
    """Places that features do not include yet, by partition; those of a node that is away among them."""
    pipe = client.pipeline(transaction=False)
    for partition in reached:
        pipe.hget(lease_key(partition), "cursor")
    try:
        cursors = replies(pipe)
    except redis.ConnectionError:
        return dict(reached)
    return {
        partition: place
        for (partition, place), cursor in zip(reached.items(), cursors, strict=True)
        if is_away(cursor) or order((cursor or b"0-0").decode()) < order(place)
    }


def wait_until_in_lake(lake: Path, real_us: int, seconds: float = 600.0) -> None:
    """Block until the lake holds everything logged before a moment of the store's clock; raises StoreError."""
    deadline = time.monotonic() + seconds
    while reach(lake).flushed * 1_000 < real_us:
        if time.monotonic() > deadline:
            raise StoreError("the worker does not keep up: the lake still misses what was appended")
        time.sleep(0.05)
