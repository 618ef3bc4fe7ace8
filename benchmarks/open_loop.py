"""Open loop: requests are sent at times fixed ahead, whatever became of those before; latency counts from that time.

A caller who waits for each answer asks less of a slow server, and leaves out of its figures all who would have asked
meanwhile (coordinated omission). Here nobody waits for anybody: what comes late was late for whoever was scheduled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import aiohttp
import numpy as np

SECONDS: Final = 30.0
"""After which a request counts as unanswered."""
WARM_CONNECTIONS: Final = 32


class OpenRequest(NamedTuple):
    """A request: what it is counted as, where it goes, and its body."""

    kind: str
    path: str
    body: Mapping[str, Any]


class ScheduledRequest(NamedTuple):
    """When a request is sent, seconds after the beginning, and what makes it then."""

    at: float
    make: Callable[[], OpenRequest]


class OpenAnswer(NamedTuple):
    """An answer: HTTP status (0 for none), its JSON, and when it came, seconds after the beginning.

    `seconds` are those since its scheduled time, `late` those until it was sent.
    """

    kind: str
    status: int
    seconds: float
    late: float
    body: Any
    ended: float = 0.0


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Times of arrivals that know nothing of each other, at a mean rate a second."""
    random = np.random.default_rng(seed)
    times = np.cumsum(random.exponential(1 / rate, int(rate * seconds * 1.5) + 20))
    return [float(one) for one in times[times < seconds]]


async def send(
    address: str,
    headers: Mapping[str, str],
    schedule: Sequence[ScheduledRequest],
    heard: Callable[[OpenAnswer], None] = lambda _: None,
) -> list[OpenAnswer]:
    """Send a schedule to a server; `heard` is called with each answer as it comes."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    limit = aiohttp.ClientTimeout(total=SECONDS)
    async with aiohttp.ClientSession(address, connector=connector, headers=dict(headers), timeout=limit) as session:
        # To connect is no part of what is measured.
        await asyncio.gather(*(_exchange(session, "GET", "/healthz", None) for _ in range(WARM_CONNECTIONS)))
        begun, tasks = time.perf_counter() + 0.05, list[asyncio.Task[OpenAnswer]]()
        for one in schedule:
            await asyncio.sleep(max(0.0, begun + one.at - time.perf_counter()))
            tasks.append(asyncio.create_task(_one(session, one, begun, heard)))
        return list(await asyncio.gather(*tasks))


async def _one(
    session: aiohttp.ClientSession, one: ScheduledRequest, begun: float, heard: Callable[[OpenAnswer], None]
) -> OpenAnswer:
    late, asked = time.perf_counter() - begun - one.at, one.make()
    status, body = await _exchange(session, "POST", asked.path, asked.body)
    ended = time.perf_counter() - begun
    answer = OpenAnswer(asked.kind, status, ended - one.at, late, body, ended)
    heard(answer)
    return answer


async def _exchange(session: aiohttp.ClientSession, method: str, path: str, body: object) -> tuple[int, Any]:
    try:
        async with session.request(method, path, json=body) as answered:
            return answered.status, await answered.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return 0, None


def percentiles(answers: Sequence[OpenAnswer], *of: float) -> list[float | None]:
    """Percentiles of the latencies of some answers, milliseconds; None of no answers."""
    if not answers:
        return [None for _ in of]
    found = np.percentile([answer.seconds for answer in answers], of) * 1_000
    return [round(float(one), 2) for one in found]
