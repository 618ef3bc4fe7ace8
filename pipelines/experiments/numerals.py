"""Numbers, and yes and no, as people write them: currencies, thousands, decimal commas, any spelling. Pure.

A column is judged as a whole, by the shapes of its cells (`-$1,234.50` has the shape `-$0,000.00`): one cell alone may
be read in two ways, many together hardly ever are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final, NamedTuple

MISSING: Final = ("", "nan", "na", "n/a", "<na>", "null", "none", "nil", "-", "?", "#n/a", "nat")
"""Spellings of a cell without a value, in lower case."""
YES: Final = frozenset(
    "1 1.0 true t yes y on ja j oui o si sí s sim da tak kyllä igen evet converted active".split()  # noqa: SIM905
)
NO: Final = frozenset(
    "0 0.0 false f no n off nein non não nao nie ei nem hayir inactive".split()  # noqa: SIM905
)
_MINUS: Final = "\u2212\u2013-"
_BLANKS: Final = " \u00a0\u202f\u2009"
_WORDS: Final = frozenset({"kr", "kr.", "zł", "zl", "kč", "ft", "lei", "лв", "rs", "rs.", "r$", "us$", "a$", "c$"})
_SHAPE: Final = re.compile(
    rf"(?P<bracket>\()?[{_BLANKS}]*(?P<minus>[+{_MINUS}])?[{_BLANKS}]*(?P<before>[^\d+.,'\u2019()\s{_MINUS}]+\.?)?[{_BLANKS}]*"
    rf"(?P<inner>[+{_MINUS}])?(?P<body>[0.,'\u2019{_BLANKS}]*0[.,]?)(?P<power>[eE][+{_MINUS}]?0+)?[{_BLANKS}]*"
    rf"(?P<after>[^\d+.,'\u2019()\s{_MINUS}]+\.?)?[{_BLANKS}]*(?P<behind>[{_MINUS}])?\)?"
)
_MARK: Final = re.compile(r"[.,'\u2019 \u00a0\u202f\u2009]")


class Numerals(NamedTuple):
    """How the numbers of a column are written.

    Attributes:
        decimal: Sign of decimals, `.` or `,`.
        thousands: Whether something stands between thousands.
        currency: Symbol or code that stands at the amounts; "" where none does.
        doubt: What was assumed; "" where nothing had to be.
    """

    decimal: str
    thousands: bool
    currency: str
    doubt: str = ""


def shape_of(cell: str) -> str:
    """Shape of a cell: every digit as 0."""
    return re.sub(r"\d", "0", cell.strip())


def numerals(shapes: Iterable[str]) -> Numerals:
    """How numbers are written, from the shapes of all cells of a column that hold something.

    Raises:
        ValueError: A shape is that of no number, or they contradict each other.
    """
    bodies: list[str] = []
    currencies: set[str] = set()
    for shape in shapes:
        found = _SHAPE.fullmatch(shape)
        marks = [found[name] for name in ("before", "after") if found and found[name]]
        if found is None or len(marks) > 1 or not all(map(_is_currency, marks)):
            raise ValueError(f"{shape!r} (each digit as 0) is no number")
        bodies.append(found["body"].strip(_BLANKS))
        currencies.update(mark.strip(".").upper() for mark in marks)
    if len(currencies) > 1:
        raise ValueError(f"amounts are in several currencies ({', '.join(sorted(currencies))})")
    currency = next(iter(currencies), "")
    decimal, doubt = _decimal(bodies, currency)
    return Numerals(decimal, any(_thousands(body, decimal) for body in bodies), currency, doubt)


def _is_currency(mark: str) -> bool:
    return (
        all(unicodedata.category(sign) == "Sc" for sign in mark)
        or mark.lower() in _WORDS
        or re.fullmatch(r"[A-Za-z]{3}|[A-Z]{1,2}\$", mark) is not None
    )


def _decimal(bodies: list[str], currency: str) -> tuple[str, str]:
    """The sign of decimals, and what had to be assumed."""
    decimals: set[str] = set()
    thousands: set[str] = set()
    unclear: set[str] = set()
    for body in bodies:
        marks = [mark for mark in _MARK.findall(body) if mark in ".,"]
        kinds = list(dict.fromkeys(marks))
        if len(kinds) == 2:  # the last one begins the decimals: 1.234,50
            thousands.add(kinds[0])
            decimals.add(kinds[1])
        elif len(marks) > 1:
            thousands.add(marks[0])
        elif marks:
            before, _, behind = body.rpartition(marks[0])
            plain = len(re.sub(r"\D", "", before))
            (unclear if len(behind) == 3 and 1 <= plain <= 3 else decimals).add(marks[0])
    if both := decimals & thousands:
        raise ValueError(f"{both.pop()!r} stands before decimals in some cells and between thousands in others")
    unclear -= decimals | thousands
    if len(decimals) > 1:
        raise ValueError("some cells have a decimal point and others a decimal comma")
    if decimals or not unclear:
        left = {".", ","} - thousands
        return (decimals.pop() if decimals else "." if "." in left else ","), ""
    return _assumed(unclear, thousands, currency)


def _assumed(unclear: set[str], thousands: set[str], currency: str) -> tuple[str, str]:
    """Every cell looks like 1,234: a comma, and a point in money, are taken to stand between thousands."""
    if unclear == {"."} and not currency and not thousands:
        return ".", ""
    sign = "," if "," in unclear else "."
    return ("." if sign == "," else ","), f"1{sign}234 was read as 1234"


def _thousands(body: str, decimal: str) -> bool:
    whole = body.split(decimal, maxsplit=1)[0]
    groups = _MARK.split(whole)
    if len(groups) > 1 and (len(groups[-1]) != 3 or any(len(group) not in {1, 2, 3} for group in groups[:-1])):
        raise ValueError(f"{body!r} (each digit as 0) has no thousands where marks stand")
    return len(groups) > 1
