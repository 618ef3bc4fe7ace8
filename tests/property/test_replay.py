"""Replays: what was composed comes out again, and whatever of it is changed afterwards is named."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from property.test_assess import NOW_US, decided, player, serving
from support.schemas import ALIKE, FEWER, under
from support.snapshots import ONE

from features.kept_schemas import TODAY
from features.schema import CHURN_DEFAULT
from models.policy.learned import LearnedPolicy
from models.policy.policy import Policy
from service.contacts.snapshot import PlayerSnapshot
from service.decisions.compose import compose, lost
from service.decisions.differences import REASONS, TAKEN
from service.decisions.record import Record, dump_record, load_record
from service.decisions.replay import MadeWith, is_limit, replay
from service.decisions.request import DecisionRequest
from service.decisions.serving import Serving

__all__ = ["serving"]
SEAL: Final = bytes(32)
NAME: Final = f"{'a' * 24}"
NOT_KEPT: Final = {
    "versions.catalogue": "catalogue_not_kept",
    "versions.rules": "rulebook_not_kept",
    "versions.churn": "churn_model_not_kept",
    "versions.schema": "other_features",
    "versions.experiments": "experiments_not_kept",
    "choice.policy_version": "policy_not_kept",
}
"""Fields that name what a record was made with, and what is said where that is not kept."""


@pytest.fixture(scope="module")
def learnt(serving: Serving) -> Serving:
    """The house after it learnt something."""
    policies = {**serving.policies, "learnt": LearnedPolicy(ONE, serving.layout.catalogue)}
    return replace(serving, policies=policies)


def made_with(serving: Serving, record: Record) -> MadeWith:
    """What a record names of what a house keeps."""
    known = record.versions.catalogue == serving.layout.catalogue.hash
    law = record.versions.rules == serving.book.hash
    policy: Policy | None = next(
        (one for one in serving.policies.values() if one.version == record.choice.policy_version), None
    )
    return MadeWith(
        serving.house,
        serving.layout if known else None,
        serving if known and law else None,
        policy if known else None,
        None,
        serving.splits if known and record.versions.experiments == serving.splits.experiments.hash else None,
        TODAY if record.versions.schema == TODAY.hash else None,
    )


def again(serving: Serving, record: Record, seal: bytes | None = SEAL) -> Any:
    return replay(record, seal, made_with(serving, record))


def asked(
    chance: Random, serving: Serving, snapshot: PlayerSnapshot, **more: Any
) -> tuple[DecisionRequest, Record, PlayerSnapshot]:
    """A decision of the player's own partition, as it is read back from its bytes."""
    own = f"player-{chance.randrange(10**9)}"
    key = serving.house.player_key(own)
    request = DecisionRequest(player_id=own, **more)
    found = compose(request, serving, snapshot, (key, own), f"{key[2:5]}-{NAME}", 0)
    if chance.random() < 0.05 and found.record.choice.role == "drawn" and found.record.action is not None:
        found = lost(found)
    return request, load_record(dump_record(found.record)), snapshot


def stories(serving: Serving, seed: int, count: int) -> Iterator[Record]:
    """Decisions of all sorts of players."""
    chance = Random(seed)
    for _ in range(count):
        at_us = NOW_US - chance.randrange(28 * 86_400_000_000)
        more: dict[str, Any] = {
            "purpose": chance.choice((None, None, None, "bonus", "service", "regulatory")),
            "channels": chance.choice((None, None, ("email", "push"))),
            "activate": chance.random() < 0.1,
            "brand": chance.choice(("main", "two")),
        }
        _, record, _ = asked(chance, serving, player(chance, serving, at_us), **more)
        yield record


