"""Which extra of the package a command needs, and what it says when that is not installed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

EXTRAS: Final[Mapping[str, str]] = {
    "up": "all",
    "create": "all",
    "serve": "serve",
    "doctor": "all",
    "backup": "all",
    "restore": "all",
    "erase": "all",
    "export": "all",
    "make-exports": "work",
    "screen": "all",
    "worker": "work",
    "learn": "work",
    "import": "work",
    "train": "train",
    "promote churn": "train",
    "rollback churn": "train",
    "settle": "train",
    "retrain": "train",
    "decide": "work",
    "lake": "work",
    "decisions": "all",
    "verify": "all",
    "rules diff": "work",
    "webhooks": "work",
    "templates": "work",
    "promote templates": "work",
    "rollback templates": "work",
    "connectors": "work",
    "connectors resume": "all",
    "simulate": "all",
    "dataset": "all",
    "report": "report",
    "experiment plan": "report",
    "bench rules": "dev",
    "bench": "all",
}
"""First words of a command -> the extra that installs what it imports; commands that are not named need none."""
BESIDE: Final[Mapping[str, str]] = {"croupier_client": "clients/python"}
"""Packages of ours that no extra installs -> their folder of a checkout, from which they are installed."""
_OURS: Final = frozenset({"features", "models", "service", "pipelines"})


def extra_of(words: Sequence[str]) -> str | None:
    """The extra of a command, None for one that the base suffices for."""
    named = (" ".join(words[:count]) for count in (2, 1))
    return next((EXTRAS[name] for name in named if name in EXTRAS), None)


def missing_package(error: ImportError, words: Sequence[str]) -> str | None:
    """The sentence for a package that a command cannot import; None if it is no package of others."""
    package = (error.name or "").partition(".")[0]
    if not package or package in _OURS or package in sys.stdlib_module_names:
        return None
    if package in BESIDE:
        install = f"./{BESIDE[package]}, in a checkout of Croupier"
    else:
        extra = extra_of(words)
        install = f"'{f'croupier[{extra}]' if extra else 'croupier'}'"
    return f"the package {package}, which this command needs, is not installed: pip install {install}"
