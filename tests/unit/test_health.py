"""Health checks of a report: alarms on faulty data, none on sound data."""

import msgspec
import numpy as np
import pytest
from support.experiment_lakes import SHARES, drawn, record

from models.policy.learned import weigh
from pipelines.experiments.health import (
    ALARM,
    PropensityTally,
    cell_ratios,
    few_units,
    house_findings,
    judged,
    propensity_ratio,
    sample_ratio,
    split_findings,
    tallies,
    untreated,
)
from service.decisions.record import dump_record

PLACES = 8


def logs(chance: np.random.Generator, decisions: int, *, masked: bool, version: str = "v1") -> list[tuple[str, bytes]]:
    """Variants and records of draws from a masked pmf; `masked`: the log holds it, else what was before the mask."""
    found = []
    for number in range(decisions):
        scored = chance.dirichlet(np.full(4, 4.0))
        mask = chance.random(4) < 0.9
        mask[0] = True
        honest = np.append(scored * mask / (scored * mask).sum(), np.zeros(PLACES - 4))
        claimed = honest if masked else np.append(scored, np.zeros(PLACES - 4))
        choice = drawn("drawn", version, honest, float(chance.random()))
        logged = drawn("drawn", version, claimed, 0.0)
        told = msgspec.structs.replace(choice, mask=logged.mask, pmf=logged.pmf)
        found.append(("policy", dump_record(record(f"d{number}", "p", "policy", told))))
    return found


def tally(chance: np.random.Generator, decisions: int, *, masked: bool) -> PropensityTally:
    """As `logs`, without the records: many at once."""
    scored = chance.dirichlet(np.full(4, 4.0), decisions)
    mask = chance.random((decisions, 4)) < 0.9
    mask[:, 0] = True
    honest = scored * mask / (scored * mask).sum(axis=1, keepdims=True)
    places = (honest.cumsum(axis=1) < chance.random((decisions, 1))).sum(axis=1)
    found = PropensityTally()
    found.add(honest if masked else scored, np.minimum(places, 3))
    return found


def test_the_sample_ratio_alarm_is_rare_when_the_split_is_as_planned() -> None:
    chance = np.random.default_rng(1)
    splits = chance.multinomial(3_000, list(SHARES.values()), 2_000)
    planned = {name: 3_000 * share for name, share in SHARES.items()}
    found = [sample_ratio(dict(zip(SHARES, map(int, split), strict=True)), planned) for split in splits]
    # 0.1 % of 2,000 is 2; more than 8 has a chance below 0.03 %.
    assert sum(one.alarm for one in found) <= 8
    below = np.mean([one.p_value is not None and one.p_value < 0.05 for one in found])
    assert abs(below - 0.05) < 0.015


def test_one_player_and_a_variant_that_expects_hardly_any_are_no_alarm() -> None:
    planned = {name: float(share) for name, share in SHARES.items()}
    assert sample_ratio({"policy": 1}, planned).p_value is None
    small = sample_ratio({"a": 50, "b": 48, "c": 2}, {"a": 49.9, "b": 49.9, "c": 0.2})
    assert small.p_value is not None
    assert small.p_value > 0.5


def test_the_sample_ratio_alarm_sounds_when_a_tenth_of_a_variant_is_lost() -> None:
    chance = np.random.default_rng(2)
    caught = 0
    for _ in range(50):
        split = dict(zip(SHARES, map(int, chance.multinomial(10_000, list(SHARES.values()))), strict=True))
        split["policy"] = int(split["policy"] * 0.9)
        total = sum(split.values())
        caught += sample_ratio(split, {name: total * share for name, share in SHARES.items()}).alarm
    assert caught >= 45


def test_a_player_in_a_variant_of_share_zero_is_an_alarm_and_unknown_shares_give_no_p_value() -> None:
    assert sample_ratio({"policy": 500, "uniform": 1}, {"policy": 501.0, "uniform": 0.0}).alarm
    unknown = sample_ratio({"policy": 500}, None)
    assert (unknown.p_value, unknown.alarm, unknown.expected) == (None, False, None)


def test_propensities_logged_before_the_mask_are_caught_and_honest_ones_are_left_alone() -> None:
    chance = np.random.default_rng(3)
    caught = [propensity_ratio({"v": tally(chance, 5_000, masked=False)}).alarm for _ in range(100)]
    assert np.mean(caught) >= 0.8
    honest = [propensity_ratio({"v": tally(chance, 5_000, masked=True)}) for _ in range(400)]
    # 0.1 % of 400 is 0.4; more than 4 has a chance below 0.01 %.
    assert sum(one.alarm for one in honest) <= 4
    below = np.mean([one.p_value is not None and one.p_value < 0.05 for one in honest])
    assert abs(below - 0.05) < 0.035


@pytest.mark.parametrize("masked", [True, False])
def test_records_tell_the_same_as_the_draws_behind_them(masked: bool) -> None:  # noqa: FBT001 - a parameter of the law
    found = propensity_ratio(tallies(logs(np.random.default_rng(4), 5_000, masked=masked)))
    assert found.alarm is not masked
    assert found.decisions == 5_000
    assert [one.variant for one in found.versions] == ["policy"]


