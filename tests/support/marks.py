"""Marks: words that stand for secrets and persons, planted where they come in and sought in all that comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

PLAYER: Final = "mark-player-8f3a"
MAIL: Final = "mark.mail.8f3b@example.com"
NAME: Final = "Mark-Name-8f3c"
ADDRESS: Final = "Mark-Street-8f3d"
KEY: Final = "mark-key-8f3e-0123456789abcdef"
PASSWORD: Final = "mark-password-8f3f"  # noqa: S105 - a mark
MARKS: Final = (PLAYER, MAIL, NAME, ADDRESS, KEY, PASSWORD)
"""None of them may be found in a log, a metric, a file that is not sealed, or on a terminal."""


def found_in(text: bytes) -> list[str]:
    """Marks in what a process wrote, in any case."""
    lower = text.lower()
    return [mark for mark in MARKS if mark.lower().encode() in lower]


def files_with_marks(home: Path, sealed: Iterable[str]) -> Iterator[tuple[Path, list[str]]]:
    """Files of a home, outside its sealed parts, that hold marks."""
    for file in sorted(home.rglob("*")):
        inside = file.relative_to(home).parts[0]
        if inside not in sealed and file.is_file() and (found := found_in(file.read_bytes())):
            yield file, found
