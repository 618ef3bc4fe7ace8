"""Cells of a file as values: numbers, money, moments, booleans. Pure; unreadable cells are refused."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from decimal import Context, Decimal, DecimalException, Inexact
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Final

import msgspec
from pydantic import ValidationError

from features import zones
from features.errors import CroupierError
from features.events import moment
from features.words import sentence

EARLIEST: Final = datetime(1990, 1, 1, tzinfo=UTC)
"""Moments before this are placeholders, or seconds taken for milliseconds."""


class RowRefused(CroupierError, ValueError):
    """One row cannot be taken; the sentence goes to the rejects."""

    code = "row_refused"


class ZonelessError(RowRefused):
    """A time names no zone, and the mapping none for such."""

    code = "zoneless"


def row_hash(cells: Sequence[str]) -> str:
    """Id of a row by its content, 32 hex digits, wherever the row stands."""
    return blake2b(msgspec.json.encode(cells), digest_size=16).hexdigest()


def truth(text: str) -> bool:
    """Read a cell as a boolean."""
    found = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower())
    if found is None:
        raise RowRefused(f"{_short(text)} is neither true nor false")
    return found


def tags(text: str) -> list[str]:
    """Words separated by semicolons."""
    return [tag.strip() for tag in text.split(";") if tag.strip()]


_NUMBER: Final = re.compile(r"[+-]?(\d{1,18}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,2})?", re.ASCII)
_EXACT: Final = Context(prec=200, traps=[Inexact])
_WIDE: Final = Context(prec=100)


def number(text: str) -> Decimal:
    """Read a plain decimal number, exact; refuses thousands separators, NaN and infinity."""
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped) is None:
        raise RowRefused(f"{_short(text)} is no plain number")
    return Decimal(stripped)


def whole_minor(amount: Decimal, decimals: int, rounding: str | None, text: str) -> int:
    """Amount in minor units, exact; more decimals than the currency's are rounded only on request.

    Args:
        amount: In the currency's major unit.
        decimals: How many the currency has.
        rounding: A rounding of `decimal`, None to refuse what would need it.
        text: What the amount stands as, for the refusal.
    """
    scaled = amount.scaleb(decimals, _EXACT)
    if rounding is not None:
        return int(scaled.to_integral_value(rounding))
    whole = scaled.to_integral_value()
    if whole != scaled:
        raise RowRefused(f"{_short(text)} has more than {decimals} decimals: the mapping can `round` it")
    return int(whole)


@lru_cache(maxsize=50_000)
def minor(text: str, decimals: int, rounding: str | None = None) -> int:
    """Minor units of a cell; see `whole_minor`."""
    return whole_minor(number(text), decimals, rounding, text)


_OPERATIONS: Final[Mapping[type[ast.operator], Callable[[Decimal, Decimal], Decimal]]] = {
    ast.Add: _WIDE.add,
    ast.Sub: _WIDE.subtract,
    ast.Mult: _WIDE.multiply,
    ast.Div: _WIDE.divide,
}


class Arithmetic:
    """Expression over columns and numbers: `Stake * Multiple`, `-("Gross amount" - Fee) / 100`.

    Python's parser reads it; of its tree only numbers, names, quoted names, + - * / and brackets are taken.

    Attributes:
        columns: The columns that it names, in order.

    Raises:
        ValueError: It is no such term.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r} is no arithmetic: {error}") from error
        self.columns = list(dict.fromkeys(self._named(self._tree)))

    def _named(self, node: ast.expr) -> Iterator[str]:
        match node:
            case ast.BinOp(left, operation, right) if type(operation) in _OPERATIONS:
                yield from self._named(left)
                yield from self._named(right)
            case ast.UnaryOp(ast.USub() | ast.UAdd(), operand):
                yield from self._named(operand)
            case ast.Name(id=name) | ast.Constant(value=str() as name):
                yield name
            case ast.Constant(value=int() | float() as fixed) if not isinstance(fixed, bool) and abs(fixed) < 1e18:
                return
            case _:
                raise ValueError(f"{self._text!r} is no arithmetic of columns, numbers, + - * / and brackets")

    def value(self, cell: Callable[[str], str]) -> Decimal:
        """Evaluate to a hundred digits; `cell` gives the text of a column.

        Raises:
            RowRefused: A cell is no number, or there is no result.
        """
        try:
            return self._value(self._tree, cell)
        except DecimalException as error:
            raise RowRefused(f"{self._text} has no value here: {type(error).__name__}") from error

    def _value(self, node: ast.expr, cell: Callable[[str], str]) -> Decimal:
        match node:
            case ast.BinOp(left, operation, right):
                return _OPERATIONS[type(operation)](self._value(left, cell), self._value(right, cell))
            case ast.UnaryOp(sign, operand):
                value = self._value(operand, cell)
                return -value if isinstance(sign, ast.USub) else value
            case ast.Name(id=name) | ast.Constant(value=str() as name):
                return number(cell(name))
            case ast.Constant(value=fixed):
                return Decimal(str(fixed))
        raise AssertionError(node)


