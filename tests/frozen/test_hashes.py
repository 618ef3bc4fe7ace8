"""Digests of what callers send, hashes of what serves and is learnt: the same content, the same bytes, for ever."""

import os
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd
import pytest
from support.first_build import (
    FROZEN,
    PLAYER,
    changed,
    differences,
    frozen_catalogue,
    frozen_names,
    frozen_rulebook,
    lines,
    replaced,
)

from features.events import EVENT
from features.files import load_yaml
from features.schema import Dtype, Feature, Kind, Use, hash_of
from features.settings.mlflow_file import LearnerSettings
from models.catalogue.offers import Catalogue
from models.policy.learned import PolicyVersion
from models.policy.policy import BusinessRules
from pipelines.experiments import uplift
from pipelines.experiments.exposures import Exposures
from pipelines.experiments.metrics import Metric
from pipelines.learning.attribution import RewardTerms as Terms
from pipelines.learning.training_log import lineage
from pipelines.training.materialise import lake_state
from pipelines.worker import lake as lakes
from service.contacts.ledger import Entry
from service.decisions import outcomes
from service.decisions.kept import KeptDecision
from service.decisions.outcomes import Contact, Outcome
from service.decisions.record import ChosenContact, FirstRecord, Record
from service.decisions.request import DecisionRequest
from service.events import accept
from service.rules.hashed import PACK
from service.rules.rulebook import Pack, Rulebook


def request_digests(body: str) -> str:
    return DecisionRequest.model_validate_json(body).digest.hex()


def event_digests(body: str) -> str:
    """What the first build remembered for an event, moments in the offset they are spelt in."""
    return first(accept.entry(PLAYER, EVENT.validate_json(body))).hex()


def event_digests_in_utc(body: str) -> str:
    return accept.entry(PLAYER, EVENT.validate_json(body)).digest.hex()


def first(entry: Entry) -> bytes:
    """The digest of an entry as the first build made it, by which it is still known."""
    digest = next(iter(entry.earlier()))
    assert entry.again(digest + b"1-0") == ("duplicate", "1-0")
    return digest


@cache
def _contact() -> tuple[Record, ChosenContact]:
    record = msgspec.json.decode((FROZEN / "record.json").read_bytes(), type=FirstRecord).read()
    assert record.action is not None
    return record, record.action


def outcome_digests(body: str) -> list[str]:
    """Digest of an outcome, the name it is remembered under, and the name of its note in the ledger."""
    about = Contact.of(KeptDecision.of(_contact()[0]))
    taken = outcomes.entry(Outcome.model_validate_json(body), about, PLAYER, frozen_catalogue())
    return [first(taken).hex(), taken.seen, taken.note[0]]


def outcome_digests_in_utc(body: str) -> str:
    about = Contact.of(KeptDecision.of(_contact()[0]))
    return outcomes.entry(Outcome.model_validate_json(body), about, PLAYER, frozen_catalogue()).digest.hex()


def catalogue_hashes(changes: dict[str, Any]) -> str:
    return Catalogue.model_validate(replaced(frozen_catalogue(), changes)).hash


def rulebook_hashes(changes: dict[str, Any]) -> str:
    return Rulebook.model_validate(replaced(frozen_rulebook(), changes)).hash


def pack_hashes(name: str) -> str:
    return PACK.hash(load_yaml(FROZEN / "rulebook" / "packs" / f"{name}.yaml", Pack))


def frozen_features() -> list[Feature]:
    return [
        Feature(
            one["name"],
            Dtype(one["dtype"]),
            one["unit"],
            Use(one["use"]),
            Kind(one["kind"]),
            {column: tuple(values) for column, values in one["when"].items()},
            *(one[name] for name in ("value", "half_life", "nth", "beside", "power")),
        )
        for one in lines("schema")
    ]


def schema_hashes(places: list[int]) -> str:
    """Hash of a schema that is made of these places of the frozen list of features."""
    held = frozen_features()
    chosen = tuple(held[place] for place in places)
    return hash_of(chosen)


def lineages(changes: dict[str, Any]) -> str:
    asked = changed("lineage", changes)
    settings, terms = msgspec.convert(asked["settings"], LearnerSettings), Terms.model_validate(asked["terms"])
    return lineage(settings, terms, asked["window_us"], asked["readings"], asked["schema"], asked["format"])


def business_rules_names(asked: dict[str, Any]) -> str:
    return BusinessRules(np.array(asked["priorities"], dtype=np.float64), asked["floor"]).version


def snapshot_names(changes: dict[str, Any]) -> str:
    return msgspec.convert(changed("snapshot", changes), PolicyVersion).version


def report_hashes(asked: dict[str, Any]) -> str:
    """Hash of what a report chose before looking."""
    found = Exposures(
        experiment=asked["experiment"],
        others=[],
        players=pd.DataFrame({"split": asked["catalogues"]}),
        window_days=asked["window_days"],
        has_bets=True,
        unpriced=0,
        latest_us=0,
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BEFORE_DAYS", "CONFIDENCE", "CLEAR_OF_ZERO"):
            patch.setattr(uplift, name, asked[name.lower()])
        return uplift._config_hash(found, [Metric(*one) for one in asked["metrics"]])


def chain_links(asked: list[str]) -> list[str]:
    """Link and new head of a chain, from its head and the bytes of a record."""
    head, body = asked
    heads = {"17": head} if head else {}
    link = lakes._link(heads, "17", bytes.fromhex(body))
    return [link.hex(), heads["17"]]


def lake_states(files: list[list[Any]], folder: Path) -> str:
    for name, size, modified_ns in files:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
        os.utime(file, ns=(modified_ns, modified_ns))
    return lake_state(folder)


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    one.__name__: one
    for one in (
        request_digests,
        event_digests,
        event_digests_in_utc,
        outcome_digests,
        outcome_digests_in_utc,
        catalogue_hashes,
        rulebook_hashes,
        pack_hashes,
        schema_hashes,
        lineages,
        business_rules_names,
        snapshot_names,
        report_hashes,
        chain_links,
    )
}
OF_FILES: Final[dict[str, Callable[..., Any]]] = {one.__name__: one for one in (lake_states,)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_what_the_first_build_gave(name: str) -> None:
    assert differences("hashes", name, FUNCTIONS[name]) == []


@pytest.mark.parametrize("name", OF_FILES)
def test_a_function_of_files_gives_what_the_first_build_gave(name: str, tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in count())
    assert differences("hashes", name, lambda given: OF_FILES[name](given, next(folders))) == []


def test_every_file_has_its_function() -> None:
    assert frozen_names("hashes") == FUNCTIONS.keys() | OF_FILES.keys()
