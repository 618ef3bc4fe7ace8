"""Processes killed at every step and store call, then restarted: no entry is lost or doubled."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from support.deadlines import PATIENT
from support.fault_house import PROCESSES, Caller, Serving, World, harm_settings, now, players, until
from support.faulty_store import OWN, Between, Fault, Moment
from support.learning_log import grow

from features.kept_schemas import FOLDER
from features.settings.mlflow_file import LearnerSettings
from features.store.connection import connect
from features.store.keys import bundle_key, pointer_key
from pipelines.learning import learner
from pipelines.learning.attribution import RewardTerms
from pipelines.learning.learner import LearnerProcess
from pipelines.learning.training_log import Training
from pipelines.worker.consumer import Consumer, serving_plan
from pipelines.worker.lake import Lake
from service.players.harm import HarmSettings

MOMENTS: tuple[Moment, Moment] = ("before", "after")
THOROUGH = os.environ.get("CROUPIER_FAULTS") == "all"
"""Whether everything is killed everywhere (`make faults`), or one of each kind where it matters most."""
RISKY = ("advance", "close", "name parquet", "name json", "trim")
"""Steps before which something was done that the next ones have to know of."""
CHANNELS = ["email", "in_app", "push"]
HARMFUL: list[dict[str, Any]] = [
    *({"type": "deposit", "status": "declined", "method": "card", "amount_minor": 1} for _ in range(4)),
    *({"type": "withdrawal_cancelled", "amount_minor": 1} for _ in range(3)),
    *({"type": "support_contact"} for _ in range(4)),
    *({"type": "bet", "amount_minor": 900_000, "product": one} for one in ("casino", "sports", "bingo", "poker")),
]
"""What a worker finds strong signs of harm in."""


class Steps:
    """Notes every step in a file, and ends the process at one of them."""

    def __init__(self, file: Path, end_at: int) -> None:
        self._file = file
        self._left = end_at

    def __call__(self, step: str) -> None:
        with self._file.open("a") as file:
            file.write(f"{step}\n")
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _work(url: str, lake: Path, settings: HarmSettings, file: Path, end_at: int) -> None:
    """One round of a worker's halves: features, the lake, and all given back."""
    step, client = Steps(file, end_at), connect(url)
    plan = serving_plan(client)
    assert plan is not None
    consumer = Consumer(client, plan, settings, step)
    consumer.renew()
    while consumer.step(1):
        pass
    Lake(client, lake, step).flush()
    consumer.release()


def _learn(url: str, home: Path, file: Path, end_at: int) -> None:
    """One round of a learner that keeps a checkpoint after every flush."""
    learner.CHECKPOINT_SECONDS = 0.0  # type: ignore[misc]
    pupil = Training(home / "lake", LearnerSettings(batch=20, warm_up=30), RewardTerms.read(), 0.5)
    LearnerProcess(url, home, pupil, lambda _: None, Steps(file, end_at)).work()


