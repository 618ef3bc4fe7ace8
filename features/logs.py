"""Logs of processes: a line of JSON an event, on standard error, without values that may be a caller's.

Whatever has a voice in a process is led here: its own events, records of libraries, warnings, and faults that nobody
caught, in any thread. Of a fault the types and places are told, never a variable, and its text only where it is ours
or the system's: libraries put into their texts what they were given.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import re
import sys
import threading
import warnings
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final, TextIO

import orjson
import structlog

from features.faults import described, short
from features.settings.masks import masked

OPEN_FAMILIES: Final = frozenset({"alembic", "mlflow", "uvicorn"})
"""Libraries whose whole sentences are told: none of what callers send reaches them."""
_LOG: Final = structlog.get_logger()

Event = MutableMapping[str, Any]


def begin() -> None:
    """Lead all that this process says to standard error, as lines of JSON."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _with_fault,
            _line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.raiseExceptions = False  # a record that cannot be told is not told in another way
    root = logging.getLogger()
    root.handlers[:] = [Records()]
    root.setLevel(logging.WARNING)
    warnings.showwarning = _warned
    watch_faults()


def watch_faults() -> None:
    """Tell faults that nobody caught without values, in any thread; and the places of one that ends the process."""
    sys.excepthook = _uncaught
    sys.unraisablehook = lambda fault: _told_fault("unraisable", fault.exc_value)
    threading.excepthook = lambda fault: _told_fault("thread", fault.exc_value)
    try:
        faulthandler.enable()
    except (io.UnsupportedOperation, ValueError):
        return  # standard error is no file


def _uncaught(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, fault, trace)
    else:
        _told_fault("fault", fault)


def _told_fault(event: str, fault: BaseException | None) -> None:
    _LOG.critical(event, exc_info=fault or True)


def _warned(
    message: Warning | str,  # noqa: ARG001 - its text may hold values
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001 - as Python calls it
    line: str | None = None,  # noqa: ARG001 - as Python calls it
) -> None:
    _LOG.warning("warning", kind=category.__name__, place=f"{short(filename)}:{lineno}")


class Records(logging.Handler):
    """Records of libraries, as events."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a record by what of it cannot be a value, and by its place; a traceback as text is none."""
        if str(record.msg).startswith("Traceback"):
            return
        place = f"{short(record.pathname)}:{record.lineno}"
        _LOG.log(record.levelno, _words(record), logger=record.name, place=place, exc_info=record.exc_info)


def _words(record: logging.LogRecord) -> str:
    """The first line of a record, as far as nothing was put into it."""
    family = record.name.partition(".")[0]
    if family in OPEN_FAMILIES:
        return record.getMessage().partition("\n")[0]
    if family == "asyncio" and isinstance(record.msg, str):
        return re.match(r"[\w ]*", record.msg)[0].strip()  # type: ignore[index]  # the rest shows calls with arguments
    if isinstance(record.msg, str) and record.args:
        return record.msg.partition("\n")[0]
    return f"a record of {record.name}, withheld"


def _with_fault(_: object, __: str, event: Event) -> Event:
    """Put types and places in the stead of an exception."""
    given = event.pop("exc_info", None)
    fault = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else None
    if fault is None and given:
        fault = sys.exc_info()[1]
    if fault is not None:
        event["fault"] = list(described(fault))
    return event


def _line(_: object, __: str, event: Event) -> str:
    safe = {name: masked(value) if isinstance(value, str) else value for name, value in event.items()}
    return orjson.dumps(safe, default=_unknown, option=orjson.OPT_NON_STR_KEYS).decode()


def _unknown(value: object) -> str:
    """What JSON has no form for, by its type: its text may hold anything."""
    return f"<{type(value).__name__}>"
