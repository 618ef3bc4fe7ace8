"""The first build and this one on one house: one after the other and side by side.

`make test-builds` runs it: the first build is made of the repository's history and installed beside this one.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml
from builds.sides import PLAIN, Process, Promises, Side, lived_in, serving, up
from frozen.cases import assert_gives
from frozen.test_house import TOLD, go_on, unpack
from support.fault_house import PATIENCE, linked, once, players, until
from support.players import adult_events

from benchmarks.builds import Build, here, of
from features.store.connection import connect
from features.store.deployment import real_now_us
from features.store.keys import LEARNER_LEASE
from features.store.server import start_server
from pipelines.machine import up as house
from pipelines.worker.process import wait_until_in_lake
from service.settings import catalogue_path

FIRST: Final = "d17755d"
BUILDS: Final = Path.home() / ".cache" / "croupier" / "builds"
BUDGET_MINOR: Final = 6_000
HOUSEHOLD_CONTACTS: Final = 3
_LOAD: Final = """
import os
try:
    from features.store.connection import connect, load_library
    folders = "service.contacts", "pipelines.worker"
except ImportError:  # of the first build
    from features.store import connect, load_library
    folders = "service", "pipelines"
client = connect(os.environ["CROUPIER_STORE"])
for folder, name in zip(folders, ("ledger.lua", "consume.lua")):
    load_library(client, folder, name)
"""


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


def test_a_house_of_this_build_stands_under_the_first_one_and_under_this_one_again(
    first: Build, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with up(here(), home, {}) as side:
        made = lived_in(side)
    assert len(made.confirmed) > 10
    for build in (first, here()):
        with up(build, home, {}) as side:
            _keeps(side, made)
            _goes_on(side, f"later-{build.name.replace(' ', '-')}-")
    lake = home / "lake"
    once(lake, "events", "event_id", [event["event_id"] for event, _ in made.events])
    once(lake, "decisions", "decision_id", list(made.decisions))
    once(lake, "outcomes", "outcome_id", [body["outcome_id"] for body, _ in made.outcomes])
    linked(lake)


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


# --- Side by side


class Both(NamedTuple):
    """Two APIs on one store: who speaks first, and who answers."""

    one: Side
    other: Side

    @property
    def word(self) -> str:
        """What sets its players apart."""
        return f"{self.one.build.name.replace(' ', '-')}-"


class Shared(NamedTuple):
    """A house that both builds serve."""

    home: Path
    url: str
    sides: dict[str, Side]


@pytest.fixture(
    scope="module", params=["library and worker of the first", "library of the first", "worker of the first", "neither"]
)
def shared(request: pytest.FixtureRequest, first: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Both APIs on one store; the store's functions and the worker are of one build or the other."""
    home = tmp_path_factory.mktemp("shared")
    server = start_server(home)
    library = first if "library" in request.param else here()
    worker, learner = (first, here()) if "worker" in request.param else (here(), first)
    environment = {"CROUPIER_STORE": server.url, "CROUPIER_CATALOGUE": str(_limited(home))}
    with closing(connect(server.url)) as client, ExitStack() as stack:
        house.prepare(client, house.Options(home, players=0), server.url)
        _load(library, environment)
        for build, word in ((worker, "worker"), (learner, "learn")):
            stack.enter_context(Process(build, word, home, environment))
        sides = {build.name: stack.enter_context(serving(build, home, environment)) for build in (first, here())}
        until(lambda: bool(client.exists(LEARNER_LEASE)))
        yield Shared(home, server.url, sides)
    server.stop()


def _load(build: Build, environment: dict[str, str]) -> None:
    subprocess.run([build.python, "-c", _LOAD], cwd=build.folder, env={**os.environ, **environment}, check=True)


def _limited(home: Path) -> Path:
    """The catalogue of both, with a cap of households and a budget of all players."""
    catalogue = yaml.safe_load(catalogue_path().read_text("utf8"))
    catalogue["caps"].append({"id": "home", "contacts": HOUSEHOLD_CONTACTS, "hours": 24, "scope": "household"})
    catalogue["budgets"] = [{"id": "day", "cost_minor": BUDGET_MINOR, "purpose": "bonus"}]
    place = home / "catalogue.yaml"
    place.write_text(yaml.safe_dump(catalogue), "utf8")
    return place


@pytest.fixture(params=["first", "this"])
def both(request: pytest.FixtureRequest, shared: Shared) -> Both:
    first, this = shared.sides.values()
    return Both(first, this) if request.param == "first" else Both(this, first)