def sure(chance: np.random.Generator, versions: int, decisions: int) -> dict[str, PropensityTally]:
    """Snapshots that are nearly sure of themselves: one action takes almost all, many share what is left."""
    found = {}
    for version in range(versions):
        scores = chance.normal(0, 20, (decisions, 40))
        pmf = np.array([weigh(row, 100.0, 5.0) for row in scores])
        places = (pmf.cumsum(axis=1) < chance.random((decisions, 1))).sum(axis=1)
        found[f"v{version}"] = PropensityTally()
        found[f"v{version}"].add(pmf, np.minimum(places, 39))
    return found


def test_rare_draws_of_a_sure_policy_are_no_alarm() -> None:
    chance = np.random.default_rng(8)
    alarms = sum(propensity_ratio(sure(chance, 10, 150)).alarm for _ in range(60))
    assert alarms <= 1


def test_a_dishonest_log_is_caught_also_where_the_policy_changes_every_hundred_draws() -> None:
    chance = np.random.default_rng(9)
    caught = 0
    for _ in range(10):
        versions = [logs(chance, 100, masked=False, version=f"kalman-{number}") for number in range(50)]
        caught += propensity_ratio(tallies(data for version in versions for data in version)).alarm
    assert caught >= 8


def test_small_variants_are_tested_together_and_none_is_left_out() -> None:
    chance = np.random.default_rng(5)
    small = {f"v{number}": tally(chance, 6, masked=True) for number in range(40)}
    found = propensity_ratio({"large": tally(chance, 2_000, masked=True)} | small)
    assert [one.variant for one in found.versions] == ["large", "pooled"]
    assert sum(one.decisions for one in found.versions) == found.decisions == 2_240


def test_an_action_that_the_log_calls_impossible_is_an_alarm_however_few_the_draws() -> None:
    for draws in (1, 40):
        lying = PropensityTally()
        lying.add(
            np.tile([0.5, 0.5, 0.0], (draws, 1)), np.array([0, 1] * (draws // 2) + [2] * (draws % 2 or 1))[-draws:]
        )
        found = propensity_ratio({"v": lying})
        assert (found.p_value, found.alarm, found.impossible) == (0.0, True, 1)


def test_too_few_draws_give_no_p_value() -> None:
    found = propensity_ratio({"v": tally(np.random.default_rng(6), 3, masked=True)})
    assert (found.p_value, found.alarm, found.versions) == (None, False, [])
    certain = PropensityTally()
    certain.add(np.tile([1.0, 0.0], (50, 1)), np.zeros(50, dtype=np.int64))
    assert not propensity_ratio({"v": certain}).alarm


def test_every_trouble_is_named_and_health_is_good_without_any() -> None:
    fine = sample_ratio({"policy": 500, "holdout": 500}, {"policy": 500.0, "holdout": 500.0})
    skewed = sample_ratio({"policy": 800, "holdout": 200}, {"policy": 500.0, "holdout": 500.0})
    odd = sample_ratio({"gate_30": 44_700, "gate_40": 45_489}, {"gate_30": 45_094.5, "gate_40": 45_094.5})
    quiet = propensity_ratio({})
    lying = propensity_ratio({"v": tally(np.random.default_rng(7), 20_000, masked=False)})
    unknown = sample_ratio({"policy": 1}, None)
    ready = {"policy": 500, "holdout": 500}
    assert judged([*split_findings(fine, None, 0.0), *house_findings(quiet, 30.0), *few_units(ready)]).ok
    assert house_findings(quiet, None) == untreated({"policy": 9}, ready, ["policy"]) == []
    for trouble, word, red in (
        (split_findings(skewed, None, 0.0), "as planned", True),
        (split_findings(odd, None, 0.0), "p = 0.0086", False),
        (split_findings(unknown, None, 0.0), "unknown", True),
        (split_findings(fine, None, 0.011), "two variants", True),
        (split_findings(fine, None, 0.009), "two variants", False),
        (
            split_findings(fine, cell_ratios({"day 1": ({"a": 90, "b": 10}, {"a": 50.0, "b": 50.0})}), 0.0),
            "day 1",
            True,
        ),
        (house_findings(lying, None), "propensities", True),
        (house_findings(quiet, 90_000.0), "behind", True),
        (few_units(ready | {"policy": 99}), "policy has 99", True),
        (few_units({}), "compare", True),
        (untreated({"policy": 0}, ready, ["policy"]), "nobody in policy", True),
    ):
        (reason,) = judged(trouble).reasons
        assert word in reason
        assert judged(trouble).ok is not red
        assert trouble[0].remedy
    assert skewed.p_value is not None
    assert skewed.p_value < ALARM


def test_cells_alarm_among_themselves_and_hardly_ever_by_chance() -> None:
    chance, alarms = np.random.default_rng(10), 0
    for _ in range(300):
        splits = chance.multinomial(400, [0.5, 0.5], 28)
        cells = {
            f"day {day}": ({"a": int(a), "b": int(b)}, {"a": 200.0, "b": 200.0}) for day, (a, b) in enumerate(splits)
        }
        alarms += cell_ratios(cells).alarm
    # 0.1 % of 300 is 0.3; more than 3 has a chance below 0.03 %.
    assert alarms <= 3
