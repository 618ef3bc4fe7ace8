"""Inputs of rules: each with its value, the moment of assertion, and whether it is reliable. Pure.

Facts, features, harm and reservations become one `Inputs`; None stands for an input that is unknown, too old or of the
future, and every rule that asks for such an input denies. Moments are unix microseconds; 0 means that something is
known never to have happened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from functools import lru_cache
from math import isnan
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from numpy.typing import NDArray

from features import zones
from features.events import LEVELS
from features.moments import DAY_US, HOUR_US, MINUTE_US, moment
from features.schema import VECTOR
from features.unshown import Unshown
from service.contacts.limits import fits
from service.players.facts import Consent, Facts, FactValue, plausible
from service.players.harm import SKEW_US, AgeAndPlaces, Harm
from service.rules.rulebook import EVERYWHERE, OWN, Rulebook, RulebookSettings, places
from service.rules.types import ContactsToCount

NEVER: Final = 0
_SESSION_US: Final = 12 * HOUR_US
"""A session without an end is unknown after this long, microseconds."""
_AT: Final = {reading.name: index for index, reading in enumerate(VECTOR)}
_LOOKED_AT: Final = np.array(
    [
        _AT[name]
        for name in (
            *("last_login_days_ago", "last_deposit_days_ago", "last_bet_days_ago"),
            *("bonus_count", "net_deposit_final_month_0", *(f"net_loss_final_week_{ago}" for ago in range(4))),
        )
    ]
)
_FROM_FEATURES: Final = (
    *("last_login", "last_deposit", "net_loss_week", "net_deposit_month"),
    *("bonuses", "has_played"),
)


class Input(NamedTuple):
    """Description of an input: title, how long its value holds, and why.

    `max_age` is None for an event, or a state that holds until the next event.
    """

    title: str
    max_age: str | None
    since: str


_CHANGES: Final = "holds until another event is told"
_BEHAVIOUR: Final = "60 s behind the player's events (`features_stale`)"
INPUTS: Final[Mapping[str, Input]] = {
    "residence": Input("jurisdiction of residence, licence and place", None, _CHANGES),
    "time_zone": Input("time zone of the player", None, _CHANGES),
    "account": Input("state of the account", None, _CHANGES),
    "kyc": Input("whether identity is verified", None, _CHANGES),
    "opened": Input("when the account was opened", None, "an event of the past"),
    "reopened": Input("when a closed account was opened again", None, "an event of the past"),
    "age": Input("completed years of age at the player's midnight, of a verified identity", None, "computed afresh"),
    OWN: Input("exclusion that the player told the house", None, "holds until the player comes back by an own act"),
    "returned": Input("when the last exclusion ended", None, "an event of the past"),
    "time_out": Input("end of the player's break", None, "an event of the past"),
    "consent": Input("consent by channel and product", None, "holds until withdrawn; rules may let it lapse"),
    "objection": Input("objection to direct marketing and profiling", None, _CHANGES),
    "harm": Input("harm level", "60 s for behaviour; other sources as `settings.yaml` says", "see harm.yaml"),
    "net_loss_week": Input("net loss of this and the three calendar weeks before", _BEHAVIOUR, "exact windows"),
    "net_deposit_month": Input("net deposits of the calendar month", _BEHAVIOUR, "exact window"),
    "last_login": Input("when the player last logged in", _BEHAVIOUR, "a feature"),
    "last_deposit": Input("when the player last deposited", _BEHAVIOUR, "a feature"),
    "bonuses": Input("bonuses ever granted", _BEHAVIOUR, "a feature"),
    "support_contact": Input("last contact with support", None, "an event of the past"),
    "complaint": Input("last complaint", None, "an event of the past"),
    "big_loss": Input("last big loss of a day", None, "an event of the past, noted by the worker"),
    "complaint_open": Input("whether a complaint is open", None, _CHANGES),
    "withdrawal_pending": Input("whether a withdrawal waits", None, _CHANGES),
    "in_session": Input("whether the player is playing", "12 h after the session began", "its end may have got lost"),
    "has_played": Input("whether the player ever bet", _BEHAVIOUR, "a feature"),
    "limit_raised": Input("when a limit was last raised or removed", None, "an event of the past"),
    "vip": Input("whether the player is a VIP", None, _CHANGES),
    "vip_checked": Input("when a VIP's means and harm were last checked", None, "rules say how long it holds"),
}
"""Every input but the registers of excluded people, whose age each pack declares under `registers`."""


class CountedContact(NamedTuple):
    """A contact that limits count: sending moment (unix microseconds), offer, channel."""

    send_us: int
    offer: str
    channel: str


class InputValue(NamedTuple):
    """An input as rules looked at it: `told_us` since when it holds, `trouble` why it cannot be relied on."""

    value: Any
    told_us: int | None
    trouble: str | None


class InputRead(Unshown, msgspec.Struct, frozen=True, kw_only=True):
    """An input of rules: its value, its age, and why it cannot be relied on."""

    value: Any
    age_seconds: float | UnsetType = UNSET
    trouble: Annotated[str | UnsetType, Meta(description="`unknown`, `stale` or `future`: it denies.")] = UNSET


class Inputs(Unshown, msgspec.Struct, kw_only=True):
    """All inputs of rules about a player at a moment; None is unknown, 0 for a moment is never.

    Attributes:
        named: Jurisdictions of residence, licence and location; `places` those, their countries and everywhere.
        listed: Register -> whether it lists the player, for reliable answers only.
        checked: Register -> moment of its latest answer, of any age.
        consents: (channel, product) -> consent; product "*" for all products.
        contacts: Reserved and confirmed contacts that count.
        troubles: Input -> `unknown`, `stale` or `future`.
        told_us: Input -> moment since when its value holds.
    """

    now_us: int
    named: frozenset[str] | None = None
    places: frozenset[str] = frozenset({EVERYWHERE})
    zone: str | None = None
    account: str | None = None
    kyc: bool | None = None
    opened_us: int | None = None
    reopened_us: int | None = None
    age: int | None = None
    listed: dict[str, bool] = {}
    checked: dict[str, int] = {}
    returned_us: int | None = None
    time_out_until_us: int | None = None
    consents: Mapping[tuple[str, str], Consent] = {}
    objects: bool | None = None
    harm: int | None = None
    net_loss_weeks: tuple[float, ...] | None = None
    net_deposit_month: float | None = None
    last_login_us: int | None = None
    last_deposit_us: int | None = None
    bonuses: int | None = None
    support_contact_us: int | None = None
    complaint_us: int | None = None
    big_loss_us: int | None = None
    complaint_open: bool | None = None
    withdrawal_pending: bool | None = None
    in_session: bool | None = None
    has_played: bool | None = None
    limit_raised_us: int | None = None
    vip: bool | None = None
    vip_checked_us: int | None = None
    contacts: tuple[CountedContact, ...] = ()
    troubles: dict[str, str] = {}
    told_us: dict[str, int] = {}
    never: int = -(2**62)

    def consent(self, channel: str, product: str, *, narrow: bool = False) -> Consent | None:
        """Consent to a channel for a product; unless `narrow`, consent to all products counts too."""
        found = self.consents.get((channel, product))
        return found if found is not None or narrow else self.consents.get((channel, "*"))

    def room(self, counted: ContactsToCount, most: int, at_us: int) -> bool:
        """Whether one more contact of a kind fits at a moment."""
        taken = sorted(one.send_us for one in self.contacts if counted.holds(one.offer, one.channel))
        if counted.window_us is None:
            return self.bonuses is not None and self.bonuses + len(taken) < most
        return fits(taken, at_us, most, counted.window_us)

    def spent(self, counted: ContactsToCount, offer: str, at_us: int) -> float:
        """Value of the counted contacts near a moment plus an offer; infinite where unknown."""
        window = counted.window_us or 0
        near = [
            one.offer
            for one in self.contacts
            if counted.holds(one.offer, one.channel) and abs(one.send_us - at_us) < window
        ]
        worth = [counted.worth.get(name) for name in (*near, offer)]
        return sum(math.inf if one is None else one for one in worth)

    def values(self, needs: Iterable[str]) -> dict[str, tuple[Any, int | None, str | None]]:
        """Inputs as they are, by name, each with the parts of an `InputValue`, for the decision record."""
        told, trouble, listed = self.told_us.get, self.troubles.get, self.listed.get
        return {
            name: (
                listed(name) if (attribute := _NAMED.get(name)) is None else getattr(self, attribute),
                told(name),
                trouble(name),
            )
            for name in needs
        }

    def in_words(self, needs: Iterable[str]) -> dict[str, InputRead]:
        """Inputs for people, by name."""
        return {name: in_words(name, InputValue(*value), self.now_us) for name, value in self.values(needs).items()}


def in_words(name: str, read: InputValue, at_us: int) -> InputRead:
    """An input for people, at the moment of its decision (unix microseconds)."""
    return InputRead(
        value=None if read.value is None else _in_words(name, read.value),
        age_seconds=UNSET if read.told_us is None else (at_us - read.told_us) / 1e6,
        trouble=UNSET if read.trouble is None else read.trouble,
    )


def _in_words(name: str, value: Any) -> Any:  # noqa: ANN401 - inputs are of many types
    """A value for people: moments in UTC or `never`, the harm level by name."""
    if name == "residence":
        return sorted(value)
    if name == "consent":
        return {":".join(key): _consent_text(Consent(*one)) for key, one in sorted(value.items())}
    if name == "harm":
        return LEVELS[value]
    return _when(value) if _NAMED.get(name, "").endswith("_us") else value


def _consent_text(one: Consent) -> str:
    state = "granted" if one.granted else "withdrawn"
    return " ".join(part for part in (state, one.basis, one.origin, "since", _when(one.since_us)) if part)


def _when(moment_us: int) -> str:
    return "never" if moment_us == NEVER else moment(moment_us).isoformat()


_NAMED: Final = {
    "residence": "named",
    "time_zone": "zone",
    "returned": "returned_us",
    "time_out": "time_out_until_us",
    "consent": "consents",
    "objection": "objects",
    "net_loss_week": "net_loss_weeks",
    **{name: name for name in ("account", "kyc", "age", "harm", "net_deposit_month", "bonuses", "vip")},
    **{name: name for name in ("complaint_open", "withdrawal_pending", "in_session", "has_played")},
    **{
        name: f"{name}_us"
        for name in ("opened", "reopened", "last_login", "last_deposit", "support_contact", "complaint", "big_loss")
    },
    "limit_raised": "limit_raised_us",
    "vip_checked": "vip_checked_us",
}


def age_on(born: date, today: date) -> int:
    """Age in completed years; born on 29 February, one completes a year on 1 March."""
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


def age_of(facts: Facts, now_us: int) -> int | None:
    """Age at midnight in the player's zone, or in UTC without one.

    None unless identity and birth date are verified, and the date can be that of somebody who lives.
    """
    if not facts.kyc_verified or facts.birth_date is None:
        return None
    today = _day(now_us // MINUTE_US, facts.time_zone or "UTC")
    return age_on(facts.birth_date, today) if plausible(facts.birth_date, today) else None


@lru_cache(maxsize=1_000)
def _day(minute: int, zone: str) -> date:
    """Local date in a minute of unix time; days begin at whole minutes (see `features.zones`)."""
    return datetime.fromtimestamp(minute * 60, zones.zone(zone)).date()


def jurisdictions(facts: Facts) -> frozenset[str] | None:
    """Jurisdictions of a player: residence, licence of the account, and location.

    The account is held where the player lives, and they are at home, unless another was told; without a residence
    nothing is known.
    """
    if facts.jurisdiction is None:
        return None
    named = (facts.jurisdiction, facts.licence, facts.location, *facts.elsewhere)
    return frozenset([one for one in named if one is not None])


def age_and_places(facts: Facts, at_us: int) -> AgeAndPlaces:
    """Inputs of harm markers beside behaviour: age and places."""
    return AgeAndPlaces(age_of(facts, at_us), _places(jurisdictions(facts) or frozenset()))


_places: Final = lru_cache(maxsize=1_000)(places)
"""Places by jurisdictions; remembered, for players live in few."""


def read(
    facts: Facts,
    person: AgeAndPlaces,
    vector: NDArray[np.float64] | None,
    harm: Harm,
    contacts: tuple[CountedContact, ...],
    now_us: int,
    book: Rulebook,
) -> Inputs:
    """Read the inputs of a player.

    Args:
        facts: The player's facts.
        person: Age and places by these facts.
        vector: Feature vector at now; None where behaviour cannot be relied on.
        harm: The player's harm level.
        contacts: Contacts that limits count.
        now_us: House time.
        book: The house's settings, and how old a register's answer may be.
    """
    if not facts.known:
        return Inputs(now_us=now_us, troubles=dict.fromkeys((*INPUTS, *book.ages_us), "unknown"))
    found = Inputs(now_us=now_us, contacts=contacts, told_us=_moments(facts), places=person.places, age=person.age)
    _person(found, facts)
    _state(found, facts)
    _registers(found, facts, book.ages_us)
    _behaviour(found, facts, vector, harm, book.settings)
    _drop_future(found)
    return found


def _moments(facts: Facts) -> dict[str, int]:
    """Moments since which inputs hold; assumed facts have none."""
    return {name: facts.told_us[field] for name, field in _TOLD.items() if facts.told_us.get(field)}


_TOLD: Final = {
    "residence": "jurisdiction",
    "time_zone": "time_zone",
    "account": "account",
    "kyc": "kyc",
    "age": "verified_birth_date",
    "objection": "objection",
    "withdrawal_pending": "withdrawal",
    "in_session": "session",
    "complaint_open": "complaint",
    "vip": "vip",
}
"""Input -> the register of facts that holds its moment."""


def _person(found: Inputs, facts: Facts) -> None:
    found.named = jurisdictions(facts)
    found.zone = facts.time_zone
    found.account = facts.account
    found.kyc = facts.kyc_verified
    found.opened_us = facts.opened_us
    limit = found.now_us + SKEW_US
    # A withdrawal dated in the future ends consent now; a grant dated in the future gives none.
    found.consents = {key: one for key, one in facts.consent.items() if one.since_us <= limit or not one.granted}


def _state(found: Inputs, facts: Facts) -> None:
    """Read inputs that events set; without an event of a known player, it did not happen."""
    found.listed[OWN] = facts.excluded_us is not None
    if facts.excluded_us is not None:
        found.told_us[OWN] = facts.excluded_us
    found.returned_us = facts.returned_us or NEVER
    found.reopened_us = facts.reopened_us or NEVER
    found.time_out_until_us = facts.time_out_until_us or NEVER
    found.objects = _is_asserted(found, "objection", facts.objection, "objects")
    found.support_contact_us = facts.support_us or NEVER
    found.complaint_open = _is_asserted(found, "complaint_open", facts.complaint, "open")
    found.complaint_us = facts.complained_us or NEVER
    found.big_loss_us = facts.big_loss_us or NEVER
    found.withdrawal_pending = _is_asserted(found, "withdrawal_pending", facts.withdrawal, "pending")
    found.in_session = _is_asserted(found, "in_session", facts.session, "on")
    if found.in_session and facts.session and found.now_us - facts.session.at_us > _SESSION_US:
        found.in_session, found.troubles["in_session"] = None, "stale"
    found.limit_raised_us = facts.limit_raised_us or NEVER
    found.vip = _is_asserted(found, "vip", facts.vip, "vip")
    found.vip_checked_us = facts.vip_checked_us or NEVER


def _is_asserted(found: Inputs, name: str, told: FactValue | None, text: str) -> bool | None:
    """Whether the latest value is `text`; None if it was asserted for the future."""
    if told is None:
        return False
    if told.at_us > found.now_us + SKEW_US:
        found.troubles[name] = "future"
        return None
    return told.text == text


def _registers(found: Inputs, facts: Facts, ages_us: Mapping[str, int]) -> None:
    """Read answers of registers; one too old or of the future does not count, but a listing holds until lifted."""
    for name, max_age_us in ages_us.items():
        told = facts.registers.get(name)
        if told is None:
            found.troubles[name] = "unknown"
            continue
        found.told_us[name] = told.at_us
        age = found.now_us - told.at_us
        if age < -SKEW_US:
            found.troubles[name] = "future"
            continue
        found.checked[name] = told.at_us
        if age > max_age_us:
            found.troubles[name] = "stale"
        else:
            found.listed[name] = told.text == "listed"
    # A listing by a register unknown to the rulebook excludes everywhere, until the player returns.
    strange = [told.at_us for name, told in facts.registers.items() if name not in ages_us and told.text == "listed"]
    if strange and max(strange) > (facts.returned_us or NEVER):
        found.listed[OWN], found.told_us[OWN] = True, max(strange)


def _behaviour(
    found: Inputs, facts: Facts, vector: NDArray[np.float64] | None, harm: Harm, settings: RulebookSettings
) -> None:
    if vector is None:
        found.troubles |= dict.fromkeys(_FROM_FEATURES, "unknown") | {"harm": "unknown"}
        return
    now_us = found.now_us

    def since(days: float) -> int:
        return NEVER if isnan(days) else now_us - int(days * DAY_US)

    login, deposit, bet, bonuses, month, *losses = vector[_LOOKED_AT].tolist()
    found.net_loss_weeks = tuple(losses)
    found.net_deposit_month = month
    found.last_login_us = since(login)
    found.last_deposit_us = since(deposit)
    found.has_played = not isnan(bet)
    found.bonuses = int(bonuses)
    trouble = _scores(facts, settings, now_us)
    if trouble is None:
        found.harm = LEVELS.index(harm.level)
    else:
        found.troubles["harm"] = trouble


def _scores(facts: Facts, settings: RulebookSettings, now_us: int) -> str | None:
    """Trouble with an external harm score that the house requires of every player, None if there is none."""
    for source, hours in settings.scores.items():
        told = facts.harm.get(f"by:{source}")
        if told is None:
            return "unknown"
        age = now_us - told.at_us
        if age < -SKEW_US or age > hours * HOUR_US:
            return "future" if age < 0 else "stale"
    return None


def _drop_future(found: Inputs) -> None:
    """Drop inputs whose moment lies in the future, and mark the unknown ones."""
    limit = found.now_us + SKEW_US
    for name, attribute in _MOMENTS.items():
        value = getattr(found, attribute)
        if value is not None and value > limit:
            setattr(found, attribute, None)
            found.troubles[name] = "future"
    for name, value in (("residence", found.named), ("time_zone", found.zone), ("account", found.account)):
        if value is None:
            found.troubles[name] = "unknown"
    for name, missing in (("kyc", found.kyc), ("age", found.age), ("opened", found.opened_us)):
        if missing is None and name not in found.troubles:
            found.troubles[name] = "unknown"


# A time-out may end in the future; every other moment must be past.
_MOMENTS: Final = {
    name: attribute for name, attribute in _NAMED.items() if attribute.endswith("_us") and name != "time_out"
}
