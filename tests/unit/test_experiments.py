"""Experiments as releases: definitions, allocation of buckets, ramps that move only who must, layers, the holdout."""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.rule_cases import HOUSE

from features.files import CatalogueError
from models.catalogue.candidates import CandidateSpace
from models.catalogue.experiment import BUCKETS, bucket, variant
from models.catalogue.offers import Experiment as Block
from models.experiments.allocation import allocated, moved, of_catalogue, owners, ramp, spans
from models.experiments.assignment import Splits
from models.experiments.definition import Experiment, Experiments, load_experiments
from models.releases.release import GateRefused
from pipelines.experiments import changes

SPACE = CandidateSpace(HOUSE)
PLAYERS = [f"player-{number}" for number in range(20_000)]
NAMES = ("holdout", "learnt", "rules", "chance")
POLICIES = {"holdout": "none", "learnt": "learnt", "rules": "business_rules", "chance": "uniform"}


def experiment(key: str = "summer", **shares: float) -> dict[str, Any]:
    """An experiment as a file says it, over variants called after their policies."""
    variants = [{"name": name, "share": share, "policy": POLICIES[name]} for name, share in shares.items()]
    return {"key": key, "variants": variants}


def leaving_out(key: str, offer: str, share: float = 0.5, **more: Any) -> dict[str, Any]:
    """An experiment of a layer that only leaves out."""
    without = {"name": "without", "share": share, "leave_out": {"offers": [offer]}}
    return {"key": key, "variants": [without, {"name": "with", "share": 1 - share}], **more}


def file(*layers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    named = [{"layer": f"layer{at}", "experiments": held} for at, held in enumerate(layers)]
    return {"version": 1, "layers": named, **more}


def parsed(*layers: list[dict[str, Any]], **more: Any) -> Experiments:
    return Experiments.model_validate(file(*layers, **more))


def begun(*layers: list[dict[str, Any]], **more: Any) -> Experiments:
    """A release of a file in a house without any."""
    return changes.begun(Experiments(), parsed(*layers, **more))


def variants(release: Experiments, players: list[str] = PLAYERS) -> list[str | None]:
    """The variant of each player in the first experiment."""
    splits = Splits(release, SPACE)
    return [next((one.variant for one in splits.assign(player).memberships), None) for player in players]


# --- Ramps


def shares_of(chance: Random, held: float) -> dict[str, float]:
    """Random shares of the four variants, the holdout's at least what it was."""
    holdout = round(held + chance.random() * (0.3 - held) * chance.choice((0, 1)), 4)
    rest = chance.random() * (1 - holdout)
    cuts = sorted(chance.random() * rest for _ in range(2))
    sizes = (holdout, cuts[0], cuts[1] - cuts[0], rest - cuts[1])
    return {name: int(share * BUCKETS + 1e-9) / BUCKETS for name, share in zip(NAMES, sizes, strict=True)}


SUMMER = np.array([round(bucket("summer", player) * BUCKETS) for player in PLAYERS])
"""Bucket of each player in the experiment that is ramped."""


def owned_by(release: Experiments) -> Any:
    """The variant of each player, by the owners of the one experiment's buckets."""
    (running,) = release.running
    return np.array(owners(running), dtype=object)[SUMMER]


@pytest.mark.parametrize("seed", range(20))
def test_over_a_history_of_ramps_only_who_must_moves_and_nobody_leaves_a_holdout(seed: int) -> None:
    chance = Random(seed)
    shares = shares_of(chance, 0.05)
    release = begun([experiment("summer", **shares)], holdout={"share": 0.03})
    was = owned_by(release)
    assert variants(release, PLAYERS[:500]) == list(was[:500])
    splits = Splits(release, SPACE)
    held = [player for player in PLAYERS[:4_000] if "global_holdout" in splits.assign(player).withheld]
    for phase in range(2, 12):
        before, shares = shares, shares_of(chance, shares["holdout"])
        release = changes.ramped(release, "summer", shares, phase)
        (running,) = release.running
        sizes = Counter(owners(running))
        assert {name: sizes[name] for name in NAMES} == {name: round(shares[name] * BUCKETS) for name in NAMES}
        assert running.phase == phase
        now = owned_by(release)
        for name in NAMES:
            left, stayed = SUMMER[(was == name) & (now != name)], SUMMER[(was == name) & (now == name)]
            must = max(0, round((before[name] - shares[name]) * BUCKETS))
            assert len(set(left)) <= must, "no more buckets are given up than must be"
            assert not len(left) or not len(stayed) or stayed.max() < left.min(), "the highest are"
        assert (now[was == "holdout"] == "holdout").all()
        was = now
    splits = Splits(release, SPACE)
    assert variants(release, PLAYERS[:500]) == list(was[:500])
    assert all("global_holdout" in splits.assign(player).withheld for player in held)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(*[st.integers(0, 2_500)] * 4), min_size=2, max_size=6))
