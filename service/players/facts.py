"""Facts: the authoritative state that gates contact, merged by the moment it became true. Pure.

A fact is a register: of all assertions about a field the one with the greatest moment holds; at the same
moment the stricter one (higher rank). So facts arrive in any order, twice or late, and end the same. What
the house merely assumes is asserted at moment 0, where everything known beats it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from features import events, zones
from features.events import Event, micros
from features.unshown import Unshown
from features.words import fold

ERASED: Final = "erased"
"""Field of the store's hash: when the player was erased, unix microseconds of house time, the stream id of that, and
`quiet` until anything was told or decided of the player since."""
NO_REGISTER: Final = frozenset({b"v", b"to", b"name", ERASED.encode()})
"""Fields of the store's hash that are no facts: its version, the player that an id is linked to, the sealed name, and
when the player was erased."""
BY_MOMENT: Final = frozenset({"opened", "birth_date", "time_out"})
"""Registers whose moment is their value: the greatest is the strictest."""
TAGS: Final = ("harm", "complaint", "resolved")
"""Tags of support contacts that assert facts."""
EVERY_BRAND: Final = "*"
"""The brand of facts that hold for all brands of the house, future ones too."""
OLDEST_YEARS: Final = 120
"""Greatest plausible age, years: the oldest living person is 117, and only one is known to have passed 120."""
_LATEST_US: Final = 2**53
_RANKS: Final = {level: rank for rank, level in enumerate(("none", "low", "moderate", "strong"))}


class Assertion(NamedTuple):
    """An assertion of a fact: true from a moment (unix microseconds); the higher rank is the stricter."""

    field: str
    moment_us: int
    rank: int
    text: str


class StoredFact(NamedTuple):
    """One fact as the store holds it, `moment rank text`; sorts as facts merge: the latest, then the stricter."""

    moment_us: int
    rank: int
    text: str

    @classmethod
    def loads(cls, raw: bytes) -> StoredFact:
        """Read a field of a player's hash."""
        moment_us, rank, text = raw.decode().split(" ", 2)
        return cls(int(moment_us), int(rank), text)

    def dumps(self) -> bytes:
        """The register as the store holds it."""
        return f"{self.moment_us} {self.rank} {self.text}".encode()


def text_of(facts: Mapping[bytes, bytes], name: str) -> str | None:
    """What a fact of a player's hash says; None where nothing was told."""
    held = facts.get(name.encode())
    return None if held is None else StoredFact.loads(held).text


class Consent(NamedTuple):
    """Consent to a channel: since when, on which basis (express by default), and where it was given."""

    granted: bool
    since_us: int
    basis: str | None = None
    origin: str | None = None


class FactValue(NamedTuple):
    """The latest value of a fact, and its moment in unix microseconds."""

    text: str
    at_us: int


_NEVER: Final = FactValue("", -1)


