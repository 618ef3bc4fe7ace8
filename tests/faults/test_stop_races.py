"""Stops against confirms and decisions in flight: nothing is sent after the acknowledgement, whoever slept then."""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pytest
from support.deadlines import PATIENT
from support.fault_house import Caller, Serving, World, players
from support.faulty_store import Between, Fault
from support.keys import HEADERS

from features.store.deployment import PARTITIONS
from features.store.keys import PlayerKeys, log_key
from service.contacts import kill_switch
from service.contacts.kill_switch import StopWritten
from service.contacts.stops import wished

RACES: Final = int(os.environ.get("CROUPIER_RACES", "240"))
"""`make stops` asks for 10,000."""
PLAYERS: Final = 20
SERVINGS: Final = 4
ROUND: Final = PLAYERS * SERVINGS
REASON: Final = {"reason": "a wrong link"}


def stopped(world: World, **of: str) -> StopWritten:
    done = kill_switch.stop(world.client, wished("ops", REASON["reason"], None, **of))
    assert done.acknowledged
    return done


@pytest.fixture
def servings(world: World, tmp_path: Path) -> Iterator[list[Serving]]:
    """Serving processes of one house."""
    with ExitStack() as stack:
        folders = [tmp_path / f"serving-{number}" for number in range(SERVINGS)]
        for folder in folders:
            folder.mkdir()
        yield [stack.enter_context(Serving(world.server.url, folder, **PATIENT)) for folder in folders]


def signalled(serving: Serving, what: signal.Signals) -> None:
    assert serving.process.pid is not None
    os.kill(serving.process.pid, what)


class Leases:
    """Contacts that wait for their confirm, and can be made to wait again."""

    def __init__(self, world: World, caller: Caller) -> None:
        self._world = world
        self._held: dict[str, tuple[str, str]] = {}
        for player in players("race", PLAYERS):
            caller.welcome(player)
            self._world.apply()
            decision = caller.contact(player)
            self._held[decision] = player, world.ledger(player)[decision]

    @property
    def decisions(self) -> list[str]:
        return list(self._held)

    def open_again(self) -> None:
        for decision, (player, entry) in self._held.items():
            key = PlayerKeys(self._world.house.player_key(player)).ledger
            self._world.client.hset(key, decision, entry)
            self._world.client.hincrby(key, "v", 1)

    def confirmed(self) -> int:
        return sum(" confirmed " in self._world.ledger(player)[name] for name, (player, _) in self._held.items())


def ends(world: World) -> list[str]:
    """The last entry of every log."""
    pipe = world.client.pipeline(transaction=False)
    for partition in range(PARTITIONS):
        pipe.xrevrange(log_key(partition), count=1)
    return [found[0][0].decode() if found else "0-0" for found in pipe.execute()]


def exposures(world: World, since: list[str]) -> int:
    """Confirms that were committed after these entries."""
    pipe = world.client.pipeline(transaction=False)
    for partition, end in enumerate(since):
        pipe.xrange(log_key(partition), f"({end}")
    return sum(fields[b"k"] == b"exposure" for found in pipe.execute() for _, fields in found)


