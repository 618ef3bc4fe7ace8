"""Simulation of weeks in a running sandbox house: seeded players act and ask over HTTP.

    people --what is due by the house's clock--> ask, confirm, play, react --HTTP--> the house
                                                  `--> what was decided, beside what was true

Nothing but HTTP leads into the house: the crowd asks for decisions, confirms, plays, tells outcomes as a caller would,
with the client that callers have. The house's clock waits for nobody, so the crowd does: where house or machine do not
keep up with a fast clock, all that is due later is put off by as much, and the weeks take longer; nothing is left out.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from croupier_client import AsyncCroupier, Contact, Decision, NoAnswer, NotFound, NotValid, Refused, Unavailable
from croupier_client import CroupierError as HouseError
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
_AHEAD_ATTEMPTS: Final = 8
"""Times that something is told whose moment is slightly ahead of the house's clock."""
_MOST_LAG_US: Final = DAY_US // 24
"""By how much the crowd may be late before it puts off all that is due later."""
_ASKS: Final = 4
"""Times that a decision is asked for again where the house does not serve it."""
_NO_KEY: Final = "none"
"""What is sent where there is no key: the house says that it does not know it."""
_RECENT_US: Final = 3 * DAY_US
_CHECKED_US: Final = DAY_US // 4
"""Registers of excluded people are asked again after this, before a decision and before a contact."""


_Answer = TypeVar("_Answer")


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
    waited_us: int = 0
    """By how much the crowd put off what was due, as house or machine did not keep up; house time."""

    @property
    def days(self) -> float:
        """House days that it took."""
        return self.options.days + self.waited_us / DAY_US


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
    async with AsyncCroupier(options.address, options.key or _NO_KEY) as house:
        clock = await _clock(house, options)
        driver = SimulationDriver(house, options, catalogue, clock)
        await driver.gather(console)
        await driver.play(console)
        return driver.result


