"""Exchange of currencies: rates by day, and amounts in the currency of the house. Pure.

A rate says how many minor units of the house one minor unit of a currency is worth. A day is one of UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, Field, StringConstraints

Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
AnyCase = BeforeValidator(lambda word: word.strip().upper() if isinstance(word, str) else word)
"""Validator of a currency in any case."""
Rate = Annotated[float, Field(gt=0)]
Rates = Rate | Annotated[dict[date, Rate], Field(min_length=1)]
"""A rate that has always held, or rates by the day from which each holds."""


class Exchanged(NamedTuple):
    """An amount that was told in another currency.

    Attributes:
        house_minor: In minor units of the house.
        rate: At which it was exchanged.
        source: Hash of the rulebook that the rate is of.
    """

    house_minor: int
    rate: float
    source: str


class Exchange(NamedTuple):
    """The rates of a house.

    Attributes:
        house: Its currency.
        rates: Rates of other currencies, as a rulebook states them.
        source: Hash of that rulebook.
    """

    house: str
    rates: Mapping[str, Rates]
    source: str = ""

    def exchanged(self, amount_minor: int, currency: str, day: date) -> Exchanged:
        """Exchange an amount at the rate of a day, rounded half to even; raises ValueError where there is none."""
        rate = self.rate(currency, day)
        exact = Decimal(amount_minor) * Decimal(repr(rate))
        return Exchanged(int(exact.to_integral_value(ROUND_HALF_EVEN)), rate, self.source)

    def rate(self, currency: str, day: date) -> float:
        """The rate of a currency on a day; raises ValueError with what is known where there is none."""
        if currency not in self.rates:
            known = ", ".join([self.house, *sorted(self.rates)])
            raise ValueError(f"{currency} has no rate in `exchange` of the rulebook's settings: known are {known}")
        if (found := rate_on(self.rates[currency], day)) is None:
            first = since(self.rates[currency])[0]
            raise ValueError(
                f"{currency} has no rate on {day}: `exchange` of the rulebook's settings has it from {first} on"
            )
        return found


def since(rates: Rates) -> list[date]:
    """Days on which the rates of a currency begin, in order; none for one that has always held."""
    return sorted(rates) if isinstance(rates, dict) else []


def rate_on(rates: Rates, day: date) -> float | None:
    """The rate of a day, None before the first."""
    if not isinstance(rates, dict):
        return rates
    begun = [one for one in rates if one <= day]
    return rates[max(begun)] if begun else None


def day_of(at: datetime) -> date:
    """The day, UTC, whose rate an aware moment has."""
    return at.astimezone(UTC).date()