class Facts(Unshown, msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Facts of a player for one brand; None where nothing was asserted.

    Moments are unix microseconds.

    Attributes:
        excluded_us: When the standing exclusion began.
        returned_us: When the last one ended.
        account: `open`, `closing` (closure was asked for) or `closed`.
        reopened_us: When a closed account was last opened again.
        jurisdiction: Where the player lives; `licence` the one of the account where it is another, `location` where
            the player was last seen, `elsewhere` what ids that were linked later had told of both.
        household: Key of the household.
        consent: By channel and product; product "*" for consent that names none.
        registers: Answer of each register of excluded people, `listed` or `clear`.
        harm: Harm levels by source: `signal` (support), `review`, each level that our own markers
            showed (`own:strong`), and each external source, its latest word (`by:source`) and when it last said each
            level (`by:source:strong`).
        told_us: Moment of every fact, by the name of its register.
    """

    version: str = "0"
    known: bool = False
    excluded_us: int | None = None
    returned_us: int | None = None
    time_out_until_us: int | None = None
    opened_us: int | None = None
    account: str | None = None
    reopened_us: int | None = None
    kyc_verified: bool | None = None
    birth_date: date | None = None
    jurisdiction: str | None = None
    licence: str | None = None
    location: str | None = None
    elsewhere: tuple[str, ...] = ()
    household: str | None = None
    time_zone: str | None = None
    consent: Mapping[tuple[str, str], Consent] = {}
    registers: Mapping[str, FactValue] = {}
    objection: FactValue | None = None
    harm: Mapping[str, FactValue] = {}
    support_us: int | None = None
    complaint: FactValue | None = None
    complained_us: int | None = None
    big_loss_us: int | None = None
    withdrawal: FactValue | None = None
    session: FactValue | None = None
    limit_raised_us: int | None = None
    vip: FactValue | None = None
    vip_checked_us: int | None = None
    told_us: Mapping[str, int] = {}
    assumed: tuple[str, ...] = ()


def plausible(born: date, on: date) -> bool:
    """Whether a birth date is possible for somebody alive on a day; rejects placeholders such as 1900-01-01."""
    return born <= on and on.year - born.year <= OLDEST_YEARS


def assertions(event: Event) -> list[Assertion]:
    """Facts that an event asserts; empty for pure behaviour."""
    at = micros(event.occurred_at)
    if (found := _gating_facts(event, at)) is None:
        found = _circumstances(event, at)
    return found


def _gating_facts(event: Event, at: int) -> list[Assertion] | None:
    """Facts about person, account, consent and exclusion; None for other events."""
    match event:
        case events.Registered() | events.KycVerified():
            return _identified(event, at)
        case events.ConsentChanged():
            return _consent_changed(event, at)
        case events.SelfExcluded():
            return [Assertion(f"exclusion:{_scope(event)}", at, 1, "on")]
        case events.ExclusionEnded():
            return [Assertion(f"exclusion:{_scope(event)}", at, 0, "ended")]
        case events.RegisterChecked():
            return _register_facts(event, at)
        case events.TimeOut():
            # Of all time-outs the one that ends last holds, whenever it was taken.
            return [Assertion(f"time_out:{event.brand}", micros(event.until), 0, "until")]
        case events.ClosureRequested():
            return [Assertion("account", at, 1, "closing")]
        case events.AccountClosed():
            return [Assertion("account", at, 2, "closed")]
        case events.ObjectionChanged():
            return [Assertion("objection", at, int(event.objects), "objects" if event.objects else "none")]
        case _:
            return None


def _circumstances(event: Event, at: int) -> list[Assertion]:
    """Facts about current circumstances: support, harm, withdrawal, session, limits, VIP."""
    match event:
        case events.SupportContact():
            return _support(event, at)
        case events.HarmScored():
            latest = Assertion(f"harm:by:{event.source}", at, _RANKS[event.level], event.level)
            # A later lower score does not undo a graver one: only a review or quiet days do.
            return [latest, latest._replace(field=f"harm:by:{event.source}:{event.level}")]
        case events.HarmReviewed():
            return [Assertion("harm:review", at, _RANKS[event.level], event.level)]
        case events.WithdrawalRequested():
            return [Assertion("withdrawal", at, 1, "pending")]
        case events.WithdrawalPaid() | events.WithdrawalCancelled():
            return [Assertion("withdrawal", at, 0, "settled")]
        case events.Login() | events.SessionStarted():
            return _session_facts(event, at)
        case events.SessionEnded():
            return [Assertion("session", at, 0, "off")]
        case events.LimitSet() if event.change in {"raised", "removed"}:
            return [Assertion("limit_raised", at, 0, event.change)]
        case events.VipChanged():
            checked = [Assertion("vip_checked", at, 0, "")] if event.checked else []
            return [Assertion("vip", at, int(event.vip), "vip" if event.vip else "none"), *checked]
        case _:
            return []


def _register_facts(event: events.RegisterChecked, at: int) -> list[Assertion]:
    """Facts of a register's answer; a listing is also kept on its own, for it ends earlier consent."""
    name, listed = event.register_name, event.listed
    found = [Assertion(f"register:{name}", at, int(listed), "listed" if listed else "clear")]
    return [*found, Assertion(f"listed:{name}", at, 0, "")] if listed else found


def _support(event: events.SupportContact, at: int) -> list[Assertion]:
    found = [Assertion("support", at, 0, "")]
    tags = {fold(tag) for tag in event.tags}
    if "harm" in tags:
        found.append(Assertion("harm:signal", at, 0, "strong"))
    if "complaint" in tags:
        state = Assertion("complaint", at, 0, "resolved") if event.solved else Assertion("complaint", at, 1, "open")
        found += [state, Assertion("complained", at, 0, "")]
    elif "resolved" in tags:
        found.append(Assertion("complaint", at, 0, "resolved"))
    return found


def _session_facts(event: events.Login | events.SessionStarted, at: int) -> list[Assertion]:
    playing = [Assertion("session", at, 1, "on")] if isinstance(event, events.SessionStarted) else []
    # Whoever failed to log in, the player is not known to have been there.
    there = event.location if isinstance(event, events.SessionStarted) or event.result == "ok" else None
    return playing if there is None else [*playing, Assertion("location", at, 0, there)]


def _identified(event: events.Registered | events.KycVerified, at: int) -> list[Assertion]:
    if isinstance(event, events.KycVerified):
        return [Assertion("kyc", at, 0, "verified"), *_person(event, at)]
    reopened = [Assertion("account", at, 0, "open"), Assertion("reopened", at, 0, "")] if event.reopened else []
    # Of all registrations the first one opened the account: the earlier moment is the greater number.
    return [Assertion("opened", _LATEST_US - at, 0, str(at)), *reopened, *_person(event, at)]


def consent(brand: str, channel: str, at: int, *, granted: bool) -> Assertion:
    """Assert consent given or withdrawn on a channel; at the same moment the withdrawal holds."""
    return Assertion(f"consent:{brand}:{channel}", at, 0 if granted else 1, "granted" if granted else "withdrawn")


def unsubscribed(brand: str, channel: str, at: int) -> list[Assertion]:
    """Assert a withdrawal for all products, kept apart because it ends earlier consent to each product."""
    return [consent(brand, channel, at, granted=False), Assertion(f"unsubscribed:{brand}:{channel}", at, 0, "")]


def _consent_changed(event: events.ConsentChanged, at: int) -> list[Assertion]:
    """Assert consent with its basis and origin, for one product if the event names one."""
    plain = consent(event.brand, event.channel, at, granted=event.granted)
    name = plain.field if event.product is None else f"{plain.field}:{event.product}"
    told = {"basis": event.basis, "origin": event.origin}
    rest = "".join(f" {key}={value}" for key, value in told.items() if value is not None)
    found = [plain._replace(field=name, text=plain.text + rest)]
    if event.product is None and not event.granted:
        found += unsubscribed(event.brand, event.channel, at)[1:]
    return found


_FORBIDDING: Final = frozenset(
    {
        *(("exclusion", "on"), ("time_out", "until"), ("account", "closing"), ("account", "closed")),
        *(("objection", "objects"), ("register", "listed"), ("harm", "strong")),
    }
)


def forbids(told: Iterable[Assertion]) -> str:
    """The channel whose open promotional contacts these facts forbid: `*` for all, "" for none.

    Consent withdrawn for a product ends the open contacts of its channel, for a lease does not name its product.
    """
    found = set()
    for one in told:
        # A fact of a linked id carries the id before "|".
        kind, *rest = one.field.rpartition("|")[2].split(":")
        if (kind, one.text) in _FORBIDDING:
            return "*"
        if kind == "consent" and one.text.startswith("withdrawn"):
            found.add(rest[1])
    return "" if not found else found.pop() if len(found) == 1 else "*"


_RESTRICTING: Final = frozenset({"complained", "unsubscribed", "listed", "limit_raised", "unusable"})
_MAJORITY_YEARS: Final = 21
"""The highest age at which any place lets people play, years (Estonia, Greece, most states of the US)."""


def restricts(event: Event) -> bool:
    """Whether an event restricts contact: by a fact that it asserts, or by joining two ids or a household.

    Such an event is never refused for its age, for a clock that is ahead, for links or for load.
    """
    match event:
        case events.Identify() | events.Alias():
            return True
        case events.HouseholdChanged():
            return event.household_id is not None
        case _:
            return any(_restricts(one, event.occurred_at.date()) for one in assertions(event))


def _restricts(one: Assertion, day: date) -> bool:
    """Whether an assertion allows less than before: a child's birth date does, a grant of consent does not."""
    kind = one.field.partition(":")[0]
    match kind:
        case "harm":
            return one.text != "none"
        case "complaint" | "vip":
            return one.rank > 0
        case "birth_date" | "verified_birth_date":
            return day.year - date.fromisoformat(one.text).year <= _MAJORITY_YEARS
        case _:
            return kind in _RESTRICTING or bool(forbids([one]))


_FROM_NOW: Final = frozenset({"support", "household"})
"""Registers that delay contact, or put it under the caps of a household."""


def from_now(told: Iterable[Assertion], raw: Mapping[bytes, bytes], now_us: int) -> list[Assertion]:
    """Move facts of a clock far ahead to now, later than everything in the player's hash.

    Facts that allow more only fill gaps: whether known facts came before or after them is unknown.
    """
    held = {one.field: one.moment_us for one in registers(raw)}
    day = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now_us)).date()

    def since(one: Assertion) -> int:
        apart = one.field.partition(":")[0] in BY_MOMENT
        return one.moment_us if apart else max(now_us, held.get(one.field, 0) + 1)

    kept = [one for one in told if _restricts(one, day) or one.field in _FROM_NOW or one.field not in held]
    return [one._replace(moment_us=since(one)) for one in map(_review_as_sign, kept)]