def test_features_move_whichever_build_was_told(both: Both) -> None:
    (player,) = players(f"moves-{both.word}")
    both.one.welcome(player)
    until(lambda: both.other.feature(player, "deposit_count") == 2)
    both.other.event(player, type="deposit", status="approved", method="card", amount_minor=100)
    until(lambda: both.one.feature(player, "deposit_count") == 3)


def test_what_one_decided_the_other_confirms_once(both: Both) -> None:
    (player,) = players(f"confirms-{both.word}")
    both.one.welcome(player)
    decision = both.one.contact(player, **PLAIN)
    confirmed = both.other.confirm(decision)
    assert confirmed.status_code == 200, confirmed.text
    assert both.one.confirm(decision).json()["confirmed_at"] == confirmed.json()["confirmed_at"]
    told = {"outcome_id": f"{player}-o", "decision_id": decision, "type": "delivered"}
    body = told | {"occurred_at": datetime.now(UTC).isoformat()}
    taken = both.other.post("/v1/outcomes", body).json()
    assert both.one.post("/v1/outcomes", body).json() == taken | {"duplicate": True}


FORBIDDING: Final[list[dict[str, Any]]] = [
    {"type": "self_excluded"},
    {"type": "time_out", "until": (datetime.now(UTC) + timedelta(days=30)).isoformat()},
    {"type": "account_closed"},
    {"type": "objection_changed", "objects": True},
    {"type": "consent_changed", "channel": "in_app", "granted": False},
    {"type": "harm_reviewed", "level": "strong"},
]


@pytest.mark.parametrize("forbids", FORBIDDING, ids=[one["type"] for one in FORBIDDING])
def test_an_exclusion_that_one_acknowledged_silences_both(both: Both, forbids: dict[str, Any]) -> None:
    (player,) = players(f"{forbids['type']}-{both.word}")
    both.one.welcome(player)
    decision = both.one.contact(player, **PLAIN)
    answer = both.other.event(player, **forbids)
    assert answer.status_code == 200, answer.text
    for side in both:
        assert side.confirm(decision).json()["code"] == "revoked"
        assert side.ask(player, **PLAIN).json()["action"] == "NO_CONTACT"


@pytest.mark.parametrize("type_", ["unsubscribed", "complained"])
def test_an_outcome_that_withdraws_consent_silences_both(both: Both, type_: str) -> None:
    (player,) = players(f"{type_}-{both.word}")
    both.one.welcome(player)
    decision = both.one.contact(player, **PLAIN)
    answer = both.other.outcome(decision, type=type_)
    assert answer.status_code == 200, answer.text
    for side in both:
        assert side.confirm(decision).json()["code"] == "revoked"
        assert side.ask(player, **PLAIN).json()["action"] == "NO_CONTACT"


def _ahead(player: str) -> tuple[str, dict[str, Any]]:
    at = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    event = {"event_id": f"{player}-ahead", "player_id": player, "occurred_at": at, "type": "self_excluded"}
    return "/v1/events", event


def _without_decision(player: str) -> tuple[str, dict[str, Any]]:
    at = datetime.now(UTC).isoformat()
    outcome = {"outcome_id": f"{player}-gone", "player_id": player, "occurred_at": at, "channel": "in_app"}
    return "/v1/outcomes", outcome | {"type": "complained"}


@pytest.mark.parametrize("forbids", [_ahead, _without_decision])
def test_what_only_this_build_takes_silences_the_first_one_too(
    shared: Shared, forbids: Callable[[str], tuple[str, dict[str, Any]]]
) -> None:
    first, this = shared.sides.values()
    (player,) = players(f"only-{forbids.__name__}-")
    first.welcome(player)
    decision = first.contact(player, **PLAIN)
    path, body = forbids(player)
    assert first.post(path, body).status_code == 422
    answer = this.post(path, body)
    assert answer.status_code == 200, answer.text
    assert first.confirm(decision).json()["code"] == "revoked"
    assert first.ask(player, **PLAIN).json()["action"] == "NO_CONTACT"


