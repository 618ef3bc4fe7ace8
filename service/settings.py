"""Settings of the serving process: store, files, keys and deadlines, from the environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

from features.settings.environment import Environment, environment
from service.rules.rulebook import rulebook_path


def catalogue_path() -> Path:
    """The catalogue in force: CROUPIER_CATALOGUE, or the one that comes with the service."""
    return environment().catalogue or Path(str(resources.files("service").joinpath("catalogue.yaml")))


@dataclass(frozen=True)
class Settings:
    """Where things are; everything has a default that works on one machine."""

    store: str
    catalogue: Path
    rules: Path
    keys: Sequence[str] = ()
    read_seconds: float = Environment.read_seconds.default
    write_seconds: float = Environment.write_seconds.default

    @classmethod
    def here(cls, store: str) -> Self:
        """What the environment says of serving, over a store; raises SettingError."""
        held = environment()
        return cls(
            store=store,
            catalogue=catalogue_path(),
            rules=rulebook_path(),
            keys=held.keys,
            read_seconds=held.read_seconds,
            write_seconds=held.write_seconds,
        )
