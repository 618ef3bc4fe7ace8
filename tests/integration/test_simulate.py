"""A simulated crowd on a whole sandbox house over HTTP, measured against its known truth."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from support.keys import KEY
from support.whole_house import whole_house

from models.catalogue.offers import load_catalogue
from pipelines.simulation import results
from pipelines.simulation.simulate import SimulationOptions, SimulationRefused, SimulationRun, simulate

CATALOGUE = load_catalogue(Path(__file__).parents[2] / "service" / "catalogue.yaml")
QUIET = Console(quiet=True)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[str]:
    """Address of a house whose days last seconds."""
    with whole_house(tmp_path / "home", "--clock", "2026-06-01", "--rate", "20000") as address:
        yield address


def test_a_crowd_asks_plays_and_answers_through_the_days(house: str, tmp_path: Path) -> None:
    course = simulate(SimulationOptions(house, 1, 40, 2.0, 240, KEY), CATALOGUE, QUIET)
    found = results.measure(course)
    assert found.decisions == len(course.steps) > 120
    assert sum(group.decisions for group in found.groups.values()) == found.decisions
    assert found.groups["holdout"].contacted == 0
    assert found.counts["contacts"] > 20
    compared = found.compared
    assert compared.uniform <= compared.best
    assert compared.policy <= compared.best
    results.write(course, found, tmp_path)
    assert json.loads((tmp_path / "simulation.json").read_text())["seed"] == 1
    drawn = {file.stem for file in tmp_path.glob("*.svg")}
    assert drawn == {"net_value", "no_contact", "conversions", "policy", "exclusions"}
    assert len((tmp_path / "decisions.csv").read_text().splitlines()) == found.decisions + 1
    # The same players do not arrive twice.
    with pytest.raises(SimulationRefused, match="seed 1"):
        simulate(SimulationOptions(house, 1, 40, 1.0, 100, KEY), CATALOGUE, QUIET)


def test_where_the_clock_is_too_fast_the_crowd_waits_and_leaves_nothing_out(tmp_path: Path) -> None:
    with whole_house(tmp_path / "home", "--clock", "2026-06-01", "--rate", "100000") as address:
        run = simulate(SimulationOptions(address, 1, 20, 2.0, 240, KEY), CATALOGUE, QUIET)
    found = results.measure(run)
    assert found.waited_hours > 1
    assert found.days == pytest.approx(2 + found.waited_hours / 24)
    assert not found.counts.get("not served")
    assert found.decisions == found.counts["asked"] > 180
    assert f"waited {found.waited_hours:,.1f} house hours" in results.course(found)


def test_what_the_house_did_not_do_is_told_with_its_share() -> None:
    run = SimulationRun(SimulationOptions("", 1, 1, 1.0, 100), 0)
    run.counts |= {"asked": 40, "not served": 10, "told: event": 200, "not taken: event": 1, "contacts": 3}
    run.counts |= {"not sent: revoked": 1}
    told = results.course(results.measure(run))
    assert "not served 25.0% (10), not taken: event 0.5% (1), not sent: revoked 25.0% (1)" in told


def test_without_a_house_there_is_one_sentence() -> None:
    with pytest.raises(SimulationRefused, match="no house answers"):
        simulate(SimulationOptions("http://127.0.0.1:1", 1, 10, 1.0, 100), CATALOGUE, QUIET)


def test_a_paired_interval_is_that_of_students_t() -> None:
    found = results.paired([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.high - found.mean == pytest.approx(1.9632, abs=1e-3)


def test_several_seeds_are_pooled_by_their_own_differences(tmp_path: Path) -> None:
    assert results.pool(tmp_path) is None
    one = results.PolicyComparison(decisions=100, policy=50, business_rules=10, uniform=0, best=100, lift=0.5)
    for seed, extra in enumerate((0.0, 10.0, 20.0)):
        better = results.PolicyComparison(
            decisions=100, policy=50 + extra, business_rules=10, uniform=0, best=100, lift=0.6
        )
        found = results.SimulationResult(
            seed=seed,
            decisions=1_000,
            days=1,
            groups={},
            compared=better,
            quarters=[one, one, one, better],
            exclusions={},
            counts={},
            lag_hours_p99=0,
        )
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}" / "simulation.json").write_bytes(msgspec.json.encode(found))
    pooled = results.pool(tmp_path)
    assert pooled is not None
    assert pooled.policy_less_business_rules.mean == pytest.approx(50)
    assert pooled.lift_of_last_quarter_less_first.low == pytest.approx(0.1)
    assert pooled.decisions == 3_000
