"""The ledger on a real store: no interleaving of callers oversteps a limit or loses a contact."""

import os
import random
import subprocess
import sys
from typing import Any

import pytest
import redis
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.ledger_house import CATALOGUE, DAY, DEVICES, HOMES, HOUR, PLAYERS, Attempt, Rooms, check_limits, history

from features.store.connection import load_library
from features.store.deployment import House, create_house
from features.store.server import Server
from service.contacts import limits
from service.contacts.limits import Held

EXAMPLES = int(os.environ.get("CROUPIER_EXAMPLES", "30"))
"""`make ledger` asks for 1,000."""
STEPS = 50
WHICH = st.integers(0, 2**16)
"""Which of those that are there; what is drawn must not hang on them."""
PHASES = [Phase.generate] if "CROUPIER_EXAMPLES" in os.environ else list(Phase)
PROCESSES, TURNS = 8, 150
LINKS = (*zip(PLAYERS, DEVICES, strict=False), (PLAYERS[1], PLAYERS[0]), (PLAYERS[2], PLAYERS[1]))
"""Who may turn out to be whom: devices to be players, and players further players."""


def machine_over(server: Server, store: redis.Redis) -> type[RuleBasedStateMachine]:  # noqa: C901 - one rule a step
    """Callers of one house, who look, draw, commit late, confirm, give up, lose consent and find each other."""

    class Callers(RuleBasedStateMachine):
        @initialize()
        def move_in(self) -> None:
            store.flushall()
            load_library(store, "service.contacts", "ledger.lua")
            self.rooms = Rooms(server.url, create_house(store, sandbox=True))
            self.attempts: list[Attempt] = []
            self.made: list[tuple[str, str]] = []

        def teardown(self) -> None:
            if hasattr(self, "rooms"):
                self.rooms.close()

        @rule(player=st.sampled_from((*PLAYERS, *DEVICES)), seed=st.integers(0, 2**32))
        def look(self, player: str, seed: int) -> None:
            self.attempts.append(self.rooms.look(player, random.Random(seed)))

        @precondition(lambda self: self.attempts)
        @rule(which=WHICH)
        def commit(self, which: int) -> None:
            """A draw that may be old by now; one that is refused leaves every contact as it was."""
            attempt = self.attempts.pop(which % len(self.attempts))
            before = self.rooms.contacts()
            status = self.rooms.commit(attempt)
            if status == "reserved":
                self.made.append((attempt.player, attempt.name))
            else:
                assert self.rooms.contacts() == before

        @rule(player=st.sampled_from(PLAYERS), seed=st.integers(0, 2**32))
        def decide(self, player: str, seed: int) -> None:
            """Look and commit at once: nothing came between, so only a budget can be in the way."""
            attempt = self.rooms.look(player, random.Random(seed))
            status = self.rooms.commit(attempt)
            assert status in {"reserved", "lost"}
            if status == "reserved":
                self.made.append((attempt.player, attempt.name))

        @precondition(lambda self: self.attempts)
        @rule()
        def die_between_household_and_player(self) -> None:
            """A process that dies after the first of two steps takes room for a while, and never too little of it."""
            attempt = self.attempts.pop()
            view = attempt.view
            if view.household and attempt.held:
                version, households = view.household_version or "0", self.rooms.ledger.households
                freed = view.held.freed(self.rooms.house.now_us(view.real_us))
                self.rooms.do(households.reserve(view.household, version, f"{attempt.name}#2", attempt.held, freed))

        @rule(which=WHICH, times=st.integers(1, 2))
        def confirm(self, which: int, times: int) -> None:
            for player, name in self._made(which):
                answers = [self._at(player, name, "confirm") for _ in range(times)]
                assert len(set(answers)) == 1

        @rule(which=WHICH, times=st.integers(1, 2))
        def fail(self, which: int, times: int) -> None:
            """A contact that failed gives its room back, told twice too, and is never confirmed after."""
            for player, name in self._made(which):
                for _ in range(times):
                    self._at(player, name, "release")
                assert self._at(player, name, "confirm") != "confirmed"

        def _made(self, which: int) -> list[tuple[str, str]]:
            """One contact that was made, if there is any."""
            return [self.made[which % len(self.made)]] if self.made else []

        def _at(self, key: str, name: str, what: str) -> str:
            caller = next(one for one in (*PLAYERS, *DEVICES) if self.rooms.key(one) == key)
            return str(getattr(self.rooms, what)(caller, name))

        @rule(hours=st.sampled_from([0.5, 1, 3, 24, 100]))
        def wait(self, hours: float) -> None:
            self.rooms.wait(int(hours * HOUR))

        @rule()
        def sweep(self) -> None:
            """What ran out is given back once: sweeping again finds nothing."""
            self.rooms.sweep()
            assert self.rooms.sweep() == 0

        @rule(player=st.sampled_from((*PLAYERS, *DEVICES)))
        def exclude(self, player: str) -> None:
            """After the acknowledgement no promotion of the player is open on any of the linked ids."""
            self.rooms.tell(player, "self_excluded")
            view = self.rooms.look(player, random.Random(1)).view
            assert not [one for one in view.held.own.values() if one.state == "reserved"]

        @rule(player=st.sampled_from(PLAYERS), channel=st.sampled_from(["email", "sms"]))
        def unsubscribe(self, player: str, channel: str) -> None:
            self.rooms.tell(player, "consent_changed", channel=channel, granted=False)
            view = self.rooms.look(player, random.Random(1)).view
            assert not [one for one in view.held.own.values() if (one.state, one.channel) == ("reserved", channel)]

        @rule(player=st.sampled_from(PLAYERS), home=st.sampled_from(HOMES))
        def join(self, player: str, home: str) -> None:
            self.rooms.join(player, home)

        @rule(pair=st.sampled_from(LINKS))
        def link(self, pair: tuple[str, str]) -> None:
            """An id turns out to be a player, told twice too; what it held is the player's, if a limit can need it."""
            player, linked = pair
            held = self.rooms.entries(f"ledger:{self.rooms.key(linked)}")
            gone = limits.outdated(CATALOGUE, Held(held), self.rooms.now_us(), 0, ever=False)
            self.rooms.link(player, linked)
            assert held.keys() - set(gone) <= self.rooms.look(player, random.Random(1)).view.held.own.keys()

        @invariant()
        def nothing_overflows(self) -> None:
            if hasattr(self, "rooms"):
                self.rooms.check()

    return Callers


