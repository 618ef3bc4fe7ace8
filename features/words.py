"""Closed lists of words: fold spellings, refuse unknown words with the known ones and the nearest.

What is stored is read as it is: lists hold at a `Door` only, which pydantic hands to the fields as its context.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import BeforeValidator, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

if TYPE_CHECKING:
    from features.exchange import Exchange

_SHOWN: Final = 40
"""Words that a refusal lists at most."""
_ALIKE: Final = 0.3
_QUOTED: Final = re.compile(r"'([^']*)'")


def fold(word: str) -> str:
    """Fold a word for comparison: lower case, `_` for blanks and `-`."""
    return re.sub(r"[\s-]+", "_", word.strip().casefold())


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word with the closest spelling, None where none is close."""
    folded = {fold(one): one for one in known}
    found = get_close_matches(fold(word), folded, 1, _ALIKE)
    return folded[found[0]] if found else None


def unknown(word: object, what: str, known: Iterable[str]) -> str:
    """Sentence that refuses an unknown word: the known words and the nearest."""
    listed = list(known)
    near = nearest(word, listed) if isinstance(word, str) else None
    shown = ", ".join(listed[:_SHOWN]) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
    return f"{word!r} is no {what}: " + (f"did you mean {near}? " if near else "") + f"known are {shown or 'none'}"


class ClosedList(NamedTuple):
    """A closed list of words; `what` names what they are."""

    what: str
    words: tuple[str, ...]

    def find(self, word: str) -> str:
        """Find a word whatever its spelling; raises ValueError with the known words."""
        found = {fold(one): one for one in self.words}.get(fold(word))
        if found is None:
            raise ValueError(unknown(word, self.what, self.words))
        return found


class Door(NamedTuple):
    """Closed lists for values that enter the house; None where a list is not known, as for a file.

    Before `trading_since` there was no money and no play; None asks nothing of it. `exchange` has the rates of money in
    other currencies.
    """

    brands: ClosedList | None = None
    registers: ClosedList | None = None
    tags: ClosedList | None = None
    offers: ClosedList | None = None
    trading_since: date | None = None
    exchange: Exchange | None = None


FILE: Final = Door()
"""The door of files that people edit."""


def _spelt(word: object) -> object:
    return fold(word) if isinstance(word, str) else word


SPELT: Final = BeforeValidator(_spelt)
"""Validator of words in lower case with `_`; folds any spelling."""


def _lowered(word: object) -> object:
    return re.sub(r"\s+", "-", word.strip().lower()) if isinstance(word, str) else word


LOWER: Final = BeforeValidator(_lowered)
"""Validator of words in lower case with `-` or `_`."""


def listed(name: str, *, kept: bool = False) -> WrapValidator:
    """Validator of a field whose words a list of `Door` holds, by the list's name; it takes the list's spelling.

    `kept` leaves the word as it was sent: its readers fold it.
    """

    def find(word: object, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        closed: ClosedList | None = getattr(info.context, name, None)
        if closed is None or not isinstance(word, str):
            return read(word)
        found = closed.find(word)
        return read(word if kept else found)

    return WrapValidator(find)


def quoted(text: str) -> list[str]:
    """Words that stand in quotes in a text of pydantic's."""
    return _QUOTED.findall(text)


def sentence(error: Mapping[str, Any]) -> str:
    """Turn one of pydantic's errors into a sentence, with the nearest word for an unknown one."""
    context, word = error.get("ctx", {}), error.get("input")
    if isinstance(word, bool) and error["type"] in {"literal_error", "string_type"}:
        written = "ON or YES" if word else "NO or OFF"
        return (
            f"{str(word).lower()} is no word; YAML reads an unquoted {written} as {str(word).lower()}: put it in quotes"
        )
    if error["type"] == "literal_error" and isinstance(word, str):
        return unknown(word, "known word", quoted(context["expected"]))
    if error["type"] == "union_tag_invalid":
        return unknown(context["tag"], "known type", quoted(context["expected_tags"]))
    return str(error["msg"]).removeprefix("Value error, ")