def test_a_ramp_changes_as_few_owners_as_the_sizes_need(history: list[tuple[int, ...]]) -> None:
    owned = ramp([None] * BUCKETS, {})
    sizes = dict.fromkeys(NAMES, 0)
    for wanted in history:
        before, sizes = sizes, dict(zip(NAMES, wanted, strict=True))
        after = ramp(owned, sizes)
        assert Counter(name for name in after if name) == Counter({n: size for n, size in sizes.items() if size})
        assert moved(owned, after) == sum(max(0, before[name] - sizes[name]) for name in NAMES)
        grown = sum(max(0, sizes[name] - before[name]) for name in NAMES)
        differ = sum(a != b for a, b in zip(owned, after, strict=True))
        assert differ == max(grown, moved(owned, after))
        owned = after


def test_the_same_ramp_again_and_a_ramp_of_nothing_are_refused() -> None:
    release = begun([experiment(learnt=0.5, rules=0.5)])
    with pytest.raises(GateRefused, match=r"^summer has these shares already$"):
        changes.ramped(release, "summer", {"learnt": 0.5}, 2)
    with pytest.raises(GateRefused, match=r"^summer: 'lernt' is no variant: did you mean learnt\?"):
        changes.ramped(release, "summer", {"lernt": 0.4}, 2)
    with pytest.raises(GateRefused, match="sum to more than 1"):
        changes.ramped(release, "summer", {"learnt": 0.6}, 2)
    with pytest.raises(GateRefused, match=r"a share is a multiple of 0\.0001"):
        changes.ramped(release, "summer", {"learnt": 0.33333}, 2)
    with pytest.raises(GateRefused, match=r"^'winter' is no running experiment.*summer"):
        changes.ramped(release, "winter", {"learnt": 0.4}, 2)


def test_nobody_leaves_a_holdout_by_a_ramp() -> None:
    release = begun([experiment(holdout=0.1, learnt=0.5)], holdout={"share": 0.05})
    with pytest.raises(GateRefused, match=r"^nobody leaves a holdout: holdout has 0\.1, and only grows$"):
        changes.ramped(release, "summer", {"holdout": 0.05}, 2)
    with pytest.raises(GateRefused, match=r"^nobody leaves the global holdout: it has 0\.05 of all players, and only"):
        changes.widened(release, 0.04)
    wide = changes.widened(release, 0.08)
    held = [
        [split.assign(player).held_out for player in PLAYERS] for split in (Splits(release, SPACE), Splits(wide, SPACE))
    ]
    assert all(later for earlier, later in zip(*held, strict=True) if earlier)
    assert sum(held[1]) > sum(held[0])


# --- The order of lines, and the golden ones


def test_the_order_of_lines_moves_nobody_and_makes_no_other_release() -> None:
    one = begun([experiment(holdout=0.1, rules=0.45, learnt=0.4, chance=0.05)])
    other = begun([experiment(chance=0.05, learnt=0.4, rules=0.45, holdout=0.1)])
    assert one.hash == other.hash
    assert variants(one) == variants(other)


def test_layers_in_another_order_are_the_same_release() -> None:
    parts = [experiment(learnt=1.0)], [leaving_out("b", HOUSE.offers[0].id), leaving_out("c", HOUSE.offers[1].id)]
    parts[1][0]["range"], parts[1][1]["range"] = [0, 0.5], [0.5, 1]
    there = Experiments.model_validate(
        {"layers": [{"layer": "a", "experiments": parts[0]}, {"layer": "b", "experiments": parts[1]}]}
    )
    back = Experiments.model_validate(
        {"layers": [{"layer": "b", "experiments": parts[1][::-1]}, {"layer": "a", "experiments": parts[0]}]}
    )
    assert changes.begun(Experiments(), there).hash == changes.begun(Experiments(), back).hash


