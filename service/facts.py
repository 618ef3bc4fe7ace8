"""Facts: the authoritative state that gates contact, merged by the moment it became true. Pure.

A fact is a register: of all assertions about a field the one with the greatest moment holds; at the same
moment the stricter one (higher rank). So facts arrive in any order, twice or late, and end the same. What
the house merely assumes is asserted at moment 0, where everything known beats it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final, NamedTuple

from features import events
from features.events import Event, micros
from features.schema import CHANNELS

HARM_HOLDS: Final = timedelta(days=30) // timedelta(microseconds=1)
"""A strong harm signal stands until review or 30 quiet days (compliance reference, section 3)."""
_LATEST_US: Final = 2**53
_CLOSED: Final = {"open": False, "closed": True}


class Assertion(NamedTuple):
    """One thing that became true at a moment (unix microseconds); the higher rank is the stricter."""

    field: str
    moment_us: int
    rank: int
    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a player for one brand; None means unknown, and unknown denies.

    Moments are unix microseconds. `excluded_us` is when the standing exclusion began, `returned_us` when
    the last one ended; consent maps a channel to (granted, since when).
    """

    version: str = "0"
    known: bool = False
    excluded_us: int | None = None
    returned_us: int | None = None
    time_out_until_us: int | None = None
    opened_us: int | None = None
    closed: bool | None = None
    kyc_verified: bool | None = None
    birth_date: date | None = None
    jurisdiction: str | None = None
    time_zone: str | None = None
    consent: Mapping[str, tuple[bool, int]] = field(default_factory=dict)
    harm_signal_us: int | None = None
    assumed: tuple[str, ...] = ()


def assertions(event: Event) -> list[Assertion]:
    """What an event makes true; empty for events that are behaviour only."""
    at = micros(event.occurred_at)
    match event:
        case events.Registered():
            reopened = [Assertion("account", at, 0, "open")] if event.reopened else []
            # Of all registrations the first one opened the account: the earlier moment is the greater number.
            return [Assertion("opened", _LATEST_US - at, 0, str(at)), *reopened, *_person(event, at)]
        case events.KycVerified():
            return [Assertion("kyc", at, 0, "verified"), *_person(event, at)]
        case events.ConsentChanged():
            return [consent(event.brand, event.channel, at, granted=event.granted)]
        case events.SelfExcluded():
            return [Assertion(f"exclusion:{_scope(event)}", at, 1, "on")]
        case events.ExclusionEnded():
            return [Assertion(f"exclusion:{_scope(event)}", at, 0, "ended")]
        case events.TimeOut():
            # Of all time-outs the one that ends last holds, whenever it was taken.
            return [Assertion(f"time_out:{event.brand}", micros(event.until), 0, "until")]
        case events.AccountClosed():
            return [Assertion("account", at, 1, "closed")]
        case events.SupportContact() if "harm" in event.tags:
            return [Assertion("harm", at, 0, "strong")]
        case _:
            return []


def consent(brand: str, channel: str, at: int, *, granted: bool) -> Assertion:
    """Consent given or withdrawn on a channel; of both at one moment the withdrawal holds."""
    return Assertion(f"consent:{brand}:{channel}", at, 0 if granted else 1, "granted" if granted else "withdrawn")


def _scope(event: events.SelfExcluded | events.ExclusionEnded) -> str:
    return "*" if event.scope == "all" else event.brand


def _person(event: events.Registered | events.KycVerified, at: int) -> Iterable[Assertion]:
    if event.birth_date is not None:
        # The later birth date is the younger player, hence the stricter: of dates that were merely stated the
        # youngest holds, whenever it was said, until a verified one replaces it.
        days, text = event.birth_date.toordinal(), event.birth_date.isoformat()
        verified = isinstance(event, events.KycVerified)
        yield Assertion("verified_birth_date", at, days, text) if verified else Assertion("birth_date", days, 0, text)
    if isinstance(event, events.Registered):
        for name in ("jurisdiction", "time_zone"):
            if (value := getattr(event, name)) is not None:
                yield Assertion(name, at, 0, value)


def read(raw: Mapping[bytes, bytes], brand: str) -> Facts:
    """Facts of a player for a brand, from the store's hash of registers."""
    if not raw:
        return Facts()
    held = {name.decode(): _register(value) for name, value in raw.items() if name != b"v"}

    def text(name: str) -> str | None:
        return held[name][1] if name in held else None

    excluded_us, returned_us = _exclusion(held, brand)
    # A date that is merely stated never replaces a verified one.
    born = text("verified_birth_date") or text("birth_date")
    opened = text("opened")
    return Facts(
        version=raw.get(b"v", b"0").decode(),
        known=True,
        excluded_us=excluded_us,
        returned_us=returned_us,
        time_out_until_us=held.get(f"time_out:{brand}", (None, ""))[0],
        opened_us=None if opened is None else int(opened),
        closed=_CLOSED.get(text("account") or ("open" if opened else "")),
        kyc_verified=text("kyc") == "verified" or None,
        birth_date=date.fromisoformat(born) if born else None,
        jurisdiction=text("jurisdiction"),
        time_zone=text("time_zone"),
        consent={
            channel: (held[name][1] == "granted", held[name][0])
            for channel in CHANNELS
            if (name := f"consent:{brand}:{channel}") in held
        },
        harm_signal_us=held["harm"][0] if "harm" in held else None,
        assumed=tuple(sorted(name for name, (moment_us, _) in held.items() if moment_us == 0)),
    )


def registers(raw: Mapping[bytes, bytes]) -> list[Assertion]:
    """Every register of the store's hash as what was asserted last, by field."""
    split = {name.decode(): value.decode().split(" ", 2) for name, value in sorted(raw.items()) if name != b"v"}
    return [Assertion(name, int(at), int(rank), text) for name, (at, rank, text) in split.items()]


def _register(value: bytes) -> tuple[int, str]:
    moment_us, _, text = value.decode().split(" ", 2)
    return int(moment_us), text


def _exclusion(held: Mapping[str, tuple[int, str]], brand: str) -> tuple[int | None, int | None]:
    """When the standing exclusion of a brand or of the whole house began, and when the last one ended."""
    found = [held[name] for name in ("exclusion:*", f"exclusion:{brand}") if name in held]
    on = [moment_us for moment_us, state in found if state == "on"]
    ended = [moment_us for moment_us, state in found if state == "ended"]
    return (max(on) if on else None), (max(ended) if ended else None)
