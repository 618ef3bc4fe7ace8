"""Simulation of weeks in a running sandbox house: seeded players act and ask over HTTP.

    people --what is due by the house's clock--> ask, confirm, play, react --HTTP--> the house
                                                  `--> what was decided, beside what was true

Nothing but HTTP leads into the house: the crowd asks for decisions, confirms, plays, tells outcomes as a caller would.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
import time
from collections import defaultdict
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final, NamedTuple

import aiohttp
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from features import zones
from features.errors import CroupierError
from features.events import micros, moment
from features.schema import DAY, MICROS
from models.catalogue.offers import NO_CONTACT, Catalogue
from models.experiments.definition import GLOBAL_HOLDOUT
from models.policy.policy import BusinessRules, priorities
from pipelines.simulation import players
from pipelines.simulation.players import Person
from pipelines.simulation.world import checks
from service.rules.rulebook import load_rulebook, rulebook_path

DAY_US: Final = DAY * MICROS
AT_ONCE: Final = 8
"""Requests under way at most."""
_RETRIES: Final = 8
_RECENT_US: Final = 3 * DAY_US
_CHECKED_US: Final = DAY_US // 4
"""Registers of excluded people are asked again after this, before a decision and before a contact."""


class SimulationRefused(CroupierError):
    """The house cannot be simulated in."""

    code = "simulation_refused"
    exit_code = 2


class SimulationOptions(NamedTuple):
    """Options of a simulation: `decisions` is the approximate total, `key` one of the house's API keys."""

    address: str
    seed: int
    players: int
    days: float
    decisions: int
    key: str | None = None

    def __repr__(self) -> str:
        return f"SimulationOptions({self.address}, seed {self.seed})"