def test_nobody_moves_as_the_catalogues_experiment_becomes_a_release() -> None:
    """Frozen places and variants of players in `policy_2026`."""
    release = of_catalogue(HOUSE.experiment)
    (running,) = release.running
    assert (running.key, running.phase) == ("policy_2026", 1)
    assert {one.name: one.buckets for one in running.variants} == {
        "holdout": ((0, 1_000),),
        "business_rules": ((1_000, 5_500),),
        "policy": ((5_500, 9_501),),
        "uniform": ((9_501, 10_000),),
    }, "0.1 + 0.45 + 0.4 is a hair above 0.95, and so it has always been"
    frozen = Path(__file__).parents[1] / "frozen" / "functions" / "draws" / "policy_2026.jsonl"
    asked = [(one["given"], one["gives"]) for one in map(json.loads, frozen.read_text("utf8").splitlines())]
    assert len(asked) > 10
    wide = changes.widened(release, 0.05)
    for splits in (Splits(release, SPACE), Splits(wide, SPACE)):
        for player, gives in asked:
            (member,) = splits.assign(player).memberships
            assert [member.bucket, member.variant] == gives


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 1_000), min_size=1, max_size=4))
def test_buckets_written_out_are_those_of_the_catalogues_own_split(weights: list[int]) -> None:
    names = ("holdout", "business_rules", "policy", "uniform")
    shares = {name: weight / sum(weights) for name, weight in zip(names, weights, strict=False)}
    block = Block.model_validate({"key": "k", "variants": shares})
    now = variants(of_catalogue(block), PLAYERS[:500])
    assert now == [variant("k", player, block.variants) for player in PLAYERS[:500]]


def test_a_catalogue_without_an_experiment_leaves_the_choice_to_what_was_learnt() -> None:
    assigned = Splits(of_catalogue(None), SPACE).assign("anybody")
    assert (assigned.memberships, assigned.policy, assigned.use, assigned.withheld) == ((), "learnt", "train", {})


# --- Layers


def test_layers_split_players_independently_and_leave_out_what_they_say() -> None:
    first, second = HOUSE.offers[0].id, HOUSE.offers[1].id
    release = changes.begun(
        Experiments(),
        parsed([experiment(holdout=0.2, learnt=0.8)], [leaving_out("a", first)], [leaving_out("b", second)]),
    )
    splits = Splits(release, SPACE)
    table = np.zeros((2, 2, 2), dtype=int)
    for player in PLAYERS:
        assigned = splits.assign(player)
        groups = {member.key: member.variant for member in assigned.memberships}
        table[groups["summer"] == "holdout", groups["a"] == "without", groups["b"] == "without"] += 1
        without = {offer for key, offer in (("a", first), ("b", second)) if groups[key] == "without"}
        bits = SPACE.where(lambda offer, _, without=without: offer.id in without)  # type: ignore[misc]
        assert assigned.withheld.get("left_out", 0) == bits
        assert assigned.held_out == (groups["summer"] == "holdout")
        assert assigned.policy == ("none" if assigned.held_out else "learnt")
    for axes in ((0,), (1,), (2,)):
        assert stats.chi2_contingency(table.sum(axis=axes)).pvalue > 0.001


def test_ranges_of_a_layer_take_players_apart() -> None:
    offers = [offer.id for offer in HOUSE.offers]
    layer = [leaving_out("a", offers[0], range=[0, 0.3]), leaving_out("b", offers[1], range=[0.3, 1])]
    splits = Splits(changes.begun(Experiments(), parsed(layer)), SPACE)
    keys = [[member.key for member in splits.assign(player).memberships] for player in PLAYERS]
    assert all(len(found) == 1 for found in keys)
    assert abs(sum(found == ["a"] for found in keys) / len(PLAYERS) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(PLAYERS))


def test_the_holdout_is_an_exclusion_beside_assignments_that_are_computed_all_the_same() -> None:
    release = begun([experiment(learnt=0.5, rules=0.5)], holdout={"share": 0.05})
    splits = Splits(release, SPACE)
    assigned = [splits.assign(player) for player in PLAYERS]
    held = [one for one in assigned if one.held_out]
    assert abs(len(held) / len(PLAYERS) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / len(PLAYERS))
    assert all(one.withheld == {"global_holdout": SPACE.everything} and one.memberships for one in held)
    assert {one.use for one in held} == {"control"}
    assert {one.memberships[0].variant for one in held} == {"learnt", "rules"}
    assert variants(release) == variants(begun([experiment(learnt=0.5, rules=0.5)]))


def test_who_is_in_no_variant_is_in_no_experiment() -> None:
    release = begun([experiment(learnt=0.2, rules=0.1)])
    outside = [player for player, variant in zip(PLAYERS, variants(release), strict=True) if variant is None]
    assert abs(len(outside) / len(PLAYERS) - 0.7) < 4 * np.sqrt(0.7 * 0.3 / len(PLAYERS))
    assigned = Splits(release, SPACE).assign(outside[0])
    assert (assigned.memberships, assigned.policy) == ((), "learnt")


