"""The rulebook: dated packs of rules, one per place. Pure but for reading files.

    rulebook/settings.yaml, harm.yaml, packs/*.yaml --load--> Rulebook --> CompiledRulebook

A pack binds where its jurisdiction is the player's residence, the licence of the account, or the place where they are;
all that bind are applied together, so the strictest wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WrapValidator, model_validator

from features import zones
from features.events import Brand, Jurisdiction, RegisterName, TimeZone, Word
from features.exchange import Currency, Exchange, Rates
from features.files import CatalogueError, load_yaml
from features.moments import HOUR_US, micros
from features.settings.environment import environment
from features.words import ClosedList, Door, unknown
from models.catalogue.offers import Catalogue
from service.players import facts
from service.players.harm import HarmSettings, StageDays
from service.rules.hashed import RULEBOOK
from service.rules.rule import RuleBase, Sentence
from service.rules.types import (
    AnyRule,
    ContentRequired,
    ExclusionRegister,
    JurisdictionScope,
    RegisterFreshness,
    SelectionBasis,
)

EVERYWHERE: Final = "*"
OWN: Final = "own"
"""The register that the house keeps itself: `self_excluded` and `exclusion_ended`."""
FOREVER_US: Final = 2**62
_SAID: Final = ("age_notice", "helpline", "postal_address", "two_opt_outs", "unsubscribe")
"""Tags that any offer may have, whatever the rules."""
Where = Annotated[Jurisdiction, WrapValidator(lambda place, read: place if place == EVERYWHERE else read(place))]
"""Where a pack binds."""
PackId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class Register(BaseModel):
    """A register of excluded people, and how long an answer of it may be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str
    max_age_hours: float = Field(gt=0)
    source: Sentence


class Pack(BaseModel):
    """Rules of one place: `jurisdictions` where they bind, `time_zone` of their dates."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    pack: PackId
    title: str
    version: int = Field(ge=1)
    checked_on: date
    jurisdictions: tuple[Where, ...] = Field(min_length=1)
    time_zone: TimeZone
    registers: dict[RegisterName, Register] = Field(default_factory=dict)
    rules: tuple[AnyRule, ...]

    @model_validator(mode="after")
    def _own_places(self) -> Self:
        """Refuse a rule that binds outside its pack's places."""
        for rule in self.rules:
            for place in rule.jurisdictions or ():
                if not {place, place.partition("-")[0], EVERYWHERE} & set(self.jurisdictions):
                    raise ValueError(f"{rule.id}: {place} is no place of this pack")
        return self