def test_no_limit_is_overstepped_and_no_budget_overspent_whatever_callers_do(
    server: Server, store: redis.Redis
) -> None:
    chosen = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, derandomize=True, database=None, phases=PHASES
    )
    run_state_machine_as_test(machine_over(server, store), settings=chosen)


SCRIPT = """
import random, sys
import redis
from features.store.connection import connect; from features.store.deployment import open_house
from support.ledger_house import Rooms, PLAYERS, HOMES
url, seed, turns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = connect(url)
rooms, chance, made = Rooms(url, open_house(client)), random.Random(seed), []
for turn in range(turns):
    player = chance.choice(PLAYERS)
    what = chance.random()
    if what < 0.65 or not made:
        attempt = rooms.look(player, chance)
        if rooms.commit(attempt) == "reserved" and attempt.held:
            made.append((player, attempt.name))
    elif what < 0.8:
        rooms.confirm(*chance.choice(made))
    elif what < 0.95:
        rooms.release(*made.pop(chance.randrange(len(made))))
    else:
        rooms.tell(player, "consent_changed", channel="sms", granted=False)
rooms.close()
"""


def test_eight_processes_at_once_never_overstep_a_limit(
    server: Server, store: redis.Redis, house: House, request: pytest.FixtureRequest
) -> None:
    """The log tells in which order the store took everything: no limit of a player was overstepped at any time."""
    rooms = Rooms(server.url, house)
    for player in PLAYERS[:2]:
        rooms.join(player, HOMES[0])
    environment: dict[str, Any] = {
        **os.environ,
        "PYTHONPATH": f"{request.config.rootpath}/tests:{request.config.rootpath}",
    }
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, server.url, str(seed), str(TURNS)], env=environment)
        for seed in range(PROCESSES)
    ]
    assert [process.wait(120) for process in processes] == [0] * PROCESSES
    rooms.check()
    seen = 0
    for held in history(store, {player: rooms.key(player) for player in PLAYERS}):
        for mine in held.values():
            check_limits(list(mine.values()))
            seen = max(seen, len(mine))
    assert seen > 1
    rooms.wait(10 * DAY)
    rooms.sweep()
    rooms.check_budgets()
    rooms.close()
