"""Rates: how many requests a key may send, and wrong keys an address may try, counted in this process's memory.

A key's rate holds for the house: each of its live serving processes gives its share, without asking the others. A
caller that keeps to one connection, and so to one process, gets that process's share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from math import gcd, inf
from typing import Final

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

WRONG_A_MINUTE: Final = 30
"""Wrong keys an address may send in a minute before it is told to wait."""
LOGGED_A_MINUTE: Final = 30
"""Lines about wrong keys that a process logs in a minute."""
ADDRESSES: Final = 10_000
"""Addresses that are counted apart; those beyond share one count."""
_NETWORK_BITS: Final = 64
_WRONG: Final = RateLimitItemPerMinute(WRONG_A_MINUTE)
_LOGGED: Final = RateLimitItemPerMinute(LOGGED_A_MINUTE)
_OTHERS: Final = "others"
_SWEEP_SECONDS: Final = 1.0
"""What has ended is looked for this often at most: of ten thousand names it takes a millisecond."""


class Counts(Storage):
    """Counts by name, bounded in number, each until its window ends.

    The library's own storage in memory starts a thread for each request, to forget what has ended, which costs 0.1 ms.

    Args:
        most: Names that may be counted at once; beyond them what has ended is forgotten, then everything.
        clock: The monotonic clock.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        super().__init__()
        self._most = most
        self._clock = clock
        self._counts: dict[str, tuple[int, float]] = {}
        self._swept = -inf

    @property
    def base_exceptions(self) -> type[Exception]:
        """Errors that the storage raises by itself: none."""
        return ValueError

    def has(self, key: str) -> bool:
        """Whether there is room to count under a name."""
        if key in self._counts or len(self._counts) < self._most:
            return True
        if (now := self._clock()) < self._swept + _SWEEP_SECONDS:
            return False
        self._swept = now
        self._counts = {name: held for name, held in self._counts.items() if now < held[1]}
        return len(self._counts) < self._most

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count; the first one opens a window of so many seconds."""
        count, ends = self._counts.get(key, (0, 0.0))
        if (now := self._clock()) >= ends:
            count, ends = 0, now + expiry
        self._counts[key] = count + amount, ends
        return count + amount

    def get(self, key: str) -> int:
        """The count of the window that is open."""
        count, ends = self._counts.get(key, (0, 0.0))
        return count if self._clock() < ends else 0

    def get_expiry(self, key: str) -> float:
        """When the window ends, on the monotonic clock."""
        return self._counts.get(key, (0, self._clock()))[1]

    def check(self) -> bool:
        """Memory is always there."""
        return True

    def reset(self) -> int:
        """Forget everything."""
        count = len(self._counts)
        self._counts.clear()
        return count

    def clear(self, key: str) -> None:
        """Forget a name."""
        self._counts.pop(key, None)


@lru_cache(4_096)
def share(rate: int, processes: int) -> RateLimitItem:
    """One process's share of a rate a second, in whole requests: of 3 among 2 it is 3 in 2 seconds."""
    seconds = processes // gcd(rate, processes)
    return RateLimitItemPerSecond(rate * seconds // processes, seconds)


class Rates:
    """Counts of keys and of addresses that send wrong ones.

    Attributes:
        processes: Live serving processes of the house, which share each rate.

    Args:
        clock: The monotonic clock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.processes = 1
        self._clock = clock
        self._limiter = FixedWindowRateLimiter(Counts(ADDRESSES, clock))
        self._addresses = Counts(ADDRESSES, clock)
        self._wrong = FixedWindowRateLimiter(self._addresses)
        self._taken_until: dict[str, float] = {}

    def wait(self, key_id: str, rate: int, cost: int = 1) -> float:
        """Seconds until a key may send a request, which is counted if they are 0.

        What costs more than a window has takes a whole one, and what it has too much of the time after it.
        """
        item, now = share(rate, self.processes), self._clock()
        if (left := self._taken_until.get(key_id, 0.0) - now) > 0:
            return left
        paid = min(cost, item.amount)
        if not self._limiter.test(item, key_id, cost=paid):
            return max(0.001, self._limiter.get_window_stats(item, key_id).reset_time - now)
        self._limiter.hit(item, key_id, cost=paid)
        if cost > item.amount:
            self._taken_until[key_id] = now + cost * item.get_expiry() / item.amount
        return 0.0

    def may_be_wrong(self, address: str) -> bool:
        """Whether an address may send a wrong key without being told to wait."""
        return self._wrong.test(_WRONG, self._counted(address))

    def _counted(self, address: str) -> str:
        name = network_of(address)
        return name if self._addresses.has(_WRONG.key_for(name)) else _OTHERS

    def wrong(self, address: str) -> float:
        """Count a wrong key of an address; seconds until it may try again, 0 if it may at once."""
        name = self._counted(address)
        if self._wrong.hit(_WRONG, name):
            return 0.0
        return max(0.001, self._wrong.get_window_stats(_WRONG, name).reset_time - self._clock())

    def logs(self) -> bool:
        """Whether one more line about wrong keys may be logged."""
        return self._limiter.hit(_LOGGED, _OTHERS)


def network_of(address: str) -> str:
    """An address as it is counted: of IPv6 the network, within which one machine has as many as it likes."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return _OTHERS
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Address(int(found) >> _NETWORK_BITS << _NETWORK_BITS))
    return str(found)
