"""Stops: what the house sends nobody, or not in a jurisdiction, of an offer or on a channel. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from features import places
from features.prose import prose
from features.schema import CHANNELS
from features.words import ClosedList
from service.errors import StopRefused

StopScope = Literal["all", "jurisdiction", "offer", "channel"]
"""Of what a stop stops: all of it, or that of one jurisdiction, offer or channel."""
REASON: Final = 1_000
"""Characters of a reason at most."""
VERSION: Final = b"v"
"""Field of a partition's stops that is no stop."""
LIFTED: Final = "lifted "
"""Beginning of the journal's fields that tell who lifted a stop."""


class StopInForce(msgspec.Struct, frozen=True, kw_only=True):
    """What a stop stops, as records hold it.

    Attributes:
        id: Its id.
        scope: Of what kind `value` is.
        value: The jurisdiction, offer or channel; empty for all.
    """

    id: str
    scope: StopScope
    value: str = ""

    @property
    def rule(self) -> str:
        """Name of the exclusion."""
        return f"stop:{self.id}"

    def binds(self, named: frozenset[str] | None) -> bool:
        """Whether a stop of a jurisdiction is for a player of some jurisdictions; None is unknown, and is.

        A country holds its regions; where only the country is known, the region may be the one.
        """
        if not named:
            return True
        return any(
            one == self.value or one.startswith(f"{self.value}-") or self.value.startswith(f"{one}-") for one in named
        )


class Stop(StopInForce, frozen=True, kw_only=True):
    """A stop.

    Attributes:
        kind: What it stops; `marketing` is whatever is promotional.
        at: When, by the house's clock, ISO 8601.
        by: Who did it.
        reason: Why.
    """

    kind: Literal["marketing"] = "marketing"
    at: str
    by: str
    reason: str

    @property
    def what(self) -> str:
        """What it stops, in words: stops of the same are one."""
        return " ".join(part for part in (self.kind, self.scope, self.value) if part)


class Lifted(msgspec.Struct, frozen=True, kw_only=True):
    """Who lifted a stop, when (ISO 8601, by the house's clock) and why."""

    at: str
    by: str
    reason: str


class JournalledStop(Stop, frozen=True, kw_only=True):
    """A stop as the journal holds it; `lifted` is absent while it stands."""

    lifted: Lifted | UnsetType = UNSET

    @property
    def stands(self) -> bool:
        """Whether nobody lifted it."""
        return self.lifted is UNSET


class WantedStop(NamedTuple):
    """What somebody wants to stop, and why."""

    scope: StopScope
    value: str
    by: str
    reason: str


# --- What is wished


def wished(
    by: str,
    reason: str,
    offers: Iterable[str] | None,
    *,
    jurisdiction: str | None = None,
    offer: str | None = None,
    channel: str | None = None,
) -> WantedStop:
    """A wish in the spelling of the closed lists, None for what is not named; offers that nobody can list are taken.

    Raises:
        StopRefused: A word that nobody knows, with the known ones and the nearest; two of them; no reason.
    """
    named: dict[StopScope, str | None] = {"jurisdiction": jurisdiction, "offer": offer, "channel": channel}
    given: list[tuple[StopScope, str]] = [(scope, value) for scope, value in named.items() if value is not None]
    if len(given) > 1:
        told = " and ".join(scope for scope, _ in given)
        raise StopRefused(f"a stop is of one jurisdiction, offer or channel, or of all: this one names {told}")
    scope, value = given[0] if given else ("all", "")
    said = reasoned(reason)
    try:
        return WantedStop(scope, _spelt(scope, value, offers), by, said)
    except ValueError as error:
        raise StopRefused(str(error), f"/{scope}") from error


def _spelt(scope: StopScope, value: str, offers: Iterable[str] | None) -> str:
    if scope != "all" and not value.strip():  # as of a variable that is not set: it must not stop everything
        raise ValueError(f"which {scope}? this one is empty")
    if scope == "jurisdiction":
        code = places.code(value)
        if not places.known(code):
            raise ValueError(places.unknown(value, code))
        return code
    if scope == "offer" and offers is not None:
        return ClosedList("offer of the catalogue", tuple(offers)).find(value)
    return ClosedList("channel", CHANNELS).find(value) if scope == "channel" else value


def reasoned(reason: str) -> str:
    """A reason as it is kept; raises StopRefused if it says nothing, too much, or what cannot be seen."""
    try:
        said = prose(reason)
    except ValueError as error:
        raise StopRefused(f"reason: {error}", "/reason") from error
    if not said:
        raise StopRefused("say why, for the journal", "/reason")
    if len(said) > REASON:
        raise StopRefused(f"a reason has at most {REASON:,} characters, this one has {len(said):,}", "/reason")
    return said


# --- As the store holds them


def read_stops(held: Mapping[bytes, bytes]) -> tuple[str, tuple[Stop, ...]]:
    """Version and stops of a partition, in the order of their ids; empty where nothing is stopped."""
    version = held.get(VERSION, b"").decode()
    return version, tuple([read_stop(name.decode(), held[name]) for name in sorted(held) if name != VERSION])


@lru_cache(maxsize=1_000)
def read_stop(stop_id: str, text: bytes) -> Stop:
    """A stop; one of a later build, which this one cannot read, stops all marketing."""
    try:
        return msgspec.json.decode(text, type=Stop)
    except msgspec.DecodeError:
        unknown = "this build cannot read what it stops"
        return Stop(id=stop_id, scope="all", at="", by="", reason=unknown)


def read_journal(held: Mapping[bytes, bytes]) -> dict[str, JournalledStop]:
    """Every stop of the journal by id, the oldest first."""
    texts = {name.decode(): text for name, text in held.items()}
    found = []
    for name, text in texts.items():
        if " " not in name:
            lifted = texts.get(LIFTED + name)
            found.append(
                journalled(read_stop(name, text), None if lifted is None else msgspec.json.decode(lifted, type=Lifted))
            )
    return {one.id: one for one in sorted(found, key=lambda one: (one.at, one.id))}


def journalled(stop: Stop, lifted: Lifted | None) -> JournalledStop:
    """A stop with what the journal knows beside it."""
    held = {name: getattr(stop, name) for name in Stop.__struct_fields__}
    return JournalledStop(**held, lifted=UNSET if lifted is None else lifted)