def ended(work: Callable[..., None], *arguments: object) -> int | None:
    """Run something in a process of its own; its exit code."""
    process = PROCESSES.Process(target=work, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


class Round:
    """The same small load for every process that is killed, over a few players whose deposits are counted."""

    def __init__(self, world: World, caller: Caller) -> None:
        self.world, self.caller = world, caller
        self.players = players("w", 3)
        self.deposits = 2
        for player in self.players:
            caller.welcome(player)
        world.apply()
        world.flush()

    def load(self) -> None:
        """A deposit each, signs of harm of one, decisions, and what became of a contact."""
        self.deposits += 1
        for player in self.players:
            approved = {"type": "deposit", "status": "approved", "method": "card", "amount_minor": 100}
            assert self.caller.event(player, **approved).status_code == 200
            answer = self.caller.ask(player, channels=CHANNELS).json()
            if answer["action"] != "NO_CONTACT":
                assert self.caller.outcome(answer["decision_id"]).status_code == 200
        harmed = self.caller.fresh("harmed")
        for told in HARMFUL:
            assert self.caller.event(harmed, **told).status_code == 200

    def holds(self) -> None:
        """After a worker went on: features count every deposit once, the lake holds everything once."""
        self.world.apply()
        self.world.keeps(self.caller)
        for player in self.players:
            told = self.caller.ask(player, dry_run=True, explain=True).json()
            assert told["features"]["values"]["deposit_count"] == self.deposits


@pytest.fixture
def round_(world: World, tmp_path: Path) -> Iterator[Round]:
    with Serving(world.server.url, tmp_path, **PATIENT) as serving, Caller(serving.socket) as caller:
        yield Round(world, caller)


def test_a_worker_killed_at_any_step_leaves_everything_once(world: World, round_: Round, tmp_path: Path) -> None:
    file = tmp_path / "steps"
    round_.load()
    assert ended(_work, world.server.url, world.lake, harm_settings(), file, 0) == 0
    steps = file.read_text().splitlines()
    assert {"renew", "read", "fetch", "apply", "advance", "begin", "close", "gather", "trim", "release"} <= set(steps)
    assert {"write parquet", "name parquet", "write json", "name json"} <= set(steps)
    round_.holds()
    for at, step in enumerate(steps, 1):
        if not THOROUGH and (step not in RISKY or step in steps[: at - 1]):
            continue
        round_.load()
        file.write_text("")
        world.consumer()
        shutil.rmtree(world.lake / FOLDER)  # else only the first flush would write the schema of its decisions
        assert ended(_work, world.server.url, world.lake, harm_settings(), file, at) == -signal.SIGKILL, step
        assert file.read_text().splitlines() == steps[:at]
        round_.holds()


def test_a_worker_killed_at_any_call_to_the_store_leaves_everything_once(
    world: World, between: Between, round_: Round, tmp_path: Path
) -> None:
    """Also in the middle of what it sends at once: the store took the first of the calls, and none of the rest."""
    file = tmp_path / "steps"
    round_.load()
    assert ended(_work, between.url, world.lake, harm_settings(), file, 0) == 0
    calls = list(dict.fromkeys(between.calls))
    assert {"croupier_lease", "croupier_assert", "croupier_fold", "croupier_advance", "croupier_close"} <= set(calls)
    round_.holds()
    for call in calls if THOROUGH else ["croupier_assert", "croupier_fold", "croupier_advance"]:
        for moment in MOMENTS if THOROUGH else MOMENTS[1:]:
            round_.load()
            world.consumer()
            killed_at(between, call, moment, _work, world.lake, harm_settings(), file)
            round_.holds()


def killed_at(
    between: Between, call: str, moment: Moment, work: Callable[..., None], *arguments: object, nth: int = 1
) -> None:
    """Run something in a process of its own that is killed at the nth call of a name to the store."""
    process = PROCESSES.Process(target=work, args=(between.url, *arguments, 0))

    def kill() -> None:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)

    between.fault = Fault(call, moment, act=kill, nth=nth)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, f"{call} did not come"


LOCK = "croupier:policy"
"""What holds commands and learner apart while one changes the policy that serves."""


def serving_policy(store: redis.Redis) -> bytes | None:
    digest: Any = store.get(pointer_key("policy"))
    found: Any = store.get(bundle_key(digest.decode())) if digest else None
    assert found is None or isinstance(found, bytes)
    return found


