"""A small house of an earlier build, unpacked somewhere else: today's code opens it and goes on where it stopped.

Its hours pass a thousand times slower than ours, so that its 35 days are not over for a lifetime, and its clock goes on
from where it was frozen.
"""

import json
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest
import redis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from frozen.cases import assert_gives
from frozen.test_readers import show_snapshot
from support.fault_house import linked, once, rows, until
from support.first_journals import policy, promotion, rulebooks
from support.keys import HEADERS

from features.settings.mlflow_file import LearnerSettings
from features.store.connection import connect
from features.store.deployment import House, open_house, real_now_us
from features.store.keys import PlayerKeys
from features.store.server import start_server
from models.releases.registry import ChurnRegistry
from pipelines.audit.period import Period
from pipelines.audit.verify import verify
from pipelines.learning.attribution import RewardTerms as Terms
from pipelines.learning.learner import LearnerProcess
from pipelines.learning.training_log import Training
from pipelines.machine import up
from pipelines.worker.lake import reach
from pipelines.worker.outbox import Outbox
from pipelines.worker.process import Worker
from service.api import routes
from service.api.app import lifespan
from service.contacts.entries import decision_of
from service.contacts.ledger import RedisLedger
from service.contacts.snapshot import NO_DECISION, PlayerSnapshot
from service.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
FROZEN: Final = Path(__file__).parent / "house"
TOLD: Final[dict[str, Any]] = json.loads((FROZEN / "told.json").read_text("utf8"))
LEARNT: Final = LearnerSettings(batch=6, warm_up=12)
"""How it learnt."""
PARTITIONS: Final = 256


@dataclass(frozen=True)
class Opened:
    """The house, opened: its home, its store with a worker, and the application, which runs in another thread."""

    home: Path
    url: str
    client: redis.Redis
    house: House
    portal: BlockingPortal
    app: FastAPI
    http: httpx.AsyncClient

    @property
    def lake(self) -> Path:
        return self.home / "lake"

    def get(self, route: str) -> httpx.Response:
        return self.portal.call(self.http.get, route)

    def post(self, route: str, body: Any = None) -> httpx.Response:
        return self.portal.call(partial(self.http.post, route, json=body))

    def view(self, player: str) -> PlayerSnapshot:
        """A player as the store holds them."""
        ledger: RedisLedger = self.app.state.deps.ledger
        return self.portal.call(ledger.view, PlayerKeys(self.house.player_key(player)), NO_DECISION)


def unpack(place: Path) -> Path:
    with tarfile.open(FROZEN / "home.tar.xz") as packed:
        packed.extractall(place, filter="data")
    return place


def go_on(client: redis.Redis) -> House:
    """Let the house's clock go on from where it was frozen, whatever the day is."""
    frozen = open_house(client)
    since_us = real_now_us(client) - TOLD["frozen_us"]
    client.set(
        "croupier:house", msgspec.json.encode(msgspec.structs.replace(frozen, real_us=frozen.real_us + since_us))
    )
    return open_house(client)


@contextmanager
def stored(home: Path) -> Iterator[str]:
    """The address of the house's store, which runs."""
    server = start_server(home)
    try:
        yield server.url
    finally:
        server.stop()


@contextmanager
def working(url: str, home: Path) -> Iterator[None]:
    """A worker over the house."""
    worker = Worker(url, home / "lake")
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join()


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """The application over the house, and a client of it."""
    app = routes.build(lifespan)
    app.state.settings = Settings.here(url)
    transport = httpx.ASGITransport(app)
    async with (
        lifespan(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60, headers=HEADERS) as client,
    ):
        yield app, client


@contextmanager
def opened(home: Path) -> Iterator[Opened]:
    """The house of a home, prepared as at every start, with all that runs over it."""
    with stored(home) as url, closing(connect(url)) as client:
        go_on(client)
        house = up.prepare(client, up.Options(home, players=0), url)
        with (
            working(url, home),
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(serving(url)) as app,
        ):
            running = Opened(home, url, client, house, portal, *app)
            until(lambda: not running.post("/v1/decisions", {"player_id": "ada", "dry_run": True}).json()["degraded"])
            yield running


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    home = unpack(tmp_path_factory.mktemp("moved") / "another home")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CROUPIER_CATALOGUE", str(home / "catalogue.yaml"))
        environment.setenv("CROUPIER_READ_SECONDS", "20")
        environment.setenv("CROUPIER_HOME", str(home))
        with opened(home) as running:
            yield running