class Clock(NamedTuple):
    """The house's clock, extrapolated by the caller, unix microseconds."""

    real_us: int
    house_us: int
    rate: float

    def now_us(self) -> int:
        """House time now, unix microseconds."""
        return self.house_us + int((time.time_ns() // 1_000 - self.real_us) * self.rate)


class SimulatedDecision(NamedTuple):
    """One decision beside the truth about its player at that moment; money in minor units.

    Attributes:
        day: Days since the simulation began.
        player: Number of the player.
        variant: Variant of the experiment.
        place: Place of the drawn action.
        eligible: How many actions were.
        propensity: Propensity of the drawn action.
        net: True net value of the action over leaving alone.
        deposits: True expected deposits that it brings.
        uniform: Mean of that over the eligible actions; NaN where they were not asked for.
        business_rules: What business rules would have had; NaN likewise.
        best: The best eligible action's; NaN likewise.
        excluded: Rules and caps that excluded something.
    """

    day: float
    player: int
    variant: str
    place: int
    eligible: int
    propensity: float
    net: float
    deposits: float
    uniform: float
    business_rules: float
    best: float
    excluded: tuple[str, ...]


@dataclass
class Member:
    """A player of the simulation and their history so far."""

    number: int
    person: Person
    random: np.random.Generator
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    contacts: list[int] = field(default_factory=list)
    plays: list[tuple[int, float]] = field(default_factory=list)
    checked_us: int = 0

    def recent(self, at_us: int) -> int:
        """Number of contacts in the last three days."""
        return sum(1 for one in self.contacts if at_us - _RECENT_US < one <= at_us)


@dataclass
class SimulationRun:
    """Result of a simulation."""

    options: SimulationOptions
    began_us: int
    steps: list[SimulatedDecision] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lags: list[float] = field(default_factory=list)
    """House hours between the moment at which something was due and the moment it was done."""


def simulate(options: SimulationOptions, catalogue: Catalogue, console: Console) -> SimulationRun:
    """Run a simulation in the house and show progress.

    Raises:
        SimulationRefused: Nothing answers there, or the house is no sandbox with a fast clock.
    """
    try:
        return asyncio.run(_run(options, catalogue, console))
    except* SimulationRefused as several:
        raise SimulationRefused(str(several.exceptions[0])) from several


async def _run(options: SimulationOptions, catalogue: Catalogue, console: Console) -> SimulationRun:
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    headers = {} if options.key is None else {"authorization": f"Bearer {options.key}"}
    async with aiohttp.ClientSession(options.address, connector=connector, headers=headers) as session:
        clock = await _clock(session, options)
        driver = SimulationDriver(session, options, catalogue, clock)
        await driver.gather(console)
        await driver.play(console)
        return driver.result


async def _clock(session: aiohttp.ClientSession, options: SimulationOptions) -> Clock:
    try:
        async with session.get("/readyz") as answer:
            told = await answer.json()
    except (aiohttp.ClientError, OSError) as error:
        raise SimulationRefused(f"no house answers at {options.address}: start one with `croupier up`") from error
    if answer.status == 200 and "clock" not in told:
        raise SimulationRefused(
            f"the house at {options.address} does not know the key: let CROUPIER_KEY be one that allows "
            "decide, events, outcomes, read, personal and operate"
        )
    if answer.status != 200 or not told["clock"]["sandbox"]:
        raise SimulationRefused(f"the house at {options.address} is no sandbox: simulated players belong into one")
    now_us = micros(datetime.fromisoformat(told["clock"]["now"]))
    real_days = options.days / told["clock"]["rate"]
    if real_days > 1:
        raise SimulationRefused(
            f"{options.days:g} days of this house take {real_days:.1f} real ones: create it with `--rate 10000`"
        )
    # The answer is older than this reading: the clock may lag by the transfer, but never runs ahead.
    return Clock(time.time_ns() // 1_000, now_us, float(told["clock"]["rate"]))


class SimulationDriver:
    """Runs what is due: in order for each player, several players at once."""

    def __init__(
        self, session: aiohttp.ClientSession, options: SimulationOptions, catalogue: Catalogue, clock: Clock
    ) -> None:
        self._session = session
        self._options = options
        self._catalogue = catalogue
        self._clock = clock
        self._book = load_rulebook(rulebook_path())
        self._rules = BusinessRules(priorities(catalogue), catalogue.exploration_floor)
        self._due: list[tuple[int, int, Member, Coroutine[Any, Any, None]]] = []
        self._order = count()
        self._names = (f"{secrets.token_hex(3)}-{number}" for number in count())
        self._free = asyncio.Semaphore(AT_ONCE)
        self._asks_per_day = options.decisions / options.players / options.days
        self.result = SimulationRun(options, 0)

    # --- Running

    async def gather(self, console: Console) -> None:
        """Register every player, with some weeks of history."""
        people = players.people(self._options.players, self._options.seed, self._catalogue)
        async with self._session.get(f"/v1/players/{people[0].id}") as got:
            if got.status == 200:
                raise SimulationRefused(f"seed {self._options.seed} was played in this house already: take another one")
        self.result.members = [
            Member(at, person, np.random.default_rng([self._options.seed, at, 1])) for at, person in enumerate(people)
        ]
        with _progress(console) as bar:
            task = bar.add_task("players arrive", total=len(people))

            async def arrive(member: Member) -> None:
                async with self._free:
                    await self._arrive(member, moment(self._clock.now_us()))
                bar.advance(task)

            await asyncio.gather(*(arrive(member) for member in self.result.members))

    async def _arrive(self, member: Member, now: datetime) -> None:
        known = players.arrival(member.person, member.random, now)
        for fields in [*known, *players.past(member.person, member.random, now)]:
            await self._tell(member, fields)

    async def play(self, console: Console) -> None:
        """Run the simulated weeks."""
        began = self.result.began_us = self._clock.now_us()
        ends_us = began + int(self._options.days * DAY_US)
        for member in self.result.members:
            self._later(member, began + self._wait(member, self._asks_per_day), self._ask)
            self._plan_play(member, began)
        with _progress(console) as bar:
            task = bar.add_task("days pass", total=self._options.days)
            async with asyncio.TaskGroup() as running:
                while (now_us := self._clock.now_us()) < ends_us:
                    bar.update(task, completed=(now_us - began) / DAY_US)
                    await self._start_due(running, now_us)
        for *_, work in self._due:
            work.close()

    async def _start_due(self, running: asyncio.TaskGroup, now_us: int) -> None:
        while self._due and self._due[0][0] <= now_us:
            due_us, _, member, work = heapq.heappop(self._due)
            await self._free.acquire()
            self.result.lags.append((self._clock.now_us() - due_us) / DAY_US * 24)
            running.create_task(self._one(member, work))
        await asyncio.sleep(0.002)

    async def _one(self, member: Member, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with member.lock:
                await work
        finally:
            self._free.release()

    def _later(self, member: Member, at_us: int, what: Any, *rest: Any) -> None:  # noqa: ANN401 - a method and its arguments
        heapq.heappush(self._due, (at_us, next(self._order), member, what(member, at_us, *rest)))

    def _wait(self, member: Member, per_day: float) -> int:
        return int(member.random.exponential(1 / per_day) * DAY_US)

    def _day(self, at_us: int) -> float:
        return (at_us - self.result.began_us) / DAY_US

    # --- What players and the caller do

    def _plan_play(self, member: Member, after_us: int) -> None:
        """Schedule the next unprompted day of play, at an hour of the player's."""
        rate = member.person.play_rate(self._day(after_us))
        at_us = after_us + self._wait(member, rate)
        zone = zones.zone(players.ZONES[member.person.place])
        local = moment(at_us).astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
        hour = timedelta(hours=players.hour_of(member.person, member.random))
        self._later(member, max(micros(local + hour), after_us + DAY_US // 24), self._play, True)

    async def _play(self, member: Member, due_us: int, by_themselves: bool) -> None:  # noqa: FBT001 - one of two ways to come
        events = players.play(member.person, member.random, moment(due_us) - players.LONGEST)
        for fields in events:
            await self._tell(member, fields)
        member.plays.append((due_us, players.worth(events)))
        self.result.counts["days of play"] += 1
        if by_themselves:
            self._plan_play(member, due_us)

    async def _check(self, member: Member) -> None:
        """Check a player in the registers of excluded people, and send the answers to the house."""
        now_us = self._clock.now_us()
        if now_us - member.checked_us > _CHECKED_US:
            member.checked_us = now_us
            for fields in checks(member.person.place, moment(now_us), self._book):
                await self._tell(member, fields)

    async def _ask(self, member: Member, due_us: int) -> None:
        self._later(member, due_us + self._wait(member, self._asks_per_day), self._ask)
        await self._check(member)
        body = {"player_id": member.person.id, "request_id": f"ask-{next(self._names)}", "explain": True}
        answer = await self._send("/v1/decisions", body)
        if answer is None or not answer["recorded"]:
            self.result.counts["unserved"] += 1
            return
        now_us = self._clock.now_us()
        await self._note(member, answer, now_us)
        if answer["action"] == "NO_CONTACT":
            return
        send_us = max(micros(datetime.fromisoformat(answer["action"]["send_at"])), now_us)
        self._later(member, send_us, self._confirm, answer)

    async def _note(self, member: Member, answer: dict[str, Any], now_us: int) -> None:
        """Record a decision beside the truth, and for the policy's decisions the alternatives."""
        person, recent = member.person, member.recent(now_us)
        net = players.net_value(person, self._catalogue, recent, self._day(now_us))
        eligible, place = answer["candidates"]["eligible"], self._place(answer["action"])
        variant = _variant(answer)
        mask = await self._eligible(answer["decision_id"]) if variant == "policy" and eligible > 1 else None
        others = (np.nan, np.nan, np.nan) if mask is None else self._alternatives(net, mask)
        self.result.steps.append(
            SimulatedDecision(
                self._day(now_us),
                member.number,
                variant,
                place,
                eligible,
                answer["propensity"],
                float(net[place]),
                float(players.effect(person, self._catalogue, recent)[place]) * person.deposit_minor,
                *others,
                tuple(one["rule"] for one in answer["exclusions"]),
            )
        )

    async def _eligible(self, decision_id: str) -> NDArray[np.bool_] | None:
        """Eligible actions of a decision; None if the house does not answer."""
        async with self._session.get(f"/v1/decisions/{decision_id}") as got:
            told = await got.json()
        if got.status != 200:
            self.result.counts[f"not explained: {told.get('code')}"] += 1
            return None
        mask = np.zeros(self._catalogue.size, dtype=np.bool_)
        mask[[one["place"] for one in told["eligible"]]] = True
        return mask

    def _alternatives(self, net: NDArray[np.float64], eligible: NDArray[np.bool_]) -> tuple[float, float, float]:
        """Value that chance, business rules and perfect knowledge would have had on the same eligible actions."""
        by_rules = self._rules.pmf(self._rules.scores(net), eligible) @ net
        return float(net[eligible].mean()), float(by_rules), float(net[eligible].max())

    def _place(self, action: Any) -> int:  # noqa: ANN401 - a name or an object
        if action == "NO_CONTACT":
            return NO_CONTACT
        return self._catalogue.place(action["offer"]["id"], action["channel"], action["timing_slot"])

    async def _confirm(self, member: Member, _: int, answer: dict[str, Any]) -> None:
        await self._check(member)
        status, told = await self._post(f"/v1/decisions/{answer['decision_id']}/confirm", {})
        if status != 200:
            self.result.counts[f"not sent: {told.get('code')}"] += 1
            return
        self.result.counts["contacts"] += 1
        now_us = self._clock.now_us()
        place = self._place(answer["action"])
        brought = float(players.effect(member.person, self._catalogue, member.recent(now_us))[place])
        member.contacts.append(now_us)
        await self._react(member, answer, brought, now_us)

    async def _react(self, member: Member, answer: dict[str, Any], brought: float, now_us: int) -> None:
        """React to a contact: delivered, perhaps one more day of play, perhaps annoyance or harm."""
        person, random = member.person, member.random
        moved = bool(random.random() < brought)
        seen = ["delivered", *(["opened"] if moved or random.random() < 0.3 else []), *(["clicked"] if moved else [])]
        if random.random() < person.annoyed:
            seen.append("unsubscribed")
        for type_ in seen:
            outcome = {"outcome_id": f"o-{next(self._names)}", "decision_id": answer["decision_id"], "type": type_}
            await self._send("/v1/outcomes", outcome | {"occurred_at": moment(now_us).isoformat()})
        if answer["action"]["purpose"] == "bonus" and random.random() < person.harmed:
            await self._tell(member, {"type": "limit_set", "limit": "deposit", "change": "lowered"})
        if moved:
            self.result.counts["days of play brought"] += 1
            self._later(member, now_us + int(random.exponential(0.7) * DAY_US), self._play, False)

    # --- HTTP

    async def _tell(self, member: Member, fields: dict[str, Any]) -> None:
        at = fields.get("occurred_at") or moment(self._clock.now_us())
        body = {"event_id": f"e-{self._options.seed}-{next(self._names)}", "player_id": member.person.id, **fields}
        await self._send("/v1/events", body | {"occurred_at": at.isoformat()})

    async def _send(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Post a body that must be accepted; None if the house stays away."""
        status, told = await self._post(path, body)
        if status == 200:
            return told
        if status != 503 and not _ahead(told):
            raise SimulationRefused(f"{path} answered {status}: {told.get('detail')}")
        self.result.counts[f"not taken: {path}"] += 1
        return None

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Post a body, with retries while the house is away or a moment is slightly ahead of its clock."""
        for attempt in range(_RETRIES):
            async with self._session.post(path, json=body) as got:
                told: dict[str, Any] = await got.json()
            if got.status != 503 and not _ahead(told):
                break
            await asyncio.sleep(0.01 * 2**attempt)
        return got.status, told


def _ahead(told: dict[str, Any]) -> bool:
    return str(told.get("code")).endswith("_in_future")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeRemainingColumn(),
        console=console,
    )


def _variant(answer: Mapping[str, Any]) -> str:
    """The variant that an answer was given under; of whom the global holdout silences, that."""
    if any(why["rule"] == GLOBAL_HOLDOUT for why in answer.get("exclusions", ())):
        return GLOBAL_HOLDOUT
    return str((answer["experiment"] or {}).get("variant", ""))