async def _clock(house: AsyncCroupier, options: SimulationOptions) -> Clock:
    try:
        told = await house.ready()
    except HouseError as error:
        raise SimulationRefused(f"no house answers at {options.address}: start one with `croupier up`") from error
    if told.ready and told.clock is None:
        raise SimulationRefused(
            f"the house at {options.address} does not know the key: let CROUPIER_KEY be one that allows "
            "decide, events, outcomes, read, personal and operate"
        )
    if told.clock is None or not told.clock.sandbox:
        raise SimulationRefused(f"the house at {options.address} is no sandbox: simulated players belong into one")
    real_days = options.days / told.clock.rate
    if real_days > 1:
        raise SimulationRefused(
            f"{options.days:g} days of this house take {real_days:.1f} real ones: create it with `--rate 10000`"
        )
    # The answer is older than this reading: the clock may lag by the transfer, but never runs ahead.
    return Clock(time.time_ns() // 1_000, micros(told.clock.now), told.clock.rate)


class SimulationDriver:
    """Runs what is due: in order for each player, several players at once."""

    def __init__(self, house: AsyncCroupier, options: SimulationOptions, catalogue: Catalogue, clock: Clock) -> None:
        self._house = house
        self._options = options
        self._catalogue = catalogue
        self._clock = clock
        self._book = load_rulebook(rulebook_path())
        self._rules = BusinessRules(priorities(catalogue), catalogue.exploration_floor)
        self._due: list[tuple[int, int, Member, Callable[[int], Coroutine[Any, Any, None]]]] = []
        """What is due by the house's clock, less what the crowd has waited until then."""
        self._order = count()
        self._names = (f"{secrets.token_hex(3)}-{number}" for number in count())
        self._free = asyncio.Semaphore(AT_ONCE)
        self._asks_per_day = options.decisions / options.players / options.days
        self.result = SimulationRun(options, 0)

    # --- Running

    async def gather(self, console: Console) -> None:
        """Register every player, with some weeks of history."""
        people = players.people(self._options.players, self._options.seed, self._catalogue)
        if await self._is_known(people[0].id):
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

    async def _is_known(self, player_id: str) -> bool:
        try:
            await self._house.request("GET", f"/v1/players/{player_id}")
        except NotFound:
            return False
        return True

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
                while (plan_us := self._clock.now_us() - self.result.waited_us) < ends_us:
                    bar.update(task, completed=(plan_us - began) / DAY_US)
                    await self._start_due(running, plan_us)

    async def _start_due(self, running: asyncio.TaskGroup, plan_us: int) -> None:
        while self._due and self._due[0][0] <= plan_us:
            planned_us, _, member, work = heapq.heappop(self._due)
            await self._free.acquire()
            due_us = planned_us + self.result.waited_us
            lag_us = self._clock.now_us() - due_us
            self.result.lags.append(lag_us / DAY_US * 24)
            if lag_us > _MOST_LAG_US:
                self.result.waited_us += lag_us
                due_us += lag_us
            running.create_task(self._one(member, work(due_us)))
        await asyncio.sleep(0.002)

    async def _one(self, member: Member, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with member.lock:
                await work
        finally:
            self._free.release()

    def _later(self, member: Member, at_us: int, what: Any, *rest: Any) -> None:  # noqa: ANN401 - a method and its arguments
        work = lambda due_us: what(member, due_us, *rest)  # noqa: E731 - begun when it is due
        heapq.heappush(self._due, (at_us - self.result.waited_us, next(self._order), member, work))

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
        self.result.counts["asked"] += 1
        if (decision := await self._decision(member)) is None:
            self.result.counts["not served"] += 1
            return
        now_us = self._clock.now_us()
        await self._note(member, decision, now_us)
        if decision.contact is not None:
            self._later(member, max(micros(decision.contact.send_at), now_us), self._confirm, decision)

    async def _decision(self, member: Member) -> Decision | None:
        """A recorded decision, asked for under one id until it is; None if the house does not come to it."""
        name, player = f"ask-{next(self._names)}", member.person.id
        for _ in range(_ASKS):
            try:
                decision = await self._house.decide(player, request_id=name, explain=True)
            except (NoAnswer, Unavailable):
                self.result.counts["asked again"] += 1
                continue
            except HouseError as error:
                raise SimulationRefused(f"decide: {error}") from error
            if decision.recorded:
                return decision
        return None

    async def _note(self, member: Member, decision: Decision, now_us: int) -> None:
        """Record a decision beside the truth, and for the policy's decisions the alternatives."""
        person, recent = member.person, member.recent(now_us)
        net = players.net_value(person, self._catalogue, recent, self._day(now_us))
        eligible, place = decision.candidates.eligible if decision.candidates else 0, self._place(decision.contact)
        variant = _variant(decision)
        mask = await self._eligible(decision) if variant == "policy" and eligible > 1 else None
        others = (np.nan, np.nan, np.nan) if mask is None else self._alternatives(net, mask)
        self.result.steps.append(
            SimulatedDecision(
                self._day(now_us),
                member.number,
                variant,
                place,
                eligible,
                np.nan if decision.propensity is None else decision.propensity,
                float(net[place]),
                float(players.effect(person, self._catalogue, recent)[place]) * person.deposit_minor,
                *others,
                tuple(why.rule for why in decision.exclusions),
            )
        )

    async def _eligible(self, decision: Decision) -> NDArray[np.bool_] | None:
        """Eligible actions of a decision; None if the house does not tell them."""
        try:
            record = await self._house.decision(str(decision.decision_id))
        except HouseError as error:
            self.result.counts[f"not explained: {_word(error)}"] += 1
            return None
        mask = np.zeros(self._catalogue.size, dtype=np.bool_)
        mask[[one.place for one in record.eligible]] = True
        return mask

    def _alternatives(self, net: NDArray[np.float64], eligible: NDArray[np.bool_]) -> tuple[float, float, float]:
        """Value that chance, business rules and perfect knowledge would have had on the same eligible actions."""
        by_rules = self._rules.pmf(self._rules.scores(net), eligible) @ net
        return float(net[eligible].mean()), float(by_rules), float(net[eligible].max())

    def _place(self, contact: Contact | None) -> int:
        if contact is None:
            return NO_CONTACT
        return self._catalogue.place(contact.offer.id, contact.channel, contact.timing_slot)

    async def _confirm(self, member: Member, _: int, decision: Decision) -> None:
        await self._check(member)
        try:
            await self._house.confirm(decision)
        except HouseError as error:
            self.result.counts[f"not sent: {_word(error)}"] += 1
            return
        self.result.counts["contacts"] += 1
        now_us = self._clock.now_us()
        place = self._place(decision.contact)
        brought = float(players.effect(member.person, self._catalogue, member.recent(now_us))[place])
        member.contacts.append(now_us)
        await self._react(member, decision, brought, now_us)

    async def _react(self, member: Member, decision: Decision, brought: float, now_us: int) -> None:
        """React to a contact: delivered, perhaps one more day of play, perhaps annoyance or harm."""
        person, random = member.person, member.random
        moved = bool(random.random() < brought)
        seen = ["delivered", *(["opened"] if moved or random.random() < 0.3 else []), *(["clicked"] if moved else [])]
        if random.random() < person.annoyed:
            seen.append("unsubscribed")
        for type_ in seen:
            await self._react_once(type_, decision, moment(now_us))
        if decision.contact and decision.contact.purpose == "bonus" and random.random() < person.harmed:
            await self._tell(member, {"type": "limit_set", "limit": "deposit", "change": "lowered"})
        if moved:
            self.result.counts["days of play brought"] += 1
            self._later(member, now_us + int(random.exponential(0.7) * DAY_US), self._play, False)

    # --- What the house is told

    async def _react_once(self, type_: str, decision: Decision, at: datetime) -> None:
        name = f"o-{next(self._names)}"
        await self._taken("outcome", partial(self._house.outcome, type_, decision, outcome_id=name, occurred_at=at))

    async def _tell(self, member: Member, fields: dict[str, Any]) -> None:
        at = fields.get("occurred_at") or moment(self._clock.now_us())
        told = {"event_id": f"e-{self._options.seed}-{next(self._names)}", **fields, "occurred_at": at}
        await self._taken("event", partial(self._house.event, player_id=member.person.id, **told))

    async def _taken(self, word: str, call: Callable[[], Awaitable[_Answer]]) -> _Answer | None:
        """What the house answers to what it must take; None if it stays away. A moment may be ahead of its clock."""
        self.result.counts[f"told: {word}"] += 1
        for attempt in range(_AHEAD_ATTEMPTS):
            try:
                return await call()
            except (NoAnswer, Unavailable):
                break
            except NotValid as error:
                if not error.code.endswith("_in_future"):
                    raise SimulationRefused(f"{word}: {error}") from error
            except HouseError as error:
                raise SimulationRefused(f"{word}: {error}") from error
            await asyncio.sleep(0.01 * 2**attempt)
        self.result.counts[f"not taken: {word}"] += 1
        return None


def _word(error: HouseError) -> str:
    return error.code if isinstance(error, Refused) else "no answer"


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeRemainingColumn(),
        console=console,
    )


def _variant(decision: Decision) -> str:
    """The variant that a decision was made under; of whom the global holdout silences, that."""
    if any(why.rule == GLOBAL_HOLDOUT for why in decision.exclusions):
        return GLOBAL_HOLDOUT
    return decision.experiment.variant if decision.experiment else ""