def _review_as_sign(one: Assertion) -> Assertion:
    """Turn a review below the gravest level into a sign, for a review would void earlier signs."""
    if one.field != "harm:review" or one.text == "strong":
        return one
    return one._replace(field=f"harm:by:review:{one.text}")


def silences(raw: Mapping[bytes, bytes], brand: str) -> bool:
    """Whether a player's hash excludes them, by themselves or a register: nothing reaches them, by nobody's address."""
    held = {one.field: one.text for one in registers(raw)}
    excluded = (held.get(f"exclusion:{where}") == "on" for where in (EVERY_BRAND, brand))
    return any(excluded) or any(text == "listed" for name, text in held.items() if name.startswith("register:"))


def changes(told: Iterable[Assertion], raw: Mapping[bytes, bytes]) -> bool:
    """Whether any of some assertions would change a player's hash."""
    held = {one.field: one for one in registers(raw)}
    return any(one.field not in held or one[1:] > held[one.field][1:] for one in told)


def _scope(event: events.SelfExcluded | events.ExclusionEnded) -> str:
    return "*" if event.scope == "all" else event.brand


def _person(event: events.Registered | events.KycVerified, at: int) -> Iterable[Assertion]:
    if event.birth_date is not None and plausible(event.birth_date, event.occurred_at.date() + timedelta(days=1)):
        # The later birth date is the younger player, hence the stricter: of dates that were merely stated the
        # youngest holds, whenever it was said, until a verified one replaces it.
        days, text = event.birth_date.toordinal(), event.birth_date.isoformat()
        verified = isinstance(event, events.KycVerified)
        yield Assertion("verified_birth_date", at, days, text) if verified else Assertion("birth_date", days, 0, text)
    if isinstance(event, events.Registered):
        for name in ("jurisdiction", "licence", "time_zone"):
            value = getattr(event, name)
            if value is not None and (name != "time_zone" or zones.known(value)):
                yield Assertion(name, at, 0, value)


