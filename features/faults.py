"""Faults as they may be told to anybody: types and places, never a value. Light to import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final

from features.errors import told

FRAMES: Final = 40
"""Places of a fault that are told, the innermost."""
CAUSES: Final = 5


def described(fault: BaseException) -> Iterator[dict[str, Any]]:
    """An exception and what it came of: for each its type, its text where that is harmless, and its places."""
    cause: BaseException | None = fault
    for _ in range(CAUSES):
        if cause is None:
            return
        yield {"type": type(cause).__qualname__, "text": told(cause), "places": list(_places(cause))[-FRAMES:]}
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _places(fault: BaseException) -> Iterator[str]:
    """File, line and function of each frame; no file is read for it."""
    trace = fault.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        yield f"{short(code.co_filename)}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next


def short(path: str) -> str:
    """A file by its package, wherever that lies."""
    _, installed, rest = path.rpartition("/site-packages/")
    return rest if installed else "/".join(path.split("/")[-3:])


def show(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    """Print what ended a command, in place of Python's own traceback, which shows what libraries were given."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, fault, trace)
        return
    causes = [
        "\n".join((*(f"  {place}" for place in one["places"]), " ".join(dict.fromkeys((one["type"], one["text"])))))
        for one in described(fault)
    ]
    sys.stderr.write("\n".join(("croupier: a fault of ours, told without values:", *reversed(causes), "")))
