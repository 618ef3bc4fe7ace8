"""The first build and this one on one house, one after the other.

`make test-builds` runs it: the first build is made of the repository's history and installed beside this one.
"""

from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from builds.sides import PLAIN, SLOWLY, Process, Promises, Side, lived_in, up
from frozen.cases import assert_gives
from frozen.test_house import TOLD, go_on, unpack
from support.fault_house import linked, once, players, until

from benchmarks.builds import Build, here, of
from features.store.connection import connect
from features.store.server import start_server

FIRST: Final = "d17755d"
BUILDS: Final = Path.home() / ".cache" / "croupier" / "builds"


@pytest.fixture(scope="session")
def first() -> Build:
    return of(FIRST, BUILDS)


# --- One after the other


def test_a_house_of_the_first_build_goes_on_under_this_one(tmp_path: Path) -> None:
    home = unpack(tmp_path / "frozen")
    server = start_server(home)
    with closing(connect(server.url)) as client:
        go_on(client)
    server.stop()
    with up(here(), home, {"CROUPIER_CATALOGUE": str(home / "catalogue.yaml")}) as side:
        _stands_as_told(side)
        confirmed = side.confirm(TOLD["open"])
        assert confirmed.status_code == 200, confirmed.text
        assert side.event("ada", occurred_at="2026-11-24T12:00:00Z").status_code == 200
        assert side.ask("ada").json()["recorded"]


def _stands_as_told(side: Side) -> None:
    for name, record in TOLD["records"].items():
        assert_gives(side.get(f"/v1/decisions/{name}").json(), record)
    for told, path in ((TOLD["events"], "/v1/events"), (TOLD["outcomes"], "/v1/outcomes")):
        for one in told:
            assert_gives(side.post(path, one["body"]).json(), one["answer"] | {"duplicate": True})
    for one in TOLD["confirms"]:
        assert side.confirm(one["decision_id"]).status_code == one["status"]
    for player in ("bea", "max"):
        assert "self_excluded" in side.denied(player)
    assert side.facts("device-1") == side.facts("eve")


def test_a_house_that_the_first_build_lived_in_stands_under_this_one_and_the_first_refuses_it_from_then_on(
    first: Build, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with up(first, home, {}) as side:
        made = lived_in(side)
    assert len(made.confirmed) > 10
    with up(here(), home, {}) as side:
        _keeps(side, made)
        _goes_on(side, "later-")
    lake = home / "lake"
    once(lake, "events", "event_id", [event["event_id"] for event, _ in made.events])
    once(lake, "decisions", "decision_id", list(made.decisions))
    once(lake, "outcomes", "outcome_id", [body["outcome_id"] for body, _ in made.outcomes])
    linked(lake)
    with Process(first, "up --players 0 --no-screen", home, {}) as refused:
        assert refused.process.wait(SLOWLY) != 0
        assert "the house has format 3 and 256 partitions, not 1 and 256" in refused.said


def _keeps(side: Side, made: Promises) -> None:
    """Everything that was acknowledged is there, once and as it was; what forbids contact forbids it."""
    for path, told in (("/v1/events", made.events), ("/v1/outcomes", made.outcomes)):
        for body, position in told:
            answer = side.post(path, body).json()
            assert (answer.get("position"), answer.get("duplicate")) == (position, True), (body, answer)
    for body, name in made.requests:
        assert side.post("/v1/decisions", body).json()["decision_id"] == name
    for name, record in made.decisions.items():
        _same_record(side.get(f"/v1/decisions/{name}").json(), record)
    for name, confirmed in made.confirmed.items():
        again = side.confirm(name)
        assert again.status_code == 200, again.text
        assert again.json()["confirmed_at"] == confirmed["confirmed_at"]
    for name, facts in made.facts.items():
        assert side.facts(name) == facts, name
    for kind in ("self_excluded", "time_out", "account_closed"):
        assert side.denied(f"p-{kind}"), kind


def _same_record(found: dict[str, Any], record: dict[str, Any]) -> None:
    for name in ("decision_id", "player_id", "action", "propensity", "policy_version", "rules_version", "churn"):
        assert found[name] == record[name], name


def _goes_on(side: Side, prefix: str) -> None:
    player, other = players(prefix, 2)
    for name in (player, other):
        side.welcome(name)
    until(lambda: side.feature(player, "deposit_count") == 2)
    assert side.confirm(side.contact(player, **PLAIN)).status_code == 200
    decision = side.contact(other, **PLAIN)
    assert side.event(other, type="self_excluded").status_code == 200
    assert side.confirm(decision).json()["code"] == "revoked"