@asynccontextmanager
async def clients_of(servings: list[Serving]) -> AsyncIterator[dict[Serving, httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        ways = {one: httpx.AsyncHTTPTransport(uds=str(one.socket)) for one in servings}
        made = {
            one: httpx.AsyncClient(transport=way, base_url="http://localhost", headers=HEADERS, timeout=60)
            for one, way in ways.items()
        }
        for client in made.values():
            await stack.enter_async_context(client)
        yield made


async def raced(world: World, servings: list[Serving], leases: Leases, chance: random.Random) -> dict[str, Any]:
    """One stop against confirms of every lease in every process, one of which sleeps until it was acknowledged."""
    sleeper, asking = chance.choice(servings), chance.choice(servings)
    while asking is sleeper:
        asking = chance.choice(servings)
    answers: list[tuple[bool, httpx.Response]] = []
    stop: dict[str, Any] = {}
    async with clients_of(servings) as clients:

        async def confirm(serving: Serving, decision: str) -> None:
            await asyncio.sleep(chance.random() * chance.choice((0.06, 0.06, 0.6)))
            after = "since" in stop
            answer = await clients[serving].post(f"/v1/decisions/{decision}/confirm", json={})
            answers.append((after, answer))

        async def command() -> None:
            await asyncio.sleep(0.02 + chance.random() * 0.03)
            signalled(sleeper, signal.SIGSTOP)
            begun = time.perf_counter()
            answer = await clients[asking].post("/v1/stops", json=REASON)
            took = time.perf_counter() - begun
            assert answer.status_code == 200, answer.text
            stop.update(id=answer.json()["id"], ms=took * 1_000, since=ends(world))
            signalled(sleeper, signal.SIGCONT)

        sent = [confirm(serving, decision) for serving in servings for decision in leases.decisions]
        await asyncio.gather(command(), *sent)
        after = [
            await clients[serving].post(f"/v1/decisions/{decision}/confirm", json={})
            for serving in servings
            for decision in leases.decisions[:2]
        ]
    rule = f"stop:{stop['id']}"
    assert exposures(world, stop["since"]) == 0, "a confirm was committed after the stop was acknowledged"
    for asked_after, answer in [*answers, *((True, one) for one in after)]:
        assert answer.status_code in ({409} if asked_after else {200, 409}), answer.text
        assert answer.status_code == 200 or answer.json()["rules"] == [rule]
    kinds = Counter((after, answer.status_code) for after, answer in answers)
    return {"ms": stop["ms"], "id": stop["id"], "kinds": kinds}


def test_no_confirm_succeeds_after_a_stop_was_acknowledged_in_whatever_process(
    world: World, servings: list[Serving]
) -> None:
    """Each confirm was committed before the acknowledgement, as the log shows, or never; a lift gives leave again."""
    with Caller(servings[0].socket) as caller:
        leases = Leases(world, caller)
        chance, took, kinds, before = random.Random(7), list[float](), Counter[tuple[bool, int]](), 0
        for _ in range(-(-RACES // ROUND)):
            world.apply()  # or features grow too old to be relied on
            leases.open_again()
            found = asyncio.run(raced(world, servings, leases, chance))
            before += leases.confirmed()
            took.append(found["ms"])
            kinds += found["kinds"]
            kill_switch.lift(world.client, found["id"], "ops", "mended")
            assert {caller.confirm(one).status_code for one in leases.decisions} == {200}
    assert kinds[False, 200], "no confirm was faster than its stop: nothing was raced"
    assert before, "no lease was confirmed before its stop"
    p50, p99 = np.quantile(took, (0.5, 0.99))
    sys.stdout.write(
        f"{sum(kinds.values()):,} confirms against {len(took)} stops: {kinds[False, 200]:,} were earlier, "
        f"{kinds[False, 409]:,} in flight and {kinds[True, 409]:,} later ones were refused, 0 succeeded after; "
        f"command to acknowledgement p50 {p50:.1f} ms, p99 {p99:.1f} ms; load {os.getloadavg()[0]:.1f}\n"
    )


@pytest.fixture
def behind(between: Between, tmp_path: Path, world: World) -> Iterator[Caller]:
    """A caller of a process whose calls to the store can be met on their way, and a player who may be written to."""
    with Serving(between.url, tmp_path, **PATIENT) as serving, Caller(serving.socket) as made:
        for player in players("p", 2):
            made.welcome(player)
        world.apply()
        yield made


@pytest.mark.parametrize("activate", [False, True])
def test_a_stop_between_reading_and_reserving_makes_the_whole_decision_run_again(
    world: World, between: Between, behind: Caller, *, activate: bool
) -> None:
    player, done = players("p")[0], list[StopWritten]()
    between.fault = Fault("croupier_decide", "before", "go on", lambda: done.append(stopped(world)))
    answer = behind.ask(player, activate=activate, explain=True).json()
    assert answer["action"] == "NO_CONTACT"
    assert done[0].stop.rule in {one["rule"] for one in answer["exclusions"]}
    assert behind.get(f"/v1/decisions/{answer['decision_id']}").json()["attempt"] == 1
    assert world.ledger(player) == {}


def test_a_stop_between_reading_and_confirming_refuses_the_confirm(
    world: World, between: Between, behind: Caller
) -> None:
    decision, done = behind.contact(players("p")[0]), list[StopWritten]()
    between.fault = Fault("croupier_confirm", "before", "go on", lambda: done.append(stopped(world)))
    answer = behind.confirm(decision)
    assert (answer.status_code, answer.json()["rules"]) == (409, [done[0].stop.rule])


def test_a_message_of_service_is_sent_though_a_stop_came_in_between(
    world: World, between: Between, behind: Caller
) -> None:
    between.fault = Fault("croupier_decide", "before", "go on", lambda: stopped(world))
    answer = behind.ask(players("p")[0], purpose="service", activate=True).json()
    assert answer["action"] != "NO_CONTACT"
    assert behind.confirm(answer["decision_id"]).status_code == 200


def test_a_stop_that_is_lifted_between_reading_and_reserving_changes_nothing_that_is_sent(
    world: World, between: Between, behind: Caller
) -> None:
    """What was left out because of it is drawn from again: a decision is made of what stands when it is committed."""
    player, done = players("p")[0], stopped(world)
    between.fault = Fault(
        "croupier_decide", "before", "go on", lambda: kill_switch.lift(world.client, done.stop.id, "ops", "mended")
    )
    answer = behind.ask(player, explain=True).json()
    assert done.stop.rule not in {one["rule"] for one in answer["exclusions"]}
    assert answer["candidates"]["eligible"] > 1
