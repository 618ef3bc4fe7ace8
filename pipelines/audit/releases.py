"""What records were made with, by the hashes and names that they hold: read from the store once, compiled once."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Final, TypeVar

import redis

from features.kept_schemas import Schema, SchemaError, find
from features.settings.mlflow_file import read_mlflow
from features.store.bundles import kept, published
from features.store.deployment import open_house
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import Catalogue
from models.churn.scorer import BundleError, ChurnBundle, Scorer
from models.experiments.assignment import Splits
from models.experiments.definition import Experiments
from models.policy.learned import LearnedPolicy, PolicyVersion, SnapshotError
from models.policy.policy import BusinessRules, Policy, Priority, Uniform, priorities
from pipelines.served import kept_by_hash
from service.decisions.record import Record
from service.decisions.replay import MadeWith
from service.decisions.serving import Serving
from service.rules.compiler import CompiledRulebook
from service.rules.rulebook import Rulebook

_SQLITE: Final = "sqlite:///"
_LAWS: Final = 16
_POLICIES: Final = 256
"""Compiled policies at hand: a learner publishes one after the other, and a log names them in that order."""
Kept = TypeVar("Kept", Catalogue, Rulebook, Experiments)


class Releases:
    """Releases that records name.

    Args:
        client: The store, which keeps them by hash.
        home: The house's home, whose registry has churn models that the store lacks; None asks none.
    """

    def __init__(self, client: redis.Redis, home: Path | None = None) -> None:
        self._client, self._home = client, home
        self.house = open_house(client)
        self.layout = lru_cache(_LAWS)(self._layout)
        self.book = lru_cache(_LAWS)(partial(self._read, Rulebook))
        self.law = lru_cache(_LAWS)(self._law)
        self.policy = lru_cache(_POLICIES)(self._policy)
        self.churn = lru_cache(_LAWS)(self._churn)
        self._serving = lru_cache(_LAWS)(self._made_serving)
        self.schema = lru_cache(_LAWS)(self._schema)
        self._splits = lru_cache(_LAWS)(self._made_splits)

    def made_with(self, record: Record) -> MadeWith:
        """What a record was made with, as far as it is still kept."""
        versions = record.versions
        return MadeWith(
            self.house,
            self.layout(versions.catalogue),
            self._serving(versions.catalogue, versions.rules, versions.churn),
            self.policy(record.choice.policy_version, versions.catalogue),
            self.churn(versions.churn),
            self._splits(versions.experiments, versions.catalogue),
            self.schema(versions.schema),
        )

    def _made_serving(self, catalogue: str, rules: str, churn: str | None) -> Serving | None:
        law, layout = self.law(rules, catalogue), self.layout(catalogue)
        if law is None or layout is None:
            return None
        # Who was in which experiment stands in the records.
        splits = Splits(Experiments(), layout)
        return Serving(house=self.house, plan=None, law=law, policies={}, churn=self.churn(churn), splits=splits)

    def _schema(self, name: str) -> Schema | None:
        """The schema of features; None if nothing says what its hash stands for."""
        try:
            return find(name, partial(kept, self._client))
        except SchemaError:
            return None

    def _made_splits(self, name: str | None, catalogue: str) -> Splits | None:
        layout = self.layout(catalogue)
        found = None if name is None else self._read(Experiments, name)
        return None if layout is None or found is None else Splits(found, layout)

    def _read(self, model: type[Kept], name: str) -> Kept | None:
        """A catalogue, a rulebook or experiments by hash; None if it is not kept, or not as it was."""
        held = kept_by_hash(self._client, name)
        try:
            found = None if held is None else model.model_validate_json(held)
        except ValueError:  # of a build that asked less of it
            return None
        return found if found is not None and found.hash == name else None

    def _layout(self, name: str) -> CandidateSpace | None:
        found = self._read(Catalogue, name)
        return None if found is None else CandidateSpace(found)

    def _law(self, rules: str, catalogue: str) -> CompiledRulebook | None:
        layout, book = self.layout(catalogue), self.book(rules)
        return None if layout is None or book is None else CompiledRulebook(book, layout)

    def _policy(self, version: str, catalogue: str) -> Policy | None:
        """The policy of a version over a catalogue; None if it is not kept."""
        layout = self.layout(catalogue)
        if layout is None:
            return None
        held = layout.catalogue
        ranks = priorities(held)
        plain: tuple[Policy, ...] = (
            Uniform(held.size),
            Priority(ranks),
            BusinessRules(ranks, held.exploration_floor),
        )
        known = next((one for one in plain if one.version == version), None)
        return known or self._learnt(version, held)

    def _learnt(self, version: str, catalogue: Catalogue) -> Policy | None:
        held = published(self._client, version)
        try:
            found = None if held is None else LearnedPolicy(PolicyVersion.loads(held), catalogue)
        except SnapshotError:
            return None
        return found if found is not None and found.version == version else None

    def _churn(self, version: str | None) -> Scorer | None:
        if version is None:
            return None
        held = published(self._client, version) or self._registered(version)
        try:
            bundle = None if held is None else ChurnBundle.loads(held)
        except BundleError:
            return None
        return Scorer(bundle) if bundle is not None and bundle.version == version else None

    def _registered(self, version: str) -> bytes | None:
        """The bundle of a churn model in the home's registry, where there is one."""
        if self._home is None or not _has_registry(self._home):
            return None
        try:
            from models.releases.registry import ChurnRegistry  # noqa: PLC0415 - seconds of MLflow
            from models.releases.registry_database import RegistryError  # noqa: PLC0415
        except ModuleNotFoundError:
            return None
        try:
            return ChurnRegistry(self._home).bundle(version)
        except RegistryError:
            return None


def _has_registry(home: Path) -> bool:
    """Whether a home's registry is there; one that is not must not be made by looking."""
    uri = read_mlflow(home).tracking.uri
    return not uri.startswith(_SQLITE) or Path(uri.removeprefix(_SQLITE)).exists()