def _asked_at_once(both: Both, names: list[str], times: int) -> list[dict[str, Any]]:
    """Contacts that both decided when asked about the same players at once."""

    def ask(turn: tuple[Side, str]) -> dict[str, Any]:
        answer = turn[0].post("/v1/decisions", {"player_id": turn[1], **PLAIN})
        assert answer.status_code in {200, 503}, answer.text
        found: dict[str, Any] = answer.json()
        return found

    turns = [(side, name) for name in names for side in islice(cycle(both), times)]
    with ThreadPoolExecutor(8) as pool:
        return [one for one in pool.map(ask, turns) if one.get("action", "NO_CONTACT") != "NO_CONTACT"]


def test_a_cap_holds_over_both(both: Both) -> None:
    names = players(f"caps-{both.word}", 10)
    for name in names:
        both.one.welcome(name)
    made = _asked_at_once(both, names, 20)
    held = [sum(one["player_id"] == name for one in made) for name in names]
    assert max(held) == 2, held


def test_the_cap_of_a_household_holds_over_both(both: Both) -> None:
    names = players(f"home-{both.word}", 6)
    for name, side in zip(names, cycle(both), strict=False):
        both.one.welcome(name)
        assert side.event(name, type="household_changed", household_id=f"home-{both.word}").status_code == 200
    assert 0 < len(_asked_at_once(both, names, 12)) <= HOUSEHOLD_CONTACTS


def test_a_link_that_one_made_the_other_follows(both: Both) -> None:
    (player,) = players(f"link-{both.word}")
    ids = [player, *(f"{player}-device-{number}" for number in range(40))]
    both.one.welcome(player)
    for (owner, device), side in zip(pairwise(ids), cycle(both), strict=False):
        assert side.event(device).status_code == 200
        answer = side.event(owner, type="identify", anonymous_id=device)
        assert answer.status_code == 200, answer.text
    decision = both.one.contact(player, **PLAIN)
    answer = both.other.event(ids[-1], type="self_excluded")
    assert answer.status_code == 200, answer.text
    for side in both:
        assert side.confirm(decision).json()["code"] == "revoked"
        assert "self_excluded" in side.denied(ids[20])
        assert [side.facts(name) for name in ids[1:]] == [side.facts(player)] * 40


def test_chains_that_were_made_from_their_far_end_are_followed_by_both(both: Both) -> None:
    (player,) = players(f"chain-{both.word}")
    ids = [player, *(f"{player}-device-{number}" for number in range(20))]
    both.one.welcome(player)
    for (owner, device), side in reversed([*zip(pairwise(ids), cycle(both), strict=False)]):
        answer = side.event(owner, type="identify", anonymous_id=device)
        assert answer.status_code == 200, answer.text
    answer = both.other.event(ids[-1], type="self_excluded")
    assert answer.status_code == 200, answer.text
    for side in both:
        assert "self_excluded" in side.denied(player)
        assert side.facts(ids[-1]) == side.facts(player)


def test_what_was_told_to_one_the_other_knows(both: Both) -> None:
    (player,) = players(f"again-{both.word}")
    for event in adult_events(player):
        taken = both.one.post("/v1/events", event).json()
        assert both.other.post("/v1/events", event).json() == taken | {"duplicate": True}
        other = both.other.post("/v1/events", event | {"occurred_at": "2026-01-01T00:00:00Z"})
        assert other.status_code in {409, 422}
    body = {"player_id": player, "request_id": "r1", **PLAIN}
    decided = both.one.post("/v1/decisions", body).json()
    assert both.other.post("/v1/decisions", body).json()["decision_id"] == decided["decision_id"]
    for name in ("action", "propensity", "policy_version"):
        records = [side.get(f"/v1/decisions/{decided['decision_id']}").json()[name] for side in both]
        assert records == [decided[name]] * 2


def test_a_budget_holds_over_both_and_everything_is_in_the_lake_once(shared: Shared) -> None:
    both = Both(*shared.sides.values())
    names = players("budget-", 30)
    for name, side in zip(names, cycle(both), strict=False):
        side.welcome(name)
    with closing(connect(shared.url)) as client:
        for _ in range(5):
            _asked_at_once(both, names, 4)
        given = {key: int(client.get(key)) for key in client.scan_iter("croupier:budget:*")}  # type: ignore[arg-type]
        assert given
        assert max(given.values()) <= BUDGET_MINOR
        wait_until_in_lake(shared.home / "lake", real_now_us(client), PATIENCE)
    for side in both:
        once(shared.home / "lake", "events", "event_id", side.events)
        once(shared.home / "lake", "decisions", "decision_id", side.decisions)
        once(shared.home / "lake", "outcomes", "outcome_id", side.outcomes)
    linked(shared.home / "lake")