def nothing_told(raw: Mapping[bytes, bytes]) -> bool:
    """Whether a hash tells nothing of its player: none is there, or only that the player was erased."""
    return raw.keys() <= {b"v", ERASED.encode()}


def erased_us(raw: Mapping[bytes, bytes]) -> int | None:
    """When the player of a hash was erased, unix microseconds; None if never."""
    told = raw.get(ERASED.encode())
    return None if told is None else int(told.partition(b" ")[0])


def quiet(raw: Mapping[bytes, bytes]) -> bool:
    """Whether nothing was told or decided of a player since they were erased."""
    return raw.get(ERASED.encode(), b"").endswith(b" quiet")


Parts = Mapping[str, Mapping[str, FactValue]]
"""Registers whose names have parts, as `consent:main:email`: by the first part, then by the rest."""


def read(raw: Mapping[bytes, bytes], brand: str) -> Facts:
    """Facts of a player for a brand, from the store's hash with linked ids merged (`identity.together`)."""
    if nothing_told(raw):
        return Facts(version=raw.get(b"v", b"0").decode())
    held, parts, told_us = _registers(raw)

    def text_of(name: str) -> str | None:
        return held[name].text if name in held else None

    breaks = [told.at_us for of, told in parts.get("time_out", {}).items() if of in {brand, EVERY_BRAND}]
    excluded_us, returned_us = _exclusion(held, parts, brand)
    # A date that is merely stated never replaces a verified one.
    born = text_of("verified_birth_date") or text_of("birth_date")
    opened, zone = text_of("opened"), text_of("time_zone")
    return Facts(
        version=raw.get(b"v", b"0").decode(),
        known=True,
        excluded_us=excluded_us,
        returned_us=returned_us,
        time_out_until_us=max(breaks, default=None),
        opened_us=None if opened is None else int(opened),
        account=text_of("account") or ("open" if opened else None),
        reopened_us=told_us.get("reopened"),
        kyc_verified=text_of("kyc") == "verified" or None,
        birth_date=date.fromisoformat(born) if born else None,
        jurisdiction=text_of("jurisdiction"),
        licence=text_of("licence"),
        location=text_of("location"),
        elsewhere=tuple(sorted(parts.get("elsewhere", ()))),
        household=text_of("household") or None,
        time_zone=zone if zone in zones.names() else None,
        consent=_consents(parts, brand),
        registers=parts.get("register", {}),
        objection=held.get("objection"),
        harm=_harm(held, parts),
        support_us=told_us.get("support"),
        complaint=held.get("complaint"),
        complained_us=told_us.get("complained"),
        big_loss_us=told_us.get("big_loss"),
        withdrawal=held.get("withdrawal"),
        session=held.get("session"),
        limit_raised_us=told_us.get("limit_raised"),
        vip=held.get("vip"),
        vip_checked_us=told_us.get("vip_checked"),
        told_us=told_us,
        assumed=tuple(sorted(name for name, at_us in told_us.items() if at_us == 0)),
    )


