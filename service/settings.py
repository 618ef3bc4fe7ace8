"""Settings of the serving process: store, files, keys and deadlines, from the environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final, Self

from features.files import CatalogueError
from features.settings.environment import Environment, environment
from models.catalogue.offers import Catalogue, load_catalogue
from service.delivery.connectors_file import Connectors, read_connectors
from service.rules.rulebook import Rulebook, load_rulebook, rulebook_path

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names that only pages of this very machine can carry; always answered, so that health checks need no setting."""


def catalogue_path() -> Path:
    """The catalogue in force: CROUPIER_CATALOGUE, or the one that comes with the service."""
    return environment().catalogue or Path(str(resources.files("service").joinpath("catalogue.yaml")))


@dataclass(frozen=True)
class Settings:
    """Where things are; everything has a default that works on one machine."""

    store: str = field(repr=False)
    catalogue: Path
    rules: Path
    keys: Sequence[str] = field(default=(), repr=False)
    read_seconds: float = Environment.read_seconds.default
    write_seconds: float = Environment.write_seconds.default
    lake: Path | None = None
    home: Path = Environment.home.default
    hosts: frozenset[str] = LOOPBACK
    """Names and addresses in Host that are answered."""
    metrics: Path | None = None
    connectors: Connectors = field(default_factory=Connectors)
    """Over which providers the house sends, and is called back."""

    def files(self) -> tuple[Catalogue, Rulebook]:
        """Catalogue and rulebook of the files; raises CatalogueError if one is not valid or they do not fit."""
        catalogue, book = load_catalogue(self.catalogue), load_rulebook(self.rules)
        if strange := book.unknown_tags(catalogue):
            raise CatalogueError("; ".join(f"{self.catalogue.name}: offer {offer}: {what}" for offer, what in strange))
        return catalogue, book

    @classmethod
    def here(cls, store: str) -> Self:
        """What the environment says of serving, over a store; raises SettingError."""
        held, connectors = environment(), read_connectors()
        outside = connectors.public_url
        return cls(
            store=store,
            catalogue=catalogue_path(),
            rules=rulebook_path(),
            keys=held.keys,
            read_seconds=held.read_seconds,
            write_seconds=held.write_seconds,
            lake=held.home / "lake",
            home=held.home,
            hosts=LOOPBACK | set(held.hosts) | ({str(outside.host).strip("[]")} if outside else set()),
            connectors=connectors,
            metrics=held.metrics,
        )