def of(kind: str) -> pytest.MarkDecorator:
    """Parametrises a test with everything of a kind that callers had sent."""
    names = [str(one.get("decision_id") or next(iter(one["body"].values()))) for one in TOLD[kind]]
    return pytest.mark.parametrize("told", TOLD[kind], ids=names)


# --- What callers had sent


@pytest.mark.parametrize("decision_id", TOLD["records"])
def test_a_record_is_explained_as_it_was(house: Opened, decision_id: str) -> None:
    answer = house.get(f"/v1/decisions/{decision_id}")
    assert answer.status_code == 200
    assert_gives(answer.json(), TOLD["records"][decision_id])


@of("decisions")
def test_the_same_request_again_gets_the_recorded_answer(house: Opened, told: dict[str, Any]) -> None:
    answer = house.post("/v1/decisions", told["body"])
    assert answer.status_code == 200
    assert_gives(_without_texts(answer.json()), _without_texts(told["answer"]))


def _without_texts(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without the sentences of its reasons, in which later builds may say more."""
    named = [{key: value for key, value in one.items() if key != "reason"} for one in answer.get("exclusions", [])]
    return {**answer, "exclusions": named}


@of("events")
def test_an_event_that_was_sent_before_is_known_and_its_id_is_taken(house: Opened, told: dict[str, Any]) -> None:
    again = house.post("/v1/events", told["body"])
    assert again.status_code == 200, again.text
    assert_gives(again.json(), told["answer"] | {"duplicate": True})
    other = {**told["body"], "occurred_at": "2026-11-24T10:00:00+00:00"}
    assert house.post("/v1/events", other).json()["code"] == "event_id_reused"


@of("outcomes")
def test_an_outcome_that_was_sent_before_is_known(house: Opened, told: dict[str, Any]) -> None:
    again = house.post("/v1/outcomes", told["body"])
    assert again.status_code == 200, again.text
    assert_gives(again.json(), told["answer"] | {"duplicate": True})


@of("confirms")
def test_what_was_confirmed_or_refused_stays_so(house: Opened, told: dict[str, Any]) -> None:
    again = house.post(f"/v1/decisions/{told['decision_id']}/confirm")
    assert (again.status_code, again.json().get("code")) == (told["status"], told["answer"].get("code"))
    assert_gives(again.json().get("confirmed_at"), told["answer"].get("confirmed_at"))


def test_a_contact_that_was_reserved_can_be_confirmed(house: Opened) -> None:
    answer = house.post(f"/v1/decisions/{TOLD['open']}/confirm")
    assert answer.status_code == 200, answer.text


# --- What holds of players


@pytest.mark.parametrize("player", ["bea", "max"])
def test_an_exclusion_goes_on_holding(house: Opened, player: str) -> None:
    answer = house.post("/v1/decisions", {"player_id": player}).json()
    assert answer["action"] == "NO_CONTACT"
    assert "self_excluded" in {one["rule"] for one in answer["exclusions"]}


def test_consent_that_was_withdrawn_stays_withdrawn(house: Opened) -> None:
    asked = {"player_id": "kim", "channels": ["email"]}
    answer = house.post("/v1/decisions", asked).json()
    assert "consent" in {one["rule"] for one in answer["exclusions"]}


def test_an_id_that_was_linked_is_its_player(house: Opened) -> None:
    device, player = house.get("/v1/players/device-1").json(), house.get("/v1/players/eve").json()
    assert device["facts"] == player["facts"]
    assert TOLD["linked"] in house.view("eve").held.own
    other = {"type": "identify", "event_id": "again", "player_id": "lee", "anonymous_id": "device-1"}
    refused = house.post("/v1/events", other | {"occurred_at": "2026-11-24T11:59:00+00:00"})
    assert refused.json()["code"] == "already_linked"


def test_a_household_holds_the_contacts_of_all_its_members(house: Opened) -> None:
    household = house.view("dan").held.household
    assert household is not None
    assert set(TOLD["household"]) <= {decision_of(name) for name in household}
    assert household == house.view("cleo").held.household


# --- What lies in the lake, and what is learnt from it


def in_lake(house: Opened) -> None:
    """Wait until what was in the log when the house was frozen is in the lake."""
    until(lambda: reach(house.lake).flushed * 1_000 > TOLD["frozen_us"])


def test_the_lake_has_everything_once_and_its_chains_hold(house: Opened) -> None:
    in_lake(house)
    for table, column in (("events", "event_id"), ("outcomes", "outcome_id"), ("decisions", "decision_id")):
        promised = [one["body"][column] if column in one["body"] else one["answer"][column] for one in TOLD[table]]
        once(house.lake, table, column, promised)
        assert len(rows(house.lake, table, column)) >= TOLD["lake"][table]
    linked(house.lake)


def test_every_decision_comes_out_again_as_it_was_logged(house: Opened) -> None:
    in_lake(house)
    told = verify(house.client, house.lake, house.home, Period(0, 4 * 10**15), lambda _: None)
    assert told.first_fault is None
    assert told.chain_ok
    # Another processor than that of the first build may round the last bit of a score otherwise.
    agreeing = told.reproduced + told.not_recomputable.get("other_build", 0)
    assert told.checked == agreeing >= TOLD["lake"]["decisions"]


def test_the_learner_goes_on_from_its_checkpoint(house: Opened) -> None:
    in_lake(house)

    def school() -> Training:
        return Training(house.lake, LEARNT, Terms.read(), 3)

    resumed, afresh = school(), school()
    assert resumed.resume((house.home / "learner" / "checkpoint.msgpack").read_bytes())
    assert resumed.newest is not None
    served = policy.serving(house.client)
    assert served is not None
    assert (resumed.newest.lineage, resumed.newest.number) == (served.lineage, served.number)
    for one in (resumed, afresh):
        for flush in one.waiting():
            one.learn(flush)
    assert afresh.newest is not None
    assert resumed.open == afresh.open
    # Another kind of processor than that of the checkpoint rounds the last digits otherwise.
    assert_gives(show_snapshot(resumed.newest), show_snapshot(afresh.newest), digits=9)
    process = LearnerProcess(house.url, house.home, school(), lambda _: None, lambda _: None)
    process.work()
    process.stop()
    process.run()


# --- What serves


def test_what_was_promoted_serves_and_every_change_is_told(house: Opened) -> None:
    told = TOLD["releases"]
    assert_gives([msgspec.to_builtins(one) for one in promotion.journal(house.client)][:2], told["churn"])
    assert_gives([msgspec.to_builtins(one) for one in policy.history(house.client)][:2], told["policy"])
    assert_gives(json.loads(msgspec.json.encode(rulebooks.history(house.client)[:1])), told["rules"])
    assert rulebooks.serving_rulebook(house.client).hash == told["rules"][0]["rulebook"]
    registry = ChurnRegistry(house.home)
    assert registry.champion() == told["churn"][-1]["version"]
    for entry in told["churn"]:
        assert registry.bundle(entry["version"])
        assert len(registry.test_rows(entry["version"]).churned) == entry["evidence"]["test_rows"]


def test_every_promotion_can_be_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = unpack(tmp_path / "to roll back")
    monkeypatch.setenv("CROUPIER_CATALOGUE", str(home / "catalogue.yaml"))
    monkeypatch.setenv("CROUPIER_HOME", str(home))
    told = TOLD["releases"]
    with opened(home) as running:
        assert promotion.rollback(home, running.url).model_version == told["churn"][0]["version"]
        assert policy.rollback(running.url, told["policy"][0]["version"]).replaced == told["policy"][1]["version"]
        assert rulebooks.rollback(running.url).rulebook == told["rules"][0]["replaced"]
        promotion.settle(home, running.client)
        assert ChurnRegistry(home).champion() == told["churn"][0]["version"]
        served = running.post("/v1/decisions", {"player_id": "ada"}).json()
        assert served["rules_version"] == told["rules"][0]["replaced"]
        assert served["churn"]["model_version"] == told["churn"][0]["version"]


def test_the_report_that_was_published_can_be_read(house: Opened) -> None:
    assert "uplift" in house.get("/reports").text
    assert house.get("/reports/uplift.json").json()["health"]["ok"] is False


def test_senders_who_were_not_told_yet_are_still_owed_it(house: Opened) -> None:
    waiting = Outbox(house.client).look(range(PARTITIONS)).entries
    tried = [entry for entry in waiting if entry.noted]
    assert {entry.noted["crm"].attempts for entry in tried} == {1}  # type: ignore[union-attr]
    assert TOLD["revoked"] in {entry.notice.decision_id for entry in waiting}
