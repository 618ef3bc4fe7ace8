"""Answers of a campaign: a file of JSON lines that is only ever added to, so that a killed campaign goes on from it.

{"campaign": "spring", "asked": {...}}                       what was asked, the first line
{"player_id": "p1", "decision": {"decision_id": ...}}        as `POST /v1/decisions` answers
{"player_id": "p2", "problem": {"code": ...}}                what the house refused, and would refuse again
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from features.errors import CroupierError


class AnswersRefused(CroupierError):
    """A file of answers is in use, or of another campaign."""

    code = "answers_refused"
    exit_code = 2


class Answer(msgspec.Struct):
    """What is looked at of a decision or problem; the rest is kept as it came."""

    status: int | None = None
    code: str | None = None
    action: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def contact(self) -> bool:
        """Whether it is a decision for a contact."""
        return self.code is None and bytes(self.action) != _ALONE


_ALONE: Final = b'"NO_CONTACT"'


class _Head(msgspec.Struct):
    campaign: str
    asked: dict[str, Any]


class _Line(msgspec.Struct, omit_defaults=True):
    player_id: str
    decision: msgspec.Raw | None = None
    problem: msgspec.Raw | None = None


class _Answered(msgspec.Struct):
    player_id: str


_READ: Final = msgspec.json.Decoder(_Answered)


class AnswerFile:
    """The file of a campaign's answers, locked while it is open; what a kill left unfinished is cut off.

    Attributes:
        players: Players who have an answer.

    Raises:
        AnswersRefused: Another process writes it, or it is of another campaign or of other questions.
    """

    def __init__(self, path: Path, campaign: str, asked: Mapping[str, Any]) -> None:
        self._path, self._head = path, _Head(campaign, dict(asked))
        self.players: set[str] = set()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AnswersRefused(f"{path} cannot be written: {error.strerror}") from error
        try:
            self._begin()
        except BaseException:
            os.close(self._file)
            raise

    def _begin(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AnswersRefused(f"another process writes {self._path}") from error
        whole = self._read()
        os.ftruncate(self._file, whole)
        os.lseek(self._file, 0, os.SEEK_END)
        if not whole:
            self._append(msgspec.json.encode(self._head) + b"\n")

    def _read(self) -> int:
        """Read what is there; returns the length up to the end of the last whole line."""
        length = 0
        with os.fdopen(os.dup(self._file), "rb") as content:
            for number, line in enumerate(content):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._take(line) if number else self._compare(line)
                except msgspec.MsgspecError as error:
                    raise AnswersRefused(f"line {number + 1} of {self._path} is no answer of a campaign") from error
                length += len(line)
        return length

    def _compare(self, line: bytes) -> None:
        held = msgspec.json.decode(line, type=_Head)
        if held != self._head:
            raise AnswersRefused(
                f"{self._path} has answers of campaign {held.campaign!r}, asked {held.asked}: choose another --out, "
                "or ask the same"
            )

    def _take(self, line: bytes) -> None:
        self.players.add(_READ.decode(line).player_id)

    def add(self, answers: Sequence[tuple[str, msgspec.Raw, Answer]]) -> None:
        """Add final answers; they are on disk when this returns."""
        lines = [
            _Line(player, problem=raw) if answer.code is not None else _Line(player, decision=raw)
            for player, raw, answer in answers
        ]
        self._append(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        self.players.update(player for player, _, _ in answers)

    def _append(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(self._file, view) :]
        os.fsync(self._file)

    def close(self) -> None:
        """Close it; another process may go on."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
