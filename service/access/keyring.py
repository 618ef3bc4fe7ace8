"""The keys that a serving process takes, as the store has them: never longer than a second behind it.

A loop looks several times a second. Where its last look is older, because the process was stopped, the machine is busy
or the store is slow, the request looks first: a key that was revoked or has expired is refused a second after that was
acknowledged, whatever the process was doing. Where nobody listens at the store's address there is nothing to look at,
and nothing of a house to be had: the keys that were seen last are taken, and callers told to leave people alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Final, NamedTuple, NoReturn

import structlog

from features.store.connection import Store, TimedStore
from features.store.errors import StoreAbsentError, StoreError
from features.store.keys import API_KEYS, API_KEYS_USED
from service.access import register
from service.access.keys import Caller, Ring, digest_of, environment_callers, id_of, ring

POLL_SECONDS: Final = 0.2
STALE_SECONDS: Final = 1.0
"""Age of a look from which a request looks itself."""
USED_SECONDS: Final = 60
"""The last use of a key is written this often at most, by each process."""
_LOOK_SECONDS: Final = 2.0
_TIME_SECONDS: Final = 5.0
"""How often the store is asked for the time: two clocks of one kind drift apart by microseconds meanwhile."""
_LOG: Final = structlog.get_logger()


class _Look(NamedTuple):
    """What was seen: keys as they are kept and as they are looked up, and when, on the monotonic clock.

    Attributes:
        kept: Keys as they are kept.
        ring: The same as they are looked up.
        begun: When the look began.
        timed: When the store was last asked for the time.
        unix_less_clock: What to add to the monotonic clock for the store's.
    """

    kept: Mapping[bytes, bytes]
    ring: Ring
    begun: float
    timed: float
    unix_less_clock: float


class Keyring:
    """Keys of the store and of the environment.

    Args:
        store: Where the keys are.
        words: Keys of the environment, which need no store.
        clock: The monotonic clock.
    """

    def __init__(self, store: Store, words: Sequence[str], clock: Callable[[], float]) -> None:
        self._store = store
        self._environment = environment_callers(words)
        self._clock = clock
        self._seen = _Look({}, Ring({}), -inf, -inf, 0.0)
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._noted: dict[str, float] = {}
        self._unwritten: dict[str, int] = {}

    def fresh(self, at: float) -> bool:
        """Whether what was seen is recent enough for a request of a moment of the monotonic clock."""
        return at - self._seen.begun < STALE_SECONDS

    def now(self) -> float:
        """The store's clock, unix seconds, as of the last look and the monotonic clock since."""
        return self._clock() + self._seen.unix_less_clock

    def caller(self, sent: str) -> Caller | None:
        """Who sent a key, by what was seen last; None if it is none."""
        digest = digest_of(sent)
        if (key_id := id_of(sent)) is not None:
            found = self._seen.ring.caller(key_id, digest, self.now())
            if found is not None:
                self._note(found.id)
                return found
        return self._environment.get(digest)

    def of_environment(self, sent: str) -> bool:
        """Whether a key is one of the environment's, which no store needs to be asked about."""
        return bool(self._environment) and digest_of(sent) in self._environment

    def named(self, key_id: str, secret: str) -> Caller | None:
        """Who signed in with a key whose secret has a name; None once that is not live."""
        found = self._seen.ring.named(key_id, secret, self.now())
        if found is not None:
            self._note(found.id)
            return found
        return next((one for one in self._environment.values() if (one.id, one.secret) == (key_id, secret)), None)

    async def renew(self, at: float, until: float, aside: TimedStore | None = None) -> None:
        """Look before a request is answered, together with whoever waits for the same look.

        Args:
            at: When the request arrived, on the monotonic clock.
            until: Its deadline.
            aside: Whom to ask in place of the usual connections; always on one and the same loop.

        Raises:
            StoreError: The store does not say in time which keys there are.
        """
        slot = "usual" if aside is None else "aside"
        while not self.fresh(at):
            if is_mine := (looking := self._looking.get(slot)) is None or looking.done():
                looking = self._looking[slot] = asyncio.create_task(self.look(aside))
                looking.add_done_callback(_noted)
            try:
                async with asyncio.timeout(until - self._clock()):
                    await asyncio.shield(looking)
            except TimeoutError:
                raise StoreError("the store did not say before the deadline which keys there are") from None
            except StoreAbsentError:
                return
            except StoreError:
                if is_mine:
                    raise  # a look that began before this request may have had less time

    async def look(self, store: TimedStore | None = None) -> None:
        """Read the keys; raises StoreError if the store does not answer.

        Args:
            store: Whom to ask in place of the usual connections.
        """
        begun = self._clock()
        asked = store or TimedStore(self._store, begun + _LOOK_SECONDS)
        before = self._seen
        timed, offset = before.timed, before.unix_less_clock
        if begun - timed >= _TIME_SECONDS:
            timed, offset = begun, await register.now(asked) - begun
        kept = await register.read_hash(asked, API_KEYS)
        before = self._seen
        if begun <= before.begun:
            return  # a later look has ended before this one
        found = before.ring if kept == before.kept else self._read(kept)
        self._seen = _Look(kept, found, begun, timed, offset)  # at once: another thread may look as well

    def _read(self, kept: Mapping[bytes, bytes]) -> Ring:
        found, odd = ring(kept)
        if odd:
            _LOG.error("keys", trouble=f"this build cannot read {', '.join(sorted(odd))}, which open nothing")
        return found

    async def run(self) -> NoReturn:
        """Look until cancelled, and write when keys were last used."""
        while True:
            with suppress(StoreError):
                await self.look()
                await self._write_used()
            await asyncio.sleep(POLL_SECONDS)

    def _note(self, key_id: str) -> None:
        now = self._clock()
        if now - self._noted.get(key_id, -inf) >= USED_SECONDS:
            self._noted[key_id] = now
            self._unwritten[key_id] = int(self.now())

    async def _write_used(self) -> None:
        if self._unwritten:
            written = dict(self._unwritten)
            fields = [part for name, at in written.items() for part in (name, at)]
            await TimedStore(self._store, self._clock() + _LOOK_SECONDS).command("HSET", API_KEYS_USED, *fields)
            for name in written:
                del self._unwritten[name]


def _noted(task: asyncio.Task[None]) -> None:
    """Take note of how a look ended, so that one for which nobody waits any more does not complain."""
    if not task.cancelled():
        task.exception()