@pytest.mark.skipif(not THOROUGH, reason="minutes; each step is also ended in process, with the tests of the learner")
def test_a_learner_killed_at_any_step_or_call_publishes_the_same_bytes(
    world: World, between: Between, tmp_path: Path
) -> None:
    store, file = world.client, tmp_path / "steps"
    grow(tmp_path / "grown", 4, 30)

    def home(name: str) -> Path:
        """A house of its own over the one lake, from whose learner nothing is left in the store."""
        store.delete("lease:learner", pointer_key("policy"), LOCK)
        store.script_flush()  # scripts are loaded again, so that this call comes every time
        made = tmp_path / name
        made.mkdir()
        (made / "lake").symlink_to(tmp_path / "grown")
        return made

    assert ended(_learn, between.url, home("whole"), file, 0) == 0
    steps = file.read_text().splitlines()
    times = Counter(between.calls)
    expected = serving_policy(store)
    assert expected is not None
    for at, step in enumerate(steps, 1):
        place = home(f"step-{at}")
        assert ended(_learn, world.server.url, place, file, at) == -signal.SIGKILL, step
        store.delete("lease:learner", LOCK)  # they have run out
        assert ended(_learn, world.server.url, place, file, 0) == 0
        assert serving_policy(store) == expected, step
    for call, nth in [(name, nth) for name in times for nth in range(1, min(times[name], 4) + 1)]:
        for moment in MOMENTS:
            place = home(f"{call}-{nth}-{moment}".replace(" ", "-"))
            killed_at(between, call, moment, _learn, place, file, nth=nth)
            store.delete("lease:learner", LOCK)
            assert ended(_learn, world.server.url, place, file, 0) == 0
            assert serving_policy(store) == expected, f"{moment} {call} {nth}"


def acts(caller: Caller, player: str) -> dict[str, Callable[[], httpx.Response]]:
    """Everything that a caller does, each of which can be said again in the same words."""
    contact = caller.contact(player, channels=CHANNELS)
    told, request = {"occurred_at": now()}, caller.fresh("request")
    event, outcome, somebody = caller.fresh("e"), caller.fresh("o"), caller.fresh("new")
    person = {"type": "registered", "jurisdiction": "MT", "time_zone": "Europe/Malta", "birth_date": "1980-05-17"}
    return {
        "event": lambda: caller.event(player, event_id=event, **told),
        "personal event": lambda: caller.event(somebody, event_id=somebody, **person, **told),
        "decision": lambda: caller.ask(player, request_id=request, channels=CHANNELS),
        "confirm": lambda: caller.confirm(contact),
        "outcome": lambda: caller.outcome(contact, outcome_id=outcome, type="delivered", **told),
    }


def test_a_serving_process_killed_at_any_call_to_the_store_leaves_everything_once(
    world: World, between: Between, tmp_path: Path
) -> None:
    with Serving(between.url, tmp_path, **PATIENT) as serving, Caller(serving.socket) as caller:
        for act in ("event", "personal event", "decision", "confirm", "outcome") if THOROUGH else ("decision",):
            for call in calls_of(act, world, between, caller):
                for moment in MOMENTS:
                    player, again = cut_off(act, world, between, caller, Fault(call, moment, act=serving.kill))
                    serving.again()
                    until(lambda again=again: again().status_code == 200)  # type: ignore[misc]
                    held = [entry for entry in world.ledger(player).values() if " released " not in entry]
                    assert len(held) <= 2, f"{act} reserved twice: killed {moment} {call}"
                    world.keeps(caller)


def cut_off(
    act: str, world: World, between: Between, caller: Caller, fault: Fault
) -> tuple[str, Callable[[], httpx.Response]]:
    """The player and the act that met a fault: not every decision makes every call, budget is fetched ahead."""
    for _ in range(100):
        player = known(world, caller)
        again = acts(caller, player)[act]
        between.fault = fault
        try:
            again()
        except httpx.HTTPError:
            return player, again
        between.fault = None
    raise AssertionError(f"{fault.call} did not come")


def known(world: World, caller: Caller) -> str:
    """A new player of whom everything is known."""
    (player,) = players(caller.fresh("known-"))
    caller.welcome(player)
    world.apply()
    return player


def calls_of(act: str, world: World, between: Between, caller: Caller) -> list[str]:
    """Names of the calls that an act makes, from a dry run."""
    again = acts(caller, known(world, caller))[act]
    between.calls.clear()
    assert again().status_code == 200
    return [call for call in dict.fromkeys(between.calls) if call not in OWN]