class RulebookSettings(BaseModel):
    """What the house sets for all rules.

    Attributes:
        exchange: House minor units per minor unit of another currency, always or by the day (UTC) from which on: of
            money that events tell, and of amounts that a law names.
        scores: External sources whose harm score every player must have, and the hours that a score holds.
        stages: Lifecycle stages, days.
        brands: Brands of the house.
        tags: Further tags of support contacts and of offers, beside those that rules name.
        trading_since: The day, UTC, before which the house took no money and no bet; None to ask nothing of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1]
    valid_from: date
    exchange: dict[Currency, Rates] = Field(default_factory=dict)
    scores: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    stages: StageDays
    # Defaults are not written, so that an earlier build can read a stored rulebook.
    brands: tuple[Brand, ...] = Field(default=("main",), min_length=1, exclude_if=lambda brands: brands == ("main",))
    tags: tuple[Word, ...] = Field(default=(), exclude_if=lambda tags: not tags)
    trading_since: date | None = Field(default=None, exclude_if=lambda day: day is None)


class RuleBinding(NamedTuple):
    """Where and when a rule binds: from the first moment to the last one, exclusive; unix microseconds."""

    rule: RuleBase
    pack: Pack
    places: tuple[str, ...]
    begins_us: int
    ends_us: int


class Rulebook(BaseModel):
    """All rules of a house, as its files define them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    settings: RulebookSettings
    harm: HarmSettings
    packs: tuple[Pack, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        seen: set[str] = set()
        for pack in self.packs:
            for rule in pack.rules:
                if rule.id in seen:
                    raise ValueError(f"{pack.pack}: two rules share the id {rule.id}")
                seen.add(rule.id)
                for name in _asked(rule) - self.registers.keys() - {OWN}:
                    raise ValueError(f"{pack.pack}: {rule.id} asks {name}, which no pack describes under registers")
        try:
            list(self.bound())
        except OverflowError as error:
            raise ValueError("a rule begins or ends on a day that no clock shows") from error
        return self

    @cached_property
    def hash(self) -> str:
        """Content hash; decisions log it."""
        return RULEBOOK.hash(self)

    @cached_property
    def registers(self) -> dict[str, Register]:
        """Registers of all packs, by name."""
        return {name: one for pack in self.packs for name, one in pack.registers.items()}

    def exchange(self, house: str) -> Exchange:
        """The rates of other currencies, for a house of a currency."""
        return Exchange(house, self.settings.exchange, self.hash)

    @cached_property
    def door(self) -> Door:
        """Closed lists for events and requests that enter the house."""
        return Door(
            brands=ClosedList("brand of the house (`brands` in the rulebook's settings)", self.settings.brands),
            registers=ClosedList("register that the rulebook names", tuple(sorted(self.registers))),
            tags=ClosedList("tag (`tags` in the rulebook's settings adds some)", (*facts.TAGS, *self.settings.tags)),
            trading_since=self.settings.trading_since,
        )

    def unknown_tags(self, catalogue: Catalogue) -> list[tuple[str, str]]:
        """Offers with unknown tags, each with the sentence that says so."""
        known, found = self._content_tags(), list[tuple[str, str]]()
        for offer in catalogue.offers:
            for tag in offer.tags or ():
                if tag not in known.words:
                    found.append((offer.id, f"tags: {unknown(tag, *known)}"))
        return found

    def _content_tags(self) -> ClosedList:
        """Tags of offers that rules or settings name."""
        rules = [rule for pack in self.packs for rule in pack.rules if isinstance(rule, ContentRequired)]
        named = dict.fromkeys(tag for rule in rules for tag in (*rule.must, *rule.must_not))
        words = dict.fromkeys((*sorted(named), *_SAID, *self.settings.tags))
        return ClosedList("tag that a rule or `tags` in the rulebook's settings names", tuple(words))

    @cached_property
    def ages_us(self) -> dict[str, int]:
        """Greatest age of a register's answer, microseconds, by register."""
        return {name: int(one.max_age_hours * HOUR_US) for name, one in self.registers.items()}

    def asked(self, named: Iterable[str]) -> tuple[str, ...]:
        """Registers that must be checked for players of some jurisdictions."""
        where = places(named)
        binding = [one.rule for one in self.bound() if not where.isdisjoint(one.places)]
        return tuple(dict.fromkeys(name for rule in binding for name in sorted(_asked(rule)) if name != OWN))

    def bound(self) -> Iterator[RuleBinding]:
        """All rules that are not off, with where and when they bind."""
        for pack in self.packs:
            for rule in pack.rules:
                if rule.state != "off":
                    ends = FOREVER_US if rule.valid_to is None else _begins(rule.valid_to, pack)
                    places = rule.jurisdictions or pack.jurisdictions
                    yield RuleBinding(rule, pack, places, _begins(rule.valid_from, pack), ends)

    def licensed(self) -> frozenset[str]:
        """Places where the house holds a licence, by its rules."""
        scopes = (one.rule for one in self.bound() if isinstance(one.rule, JurisdictionScope))
        return frozenset(place for scope in scopes for place in scope.licensed)

    def ruled(self) -> dict[str, tuple[RuleBinding, ...]]:
        """Places with rules of their own, and those rules.

        What binds everywhere is no place's own, even where it names places; a country's rules bind in its parts, whose
        own they are not.
        """
        found: dict[str, tuple[RuleBinding, ...]] = {}
        for one in self.bound():
            if EVERYWHERE not in one.pack.jurisdictions:
                found |= {place: (*found.get(place, ()), one) for place in one.places}
        return found

    def unruled(self) -> dict[str, int]:
        """Licensed places without rules of their own, and the moment since when, unix microseconds.

        A place lacks rules from the end of its last one on, or since ever. One whose rules all begin later counts as
        ruled, so that sandboxes of earlier years serve; lint tells of it.
        """
        ruled = self.ruled()
        ends = {place: max((one.ends_us for one in ruled.get(place, ())), default=0) for place in self.licensed()}
        return {place: at_us for place, at_us in ends.items() if at_us < FOREVER_US}

    def selections(self, now_us: int) -> Iterator[tuple[str, SelectionBasis]]:
        """Rules in force on what players may be selected by, by place."""
        for one in self.bound():
            if isinstance(one.rule, SelectionBasis) and one.begins_us <= now_us < one.ends_us:
                yield from ((place, one.rule) for place in one.places)

    def barred(self, manifest: Iterable[str], now_us: int) -> dict[str, tuple[str, ...]]:
        """Places that a policy with these readings may not serve, and the readings forbidden there."""
        readings, found = tuple(manifest), dict[str, tuple[str, ...]]()
        for place, rule in self.selections(now_us):
            forbidden = tuple(reading for reading in readings if rule.forbids(reading))
            if forbidden:
                found[place] = tuple(dict.fromkeys((*found.get(place, ()), *forbidden)))
        return found


def _asked(rule: RuleBase) -> set[str]:
    if isinstance(rule, ExclusionRegister):
        return set(rule.registers)
    return {rule.register_name} if isinstance(rule, RegisterFreshness) else set()


def _begins(day: date, pack: Pack) -> int:
    return micros(datetime.combine(day, time(), zones.zone(pack.time_zone)).astimezone(UTC))


def places(named: Iterable[str]) -> frozenset[str]:
    """Places whose rules bind for some jurisdictions: each one, its country, and everywhere."""
    return frozenset((EVERYWHERE, *(part for one in named for part in (one, one.partition("-")[0]))))


def rulebook_path() -> Path:
    """The rulebook's folder: CROUPIER_RULES, or the one that comes with the service."""
    return environment().rules or Path(str(resources.files("service").joinpath("rulebook")))


def load_rulebook(folder: Path) -> Rulebook:
    """Read a rulebook; raises CatalogueError naming file, line and field."""
    files = sorted((folder / "packs").glob("*.yaml"))
    if not files:
        raise CatalogueError(f"{folder.name}: no pack in {folder / 'packs'}")
    faults, parts = list[str](), list[Any]()
    models: list[type[BaseModel]] = [RulebookSettings, HarmSettings, *(Pack for _ in files)]
    for file, model in zip([folder / "settings.yaml", folder / "harm.yaml", *files], models, strict=True):
        try:
            parts.append(load_yaml(file, model))
        except CatalogueError as error:
            faults.append(str(error))
    if faults:
        raise CatalogueError("; ".join(faults))
    settings, harm, *loaded = parts
    try:
        return Rulebook(settings=settings, harm=harm, packs=tuple(loaded))
    except ValueError as error:
        raise CatalogueError(f"{folder.name}: {_first(error)}") from error


def _first(error: ValueError) -> str:
    told = getattr(error, "errors", None)
    return str(told()[0]["msg"]).removeprefix("Value error, ") if told else str(error)
