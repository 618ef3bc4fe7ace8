"""Dashboard and alerts against a running house: they ask for nothing that it does not tell"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import promql_parser as promql
import pytest
import redis
import typer
from conftest import Opened
from prometheus_client.parser import text_string_to_metric_families
from support.monitoring import FOLDER, alerts, expressions, panels
from support.players import adult_events

from features.moments import micros
from features.store.keys import BACKED_UP, CHURN_PROMOTIONS
from models.releases.journal import Release
from pipelines.cli.app import app
from service.api.metrics import COUNTED
from service.api.tally import CountedMetric

OF_SCRAPES = {"job", "instance"}
"""Labels that Prometheus itself adds."""
ASKED = list(expressions())


def names(expression: Any) -> Iterator[Any]:
    """Every selector of an expression."""
    match expression:
        case promql.VectorSelector():
            yield expression
        case promql.MatrixSelector():
            yield expression.vector_selector
        case promql.BinaryExpr():
            yield from names(expression.lhs)
            yield from names(expression.rhs)
        case promql.Call():
            for one in expression.args:
                yield from names(one)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from names(expression.expr)


def grouped(expression: Any) -> set[str]:
    """Every label that an expression groups by."""
    found: set[str] = set()
    match expression:
        case promql.BinaryExpr():
            found = grouped(expression.lhs) | grouped(expression.rhs)
        case promql.Call():
            found = set().union(*map(grouped, expression.args))
        case promql.ParenExpr() | promql.UnaryExpr():
            found = grouped(expression.expr)
        case promql.AggregateExpr():
            own = set(expression.modifier.labels) if expression.modifier else set()
            found = own | grouped(expression.expr)
    return found


@pytest.fixture
def promoted(store: redis.Redis) -> None:
    """A churn model was promoted, and a backup was taken."""
    at = datetime.now(UTC)
    release = Release(kind="churn", id="1", action="promote", version="1", replaced=None, by="test", at=at.isoformat())
    store.rpush(CHURN_PROMOTIONS, msgspec.json.encode(release))
    store.set(BACKED_UP, micros(at))


async def told(opened: Opened) -> dict[str, tuple[set[str], str]]:
    """Name of a sample -> its labels, and the type of its metric, as a house tells them after a decision."""
    async with opened() as client:
        for event in adult_events("p-1"):
            await client.post("/v1/events", json=event)
        await client.post("/v1/decisions/batch", json={"requests": [{"player_id": "p-1"}, {}]})
        text = (await client.get("/metrics")).text
    found: dict[str, tuple[set[str], str]] = {"up": (set(), "gauge")}
    for family in text_string_to_metric_families(text):
        found[family.name] = set(), family.type
        for sample in family.samples:
            labels, _ = found.get(sample.name, (set(), ""))
            found[sample.name] = labels | sample.labels.keys(), family.type
    # What nobody met in this story has its labels by declaration.
    for one in COUNTED:
        for ending in ("_bucket", "_count", "_sum") if one.bounds else ("_total",):
            own = {*one.labels, *({"le"} if ending == "_bucket" else ())}
            found.setdefault(one.name + ending, (own, "histogram" if one.bounds else "counter"))
    return found


@pytest.mark.usefixtures("promoted")
async def test_every_expression_asks_for_metrics_and_labels_that_there_are(opened: Opened) -> None:
    there = await told(opened)
    for place, text, legend in ASKED:
        parsed = promql.parse(text)
        known = set(OF_SCRAPES)
        for one in names(parsed):
            assert one.name in there, place
            labels, _ = there[one.name]
            known |= labels
            assert {matcher.name for matcher in one.matchers.matchers} <= labels | OF_SCRAPES, place
        assert grouped(parsed) <= known, place
        assert set(re.findall(r"\{\{ ?(\w+) ?\}\}", legend)) <= grouped(parsed), place


@pytest.mark.usefixtures("promoted")
async def test_counters_are_asked_for_their_rates_and_gauges_for_their_values(opened: Opened) -> None:
    there = await told(opened)
    for place, text, _ in ASKED:
        for one in names(promql.parse(text)):
            kind = there[one.name][1]
            ranged = re.search(rf"{one.name}(\{{[^}}]*\}})?\[", text) is not None
            rates = re.search(rf"(rate|increase)\({one.name}", text) is not None
            assert rates == (kind in {"counter", "histogram"}), place
            assert ranged or kind == "gauge", place


def test_words_that_expressions_compare_with_are_words_that_are_told() -> None:
    words = {(f"{one.name}_total", name): set(one.words) for one in COUNTED for name in one.labels if one.words}
    words["croupier_decisions_total", "recorded"] = {"true", "false"}
    words["croupier_decisions_total", "action"] = {"contact", "no_contact"}
    words["croupier_release_age_seconds", "release"] = {"churn", "policy", "rules"}
    for place, text, _ in ASKED:
        for one in names(promql.parse(text)):
            for matcher in one.matchers.matchers:
                if (one.name, matcher.name) in words:
                    assert set(matcher.value.split("|")) <= words[one.name, matcher.name], place


def test_everything_that_is_told_is_shown_or_watched() -> None:
    asked = {one.name for _, text, _ in ASKED for one in names(promql.parse(text))}
    shown = {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in asked}
    assert {one.name for one in COUNTED} - shown == set()


def test_alerts_say_how_bad_it_is_what_it_is_and_what_to_do() -> None:
    commands = set(words(typer.main.get_command(app)))
    for alert in alerts():
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert set(alert["annotations"]) == {"summary", "do"}
        for command in re.findall(r"`croupier ([a-z ]+)", alert["annotations"]["do"]):
            assert command.strip() in commands, alert["alert"]
    assert len({alert["alert"] for alert in alerts()}) == len(alerts())


def words(command: Any, before: str = "") -> Iterator[str]:
    for name, one in getattr(command, "commands", {}).items():
        yield f"{before}{name}"
        yield from words(one, f"{before}{name} ")


def test_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not own & taken, panel["title"]
        taken |= own
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_panel_asks_the_source_that_is_chosen() -> None:
    content = json.loads((FOLDER / "dashboard.json").read_text("utf8"))
    assert [one["name"] for one in content["templating"]["list"]] == ["datasource"]
    for panel in panels():
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@pytest.mark.parametrize("metric", COUNTED, ids=lambda one: one.name)
def test_names_are_as_prometheus_wants_them(metric: CountedMetric) -> None:
    assert re.fullmatch(r"croupier_[a-z_]+", metric.name)
    assert not metric.name.endswith("_total")
    assert metric.bounds == tuple(sorted(set(metric.bounds)))
    assert not {"player", "player_id", "decision_id", "offer", "le"} & set(metric.labels)