@pytest.mark.parametrize("seed", range(4))
def test_what_was_composed_comes_out_again_bit_for_bit(seed: int, serving: Serving, learnt: Serving) -> None:
    roles = set()
    for house in (serving, learnt):
        for record in stories(house, seed, 150):
            found = again(house, record)
            assert (found.differences, found.missing, found.verdict) == ([], {}, "reproduced")
            roles.add(record.choice.role)
    assert roles >= {"drawn", "holdout", "objected", "priority"}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Fields of a record, those of its parts one by one."""
    for name in value.__struct_fields__:
        held, inner = getattr(value, name), f"{path}{name}"
        if isinstance(held, msgspec.Struct):
            yield from leaves(held, f"{inner}.")
        else:
            yield inner, held


def other(value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case None | msgspec.UnsetType():
            return value
        case bool():
            return not value
        case str():
            return f"{value}x"
        case int():
            return value + 1
        case float():
            return float(np.nextafter(value, 2.0))
        case bytes():
            return value[:-1] + bytes([value[-1] ^ 1])
        case dict():
            name = next(iter(value), "strange")
            return {**value, name: other(value[name])} if value else {"strange": 0.5}
        case _:
            return (*value, value[-1]) if value else ("strange",)


def changed(record: Any, path: str, value: Any) -> Any:
    """A record with one field changed."""
    name, _, inner = path.partition(".")
    held = getattr(record, name)
    return msgspec.structs.replace(record, **{name: changed(held, inner, value) if inner else value})


def differing(found: Any) -> set[str]:
    return {one.field for one in found.differences}


def flips(record: Record) -> Iterator[tuple[str, Record]]:
    """The record with each field changed in turn; of what is excluded, reasons that no limit gave."""
    for path, value in leaves(record):
        if path == "choice.excluded":
            for name in value:
                if not is_limit(name):
                    yield f"{path}.{name}", changed(record, path, {**value, name: other(value[name])})
                if not is_limit(name):
                    yield f"{path}.{name}", changed(record, path, {one: value[one] for one in value if one != name})
        elif (flipped := other(value)) != value:
            yield path, changed(record, path, flipped)
    if record.action is not None and record.choice.role == "drawn":
        yield "action", changed(record, "action", None)


def test_every_field_that_is_changed_is_named(learnt: Serving) -> None:
    """Where it is told by others: an id by what is drawn from it, what names a release by that it is not kept."""
    seen: set[str] = set()
    for record in stories(learnt, 9, 60):
        for path, flipped in flips(record):
            found = again(learnt, flipped)
            seen.add(path)
            if path in NOT_KEPT:
                assert NOT_KEPT[path] in found.missing, path
            elif path not in TAKEN:
                named = "choice.u" if path == "decision_id" else path
                assert any(one == named or one.startswith(f"{named}.") for one in differing(found)), (path, found)
    every = {path for record in stories(learnt, 9, 60) for path, _ in leaves(record)} - {"choice.excluded"}
    assert every - seen <= {"chain", "decision_point", "versions.churn", "seen.whole", "action", "journey"}, (
        "they held none"
    )


def test_a_player_who_was_erased_is_said_to_be_and_never_counted_as_reproduced(learnt: Serving) -> None:
    for record in stories(learnt, 3, 40):
        found = again(learnt, record, None)
        assert (found.verdict, found.differences) == ("erased", [])
        wrong = changed(record, "choice.u", other(record.choice.u))
        assert again(learnt, wrong, None).verdict == "differs", "what is not personal is recomputed all the same"
        assert "sealed" in differing(again(learnt, record, bytes(31) + b"x"))


@pytest.mark.parametrize(("field", "reason"), NOT_KEPT.items())
def test_what_is_not_kept_is_named(field: str, reason: str, learnt: Serving) -> None:
    assert reason in REASONS
    for record in stories(learnt, 4, 10):
        gone = changed(record, field, "0" * 12)
        found = again(learnt, gone)
        assert reason in found.missing
        assert found.verdict in REASONS or found.verdict == "differs"


def test_numbers_of_another_build_agree_within_a_tolerance_that_is_said(learnt: Serving) -> None:
    told = 0
    for record in stories(learnt, 5, 60):
        if record.choice.policy_version != ONE.version or len(record.choice.scores) < 80:
            continue
        scores = np.frombuffer(record.choice.scores, "<f8").copy()
        near, far = (scores * (1 + by) for by in (1e-12, 1e-3))
        elsewhere = changed(record, "versions.build", "numpy-9 abacus")
        for moved, verdict in ((scores, "reproduced"), (near, "other_build"), (far, "differs")):
            pmf = made_with(learnt, record).policy.pmf  # type: ignore[union-attr]
            mask = np.unpackbits(np.frombuffer(record.choice.mask, np.uint8))[: learnt.layout.catalogue.size] > 0
            spread = np.zeros(len(mask))
            spread[mask] = moved
            made = pmf(spread, mask)
            of = partial(changed, changed(elsewhere, "choice.scores", moved.tobytes()))
            found = again(learnt, of("choice.pmf", made[mask].tobytes()))
            if made[record.choice.place] == record.choice.propensity:
                assert found.verdict == verdict
                told += 1
    assert told


def test_hours_of_other_time_zones_are_named_and_do_not_differ(learnt: Serving) -> None:
    moved = 0
    for record in stories(learnt, 6, 60):
        if record.action is None:
            continue
        elsewhere = changed(record, "versions.time_zones", "1970a")
        assert again(learnt, elsewhere).verdict == "reproduced"
        late = changed(elsewhere, "action.send_us", record.action.send_us + 1)
        found = again(learnt, late)
        assert (found.verdict, found.differences) == ("other_time_zones", [])
        assert found.missing["other_time_zones"] == ("action.send_us",)
        moved += 1
    assert moved


def test_a_score_without_a_model_is_the_default(serving: Serving) -> None:
    record = next(one for one in stories(serving, 7, 40) if one.seen.churn_score is not None)
    assert record.seen.churn_score == CHURN_DEFAULT
    assert "churn_model_missing" in record.seen.degraded
    chance = Random(1)
    _, dry = decided(chance, serving, player(chance, serving, NOW_US))
    assert "decision_id" in differing(again(serving, dry.record)), "it is of another partition than its player"


@pytest.mark.parametrize("name", [*ALIKE, *FEWER])
def test_features_of_another_schema_are_read_by_their_names_and_what_is_lacking_is_said(
    name: str, learnt: Serving
) -> None:
    schema = (ALIKE | FEWER)[name]
    verdicts = set()
    for record in stories(learnt, 8, 40):
        elsewhere = under(record, schema)
        made = made_with(learnt, elsewhere)
        assert replay(elsewhere, SEAL, made).verdict == "other_features", "nothing names its features"
        found = replay(elsewhere, SEAL, made._replace(schema=schema))
        assert found.differences == []
        verdicts.add(found.verdict)
        wrong = changed(elsewhere, "choice.u", other(record.choice.u))
        assert "choice.u" in differing(replay(wrong, SEAL, made._replace(schema=schema)))
    assert verdicts <= ({"reproduced"} if name in ALIKE else {"reproduced", "other_features"})
    assert "reproduced" in verdicts
