"""What confirms need of what serves, followed in a worker: catalogue, rulebook, and how features are read."""

from __future__ import annotations

from typing import Final

import redis

from features.store.bundles import HASH_OF, serving_hashes
from features.store.deployment import House
from features.store.keys import pointer_key
from models.catalogue.candidates import CandidateSpace
from models.experiments.allocation import of_catalogue
from models.experiments.assignment import Splits
from pipelines.served import served_catalogue, served_rulebook
from pipelines.worker.consumer import serving_plan
from service.decisions.serving import Serving
from service.players.sealing import Seals
from service.rules.compiler import CompiledRulebook

_KINDS: Final = ("catalogue", "rules")


class ServedLaw:
    """Follows catalogue, rulebook and read plan; has no policies and no churn model, for nothing is drawn here.

    Attributes:
        serving: What confirms start from, after the first look.
    """

    serving: Serving

    def __init__(self, client: redis.Redis, house: House, seals: Seals) -> None:
        self._client, self._house, self._seals = client, house, seals
        self._names: object = None

    def look(self) -> None:
        """Read anew what moved; raises CroupierError where that cannot be read."""
        names = [sorted(set(map(str, serving_hashes(self._client, HASH_OF[kind])))) for kind in _KINDS]
        pointers = [self._client.get(pointer_key(kind)) for kind in (*_KINDS, "plan")]
        if (names, pointers) != self._names:
            self.serving = self._read()
            self._names = (names, pointers)

    def _read(self) -> Serving:
        catalogue = served_catalogue(self._client)
        layout = CandidateSpace(catalogue)
        return Serving(
            house=self._house,
            plan=serving_plan(self._client),
            law=CompiledRulebook(served_rulebook(self._client), layout),
            policies={},
            churn=None,
            splits=Splits(of_catalogue(catalogue.experiment), layout),
            seals=self._seals,
        )
