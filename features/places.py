"""Jurisdictions: countries of ISO 3166-1 and their subdivisions of ISO 3166-2, as `pycountry` lists them."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pydantic import ValidationInfo

from features.words import Door, nearest

_BESIDE: Final = {"XK": "Kosovo"}
"""Codes that ISO 3166 leaves to their users and that the European Union uses."""
_MEANT: Final = {"UK": "GB", "EL": "GR"}
"""Codes that are reserved for a country beside its own."""


def spelt(place: object, info: ValidationInfo) -> object:
    """Normalise the spelling of a code to capitals with `-`; at a door, raise ValueError for an unknown one."""
    if not isinstance(place, str):
        return place
    meant_code = code(place)
    if isinstance(info.context, Door) and not known(meant_code):
        raise ValueError(unknown(place, meant_code))
    return meant_code


def code(place: str) -> str:
    """A place in the spelling of a code: capitals with `-`."""
    return "-".join(place.replace("_", "-").split()).upper()


def known(place: str) -> bool:
    """Whether a code names a country or a subdivision."""
    country, _, region = place.partition("-")
    return place in regions(country) if region else country in countries()


@cache
def countries() -> frozenset[str]:
    """Codes of all countries."""
    import pycountry  # noqa: PLC0415 - reads its files at the first place that is asked for

    return frozenset((*(one.alpha_2 for one in pycountry.countries), *_BESIDE))


@cache
def regions(country: str) -> frozenset[str]:
    """Codes of a country's subdivisions."""
    return frozenset(_named(country).values())


@cache
def _named(country: str) -> dict[str, str]:
    """Codes of a country's subdivisions, by folded name and code."""
    import pycountry  # noqa: PLC0415

    found: Any = pycountry.subdivisions
    return {f"{one.name.casefold()} {one.code}": one.code for one in found.get(country_code=country) or ()}


def meant(place: str) -> str | None:
    """Guess the code that an unknown code or a country's name stands for; None where nothing is near."""
    country, _, region = place.partition("-")
    if found := _lookup(place.replace("-", " ")):
        return found
    if country not in countries():
        country = _MEANT.get(country) or _lookup(country) or nearest(country, sorted(countries())) or ""
    if not region or not country:
        return country or None
    code = f"{country}-{region}"
    if known(code):
        return code
    named = f"{region.replace('-', ' ').casefold()} "
    alike = [one for name, one in _named(country).items() if name.startswith(named)]
    return alike[0] if alike else nearest(code, sorted(regions(country))) or country


def _lookup(name: str) -> str | None:
    """Code of a country by its name or another of its codes."""
    import pycountry  # noqa: PLC0415

    try:
        found: str = pycountry.countries.lookup(name).alpha_2
    except LookupError:
        return None
    return found


def unknown(place: str, code: str) -> str:
    """Sentence that refuses an unknown code, with the probable one."""
    near = meant(code)
    what = "region of its country" if code.partition("-")[0] in countries() else "country"
    hint = f"did you mean {near}?" if near else "known are codes such as MT, GB and CA-ON"
    return f"{place!r} is no {what} in ISO 3166: {hint}"