def _registers(raw: Mapping[bytes, bytes]) -> tuple[dict[str, FactValue], Parts, dict[str, int]]:
    """All registers of a player's hash, those among them whose names have parts, and the moment of each."""
    held: dict[str, FactValue] = {}
    parts: dict[str, dict[str, FactValue]] = {}
    told_us: dict[str, int] = {}
    for field_name, value in raw.items():
        if field_name not in NO_REGISTER:
            moment, _, text = value.split(b" ", 2)
            name, kind, rest = _parted(field_name)
            told_us[name] = at_us = int(moment)
            held[name] = told = FactValue(text.decode(), at_us)
            if kind:
                parts.setdefault(kind, {})[rest] = told
    return held, parts, told_us


@lru_cache(maxsize=10_000)
def _parted(field_name: bytes) -> tuple[str, str, str]:
    """Name of a register, and its first part with the rest where it has parts; players have the same few."""
    name = field_name.decode()
    kind, colon, rest = name.partition(":")
    return (name, kind, rest) if colon else (name, "", "")


def _harm(held: Mapping[str, FactValue], parts: Parts) -> Mapping[str, FactValue]:
    """Latest assertions of harm by source; a support mention of an earlier build stands under `harm`."""
    found = parts.get("harm", {})
    if "harm" in held and held["harm"].at_us > found.get("signal", _NEVER).at_us:
        return {**found, "signal": held["harm"]}
    return found


def _consents(parts: Parts, brand: str) -> dict[tuple[str, str], Consent]:
    """Consent by channel and product; a withdrawal for all products ends earlier consent to each."""
    found = {}
    of_brand, ended = f"{brand}:", parts.get("unsubscribed", {})
    for rest, told in parts.get("consent", {}).items():
        if not rest.startswith(of_brand):
            continue
        channel, _, product = rest[len(of_brand) :].partition(":")
        since_us, (granted, basis, origin) = told.at_us, _terms(told.text)
        last_us = ended.get(f"{EVERY_BRAND}:{channel}", _NEVER).at_us if ended else _NEVER.at_us
        if ended and product:
            last_us = max(last_us, ended.get(of_brand + channel, _NEVER).at_us)
        if last_us >= since_us:
            granted, since_us = False, last_us
        found[channel, product or "*"] = Consent(granted, since_us, basis, origin)
    return found


@lru_cache(maxsize=1_000)
def _terms(text: str) -> tuple[bool, str, str | None]:
    """Whether a consent was given, on which basis and where; few differ."""
    state, *rest = text.split(" ")
    more = dict(one.split("=", 1) for one in rest)
    return state == "granted", more.get("basis", "express"), more.get("origin")


def registers(raw: Mapping[bytes, bytes]) -> list[Assertion]:
    """All facts of a player's hash as assertions, by field."""
    kept = sorted((name, value) for name, value in raw.items() if name not in NO_REGISTER)
    return [Assertion(name.decode(), *StoredFact.loads(value)) for name, value in kept]


def _exclusion(held: Mapping[str, FactValue], parts: Parts, brand: str) -> tuple[int | None, int | None]:
    """When the standing exclusion of a brand or the whole house began, and when the last one ended.

    An exclusion by a register that names the player no more ended, as far as is known, when it last named them.
    """
    found = [held[name] for name in ("exclusion:*", f"exclusion:{brand}") if name in held]
    on = [told.at_us for told in found if told.text == "on"]
    ended = [told.at_us for told in found if told.text == "ended"]
    listed = parts.get("listed", {})
    ended += [told.at_us for name, told in listed.items() if held[f"register:{name}"].text == "clear"]
    return (max(on) if on else None), (max(ended) if ended else None)