def clock(form: str, zone: str | None) -> Callable[[str], datetime]:
    """Reader of a time format; the moments it returns are aware.

    Args:
        form: `iso`, `seconds`, `milliseconds` or a strptime format.
        zone: Where a time that names no zone is; of an hour that happens twice the first is meant.
    """
    placed = zones.zone(zone) if zone else None
    read = CLOCKS.get(form) or partial(_formatted, form=form)

    def aware(text: str) -> datetime:
        try:
            at = _placed(read(text.strip()), placed)
        except (OverflowError, ValueError) as error:
            if isinstance(error, RowRefused):
                raise
            raise RowRefused(f"{_short(text)} is no time: {error}") from error
        if at < EARLIEST:
            raise RowRefused(f"{_short(text)} lies before {EARLIEST.year}: a placeholder, or another unit")
        return at

    return aware


def _placed(at: datetime, zone: tzinfo | None) -> datetime:
    if at.tzinfo is not None:
        return at
    if zone is None:
        raise ZonelessError(f"{at.isoformat()} names no zone, and the mapping has no `zone` in its `time`")
    utc = at.replace(tzinfo=zone).astimezone(UTC)
    if utc.astimezone(zone).replace(tzinfo=None) != at:
        raise RowRefused(f"{at.isoformat()} does not exist in {zone}: the clocks went forward")
    return utc


def _since_1970(text: str, unit_us: int) -> datetime:
    return moment(int(number(text) * unit_us))


def _formatted(text: str, form: str) -> datetime:
    return datetime.strptime(text, form)  # noqa: DTZ007 - placed in the mapping's zone


CLOCKS: Final[Mapping[str, Callable[[str], datetime]]] = {
    "iso": datetime.fromisoformat,
    "seconds": partial(_since_1970, unit_us=1_000_000),
    "milliseconds": partial(_since_1970, unit_us=1_000),
}
"""The named forms of a time."""


def reads_dates(form: str) -> bool:
    """Whether a strptime format reads back the whole date that it writes."""
    sample = datetime(2021, 11, 23, tzinfo=UTC)
    try:
        return _formatted(sample.strftime(form), form).date() == sample.date()
    except ValueError:
        return False


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def reasons(error: ValueError) -> str:
    """Reasons why a row is no event, in one line."""
    if isinstance(error, ValidationError):
        return "; ".join(_reasons(error))
    if isinstance(error, UnicodeError):
        return "the row is not UTF-8 text"
    return str(error)


def _reasons(error: ValidationError) -> Iterator[str]:
    for one in error.errors(include_url=False):
        name = str(one["loc"][-1]) if one["loc"] else "event"
        if one["type"] == "string_pattern_mismatch" and name in {"player_id", "event_id"}:
            yield f"{name} {_short(str(one['input']))} must be 1 to 64 printable ASCII characters, no space or brace"
        else:
            yield f"{name}: {sentence(one)}"