def test_of_several_uses_the_one_that_is_never_learnt_from_wins() -> None:
    """A decision that serves for evaluation does so whatever another layer makes of it."""
    judged = experiment(learnt=1.0)
    judged["variants"][0]["use"] = "eval"
    other = leaving_out("b", HOUSE.offers[1].id)
    for one in other["variants"]:
        one["use"] = "control"
    splits = Splits(changes.begun(Experiments(), parsed([judged], [other])), SPACE)
    assert {splits.assign(player).use for player in PLAYERS[:200]} == {"eval"}


# --- What may not start


def test_an_offer_that_the_catalogue_lost_is_ignored() -> None:
    release = begun([leaving_out("a", "long_gone")])
    splits = Splits(release, SPACE)
    assert {splits.assign(player).withheld.get("left_out", 0) for player in PLAYERS[:200]} == {0}


def test_a_key_runs_once() -> None:
    release = begun([experiment(learnt=1.0)])
    with pytest.raises(GateRefused, match=r"^summer runs already: `croupier experiment ramp` changes its shares$"):
        changes.begun(release, parsed([experiment(learnt=0.5)]))
    ended = changes.stopped(release, "summer")
    assert (list(ended.running), ended.ended) == ([], ("summer",))
    with pytest.raises(
        GateRefused, match=r"^summer was stopped, and its decisions stand in the log: take another key$"
    ):
        changes.begun(ended, parsed([experiment(learnt=0.5)]))
    with pytest.raises(GateRefused, match=r"^no experiment runs$"):
        changes.stopped(ended, "summer")


WRONG = {
    "two layers choose": (
        file([experiment("a", learnt=1.0)], [experiment("b", learnt=1.0)]),
        "only one layer may name",
    ),
    "mixed": (
        file(
            [{"key": "a", "variants": [{"name": "x", "share": 0.5, "policy": "learnt"}, {"name": "y", "share": 0.5}]}]
        ),
        "either every variant names a policy or none does",
    ),
    "policy and left out": (
        file(
            [{"key": "a", "variants": [{"name": "x", "share": 1, "policy": "learnt", "leave_out": {"offers": ["o"]}}]}]
        ),
        "names a policy or leaves something out",
    ),
    "overlap": (
        file([leaving_out("a", "o", range=[0, 0.6]), leaving_out("b", "o", range=[0.5, 1])]),
        "take the same players; give them ranges apart",
    ),
    "above one": (file([experiment(learnt=0.7, rules=0.4)]), "sum to more than 1"),
    "share": (file([experiment(learnt=0.33333)]), r"a share is a multiple of 0.0001"),
    "twice": (file([{"key": "a", "variants": [{"name": "x", "share": 0.1}] * 2}]), "two variants are called x"),
    "same key": (file([leaving_out("a", "o")], [leaving_out("a", "o")]), "two experiments are called a"),
    "reserved": (file([experiment("global_holdout", learnt=1.0)]), "global_holdout is the name of"),
    "no policy": (
        file([{"key": "a", "variants": [{"name": "x", "share": 1, "policy": "mine"}]}]),
        "layers.0.experiments.0.variants.0.policy",
    ),
    "trained without marketing": (
        file([{"key": "a", "variants": [{"name": "x", "share": 1, "policy": "none", "use": "train"}]}]),
        "who gets no marketing is a control",
    ),
    "buckets": (
        file([{"key": "a", "variants": [{"name": "x", "share": 0.1, "policy": "none", "buckets": [[0, 10]]}]}]),
        "its buckets are not 1,000, which its share is",
    ),
    "shared buckets": (
        file([{"key": "a", "variants": [{"name": n, "share": 0.001, "buckets": [[0, 10]]} for n in "xy"]}]),
        "two variants own the same bucket",
    ),
    "empty range": (file([leaving_out("a", "o", range=[0.5, 0.5])]), "its range is empty"),
    "unknown field": (file(colour="red"), "colour"),
}


@pytest.mark.parametrize(("said", "why"), WRONG.values(), ids=WRONG)
def test_a_file_that_cannot_be_is_refused_with_the_reason(said: dict[str, Any], why: str, tmp_path: Path) -> None:
    path = tmp_path / "experiments.yaml"
    path.write_text(yaml.safe_dump(said), "utf8")
    with pytest.raises(CatalogueError) as refused:
        load_experiments(path)
    assert why in str(refused.value)
    assert "experiments.yaml" in str(refused.value)


def test_buckets_that_a_file_writes_out_are_kept() -> None:
    said = {
        "key": "a",
        "variants": [{"name": "x", "share": 0.001, "buckets": [[500, 510]]}, {"name": "b", "share": 0.001}],
    }
    found = allocated(Experiment.model_validate(said))
    assert spans(owners(found)) == {"x": ((500, 510),), "b": ((0, 10),)}
