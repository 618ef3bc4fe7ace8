"""Decisions of a real house: shown, replayed, questioned and verified; and whatever was done to their log is named."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
import yaml
from conftest import Opened
from integration.test_explain import churn_bundle
from structlog.contextvars import merge_contextvars
from structlog.testing import LogCapture
from support.callers import among
from support.deadlines import PATIENT
from support.fault_house import Caller, Serving, World
from support.players import adult_events, tell
from support.rule_cases import SERVICE, changed
from support.snapshots import ONE, TWO
from typer.testing import CliRunner

from features.lake.records import beside
from features.moments import micros
from features.read_plan import ReadPlan
from features.store.deployment import open_house
from features.store.keys import BUNDLES, PlayerKeys, bundle_key, decision_key, log_key
from models.releases.journal import serves
from models.releases.release import change, journal, new_release
from pipelines.audit.account import account, denied, replayed, shown
from pipelines.audit.period import AuditRefused, Period
from pipelines.audit.records import find_record
from pipelines.audit.verify import Verified, verify
from pipelines.cli.app import app
from pipelines.experiments import releases as experiments
from pipelines.rules import catalogues, rulebooks
from pipelines.worker.lake import Lake, link, reach
from service.decisions.differences import REASONS
from service.decisions.kept import load_stored
from service.decisions.record import dump_record, load_record

EVER = Period(0, 4 * 10**15)
WHY = "a test"


def verified(world: World, lake: Path | None = None, period: Period = EVER) -> Verified:
    return verify(world.client, lake or world.lake, world.home, period, lambda _: None)


# --- A house with a history


class Story(NamedTuple):
    """A house after all sorts of decisions under several releases: half of them in its lake, half in its log."""

    world: World
    answers: list[dict[str, Any]]

    def of(self, **fields: Any) -> dict[str, Any]:
        """An answer with these fields."""
        return next(one for one in self.answers if all(one.get(name) == value for name, value in fields.items()))


class _Teller:
    """Asks for decisions and keeps what was answered."""

    def __init__(self, world: World, caller: Caller) -> None:
        self.world, self.caller = world, caller
        self.answers: list[dict[str, Any]] = []

    def ask(self, player: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.caller.unless_left_alone(player, **more).json()
        assert answer["recorded"], answer
        self.answers.append(answer)
        return answer

    def rounds(self, players: list[str]) -> None:
        self.world.apply()
        for player in players:
            self.ask(player)
            self.ask(player, request_id=self.caller.fresh("asked"), channels=["email", "push"], explain=True)
            self.ask(player, purpose="service", decision_point="lobby")
            self.ask(player, activate=True, context={"page": "home"})
            dry = self.caller.ask(player, dry_run=True).json()
            assert dry["decision_id"] is None

    def released(self, kind: str, version: str, bundle: bytes) -> None:
        """Let a version serve; returns when the process reports it."""
        client = self.world.client
        entry = new_release(client, kind, "promote", version, serves(journal(client, kind)), reason=WHY)
        change(client, entry, bundle)


def with_budget(folder: Path) -> str:
    """The house's catalogue with a budget that few bonuses exhaust, and no other limit."""
    said = yaml.safe_load((SERVICE / "catalogue.yaml").read_text("utf8"))
    said["caps"], said["gaps"] = [], []
    said["budgets"] = [{"id": "day", "cost_minor": 5_000, "purpose": "bonus"}]
    file = folder / "budget.yaml"
    file.write_text(yaml.safe_dump(said, sort_keys=False), "utf8")
    return str(file)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, plan: ReadPlan) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("story")
    players = [*among("policy")[:4], *among("business_rules")[:2], *among("holdout")[:2]]
    with (
        World(tmp_path_factory.mktemp("house"), plan) as world,
        Serving(world.server.url, folder, **PATIENT) as serving,
        Caller(serving.socket) as caller,
    ):
        teller = _Teller(world, caller)
        for player in (*players, "objects", "device", "linked"):
            caller.welcome(player)
        caller.event("objects", type="objection_changed", objects=True)
        caller.event("device", type="bet", amount_minor=900, product="sports")
        world.apply()
        caller.event("linked", type="identify", anonymous_id="device")
        teller.rounds([*players, "objects", "linked", "device", "nobody"])
        world.flush()
        bundle = churn_bundle()
        teller.released("churn", bundle.version, bundle.dumps())
        teller.released("policy", ONE.version, ONE.dumps())
        teller.rounds(players)
        teller.released("policy", TWO.version, TWO.dumps())
        catalogues.promote(world.server.url, with_budget(folder), WHY)
        teller.rounds(players[:3])
        rulebooks.promote(world.server.url, str(changed(folder, "elders", "age", under=45)), WHY)
        teller.rounds([*players[:3], "objects"])
        world.flush()
        rulebooks.promote(world.server.url, str(SERVICE / "rulebook"), WHY, weaker=True)
        experiments.hold_out(world.server.url, 0.3, WHY)
        many = among("business_rules")[:12]
        for player in set(many) - set(players):
            caller.welcome(player)
        world.apply()
        for turn in range(4):
            for player in many:
                teller.ask(player, purpose="bonus", channels=["in_app", "email"], request_id=f"bonus-{turn}")
        serving.kill()
        serving.again()
        with Caller(serving.socket) as later:
            teller.caller = later
            teller.rounds([*players[:4], "linked"])
        yield Story(world, teller.answers)


def test_every_decision_comes_out_exactly_as_it_was_logged_whatever_was_released_since(story: Story) -> None:
    found = verified(story.world)
    assert found.first_fault is None
    assert (found.checked, found.differences, found.not_recomputable) == (len(story.answers), {}, {})
    assert (found.reproduced, found.erased, found.chain_ok) == (len(story.answers), 0, True)
    records = [find_record(story.world.client, story.world.lake, one["decision_id"]).record for one in story.answers]
    roles = Counter(one.choice.role for one in records)
    assert roles.keys() >= {"drawn", "lost", "holdout", "objected", "priority"}, roles
    assert len({one.versions.catalogue for one in records}) == 2
    assert len({one.versions.rules for one in records}) == 2
    assert {one.versions.churn for one in records} == {None, "croupier-churn/1"}
    assert {ONE.version, TWO.version} <= {one.choice.policy_version for one in records}
    assert any(one.seen.whole is not None for one in records), "rules looked at what linked ids did"


def test_a_part_of_the_log_is_verified_from_the_links_before_it(story: Story) -> None:
    moments = sorted(load_record(body).at_us for body in _bodies(story.world.lake))
    middle = moments[len(moments) // 2]
    before, after = (verified(story.world, period=one) for one in (Period(0, middle), Period(middle, 4 * 10**15)))
    assert before.first_fault is after.first_fault is None
    assert before.checked + after.checked == len(story.answers)
    assert before.checked == len([at for at in moments if at < middle])


def _bodies(lake: Path) -> list[bytes]:
    files = sorted(lake.glob("decisions/*/*.parquet"))
    return [body for file in files for body in pq.read_table(file)["record"].to_pylist()]


def test_a_decision_is_found_in_the_store_else_in_the_log_else_in_the_lake(story: Story) -> None:
    client, lake = story.world.client, story.world.lake
    explained = next(one for one in story.answers if "candidates" in one)["decision_id"]
    assert find_record(client, lake, explained).where == "store"
    for number, where in ((0, "lake p"), (-1, "log p")):
        name = story.answers[number]["decision_id"]
        key = decision_key(name)
        held = client.get(key)
        assert isinstance(held, bytes)
        there = find_record(client, lake, name)
        client.delete(key)
        searched = find_record(client, lake, name)
        client.set(key, held)
        assert there == searched
        assert there.where.startswith(f"{where}{name[:3]}:")
        assert there.record.decision_id == name
    for unknown in ("999-" + "a" * 24, "junk", "000-" + "a" * 24):
        with pytest.raises(AuditRefused, match=unknown):
            find_record(client, lake, unknown)


def test_what_was_erased_is_said_to_be(story: Story) -> None:
    client, name = story.world.client, story.answers[0]["decision_id"]
    key = PlayerKeys(find_record(client, story.world.lake, name).record.player).seal
    held = client.get(key)
    assert isinstance(held, bytes)
    try:
        client.delete(key)
        found = verified(story.world)
        asked = account(client, story.world.lake, None, name)
        assert replayed(asked)["verdict"] == "erased"
        told = shown(client, asked)
        assert (told["erased"], told["personal"], told["player_id"]) == (True, None, None)
    finally:
        client.set(key, held)
    assert found.first_fault is None
    assert found.erased > 0
    assert found.reproduced + found.erased == len(story.answers)


def test_what_is_no_longer_kept_is_said_and_never_counted_as_reproduced(story: Story) -> None:
    client = story.world.client
    digest = client.hget(BUNDLES, ONE.version)
    assert isinstance(digest, bytes)
    held = client.get(bundle_key(digest.decode()))
    assert isinstance(held, bytes)
    try:
        client.delete(bundle_key(digest.decode()))
        found = verified(story.world)
    finally:
        client.set(bundle_key(digest.decode()), held)
    assert found.first_fault is None
    assert list(found.not_recomputable) == ["policy_not_kept"]
    assert found.reproduced + found.not_recomputable["policy_not_kept"] == len(story.answers)


# --- Commands


@pytest.fixture
def run(story: Story, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command in the home of the story's house; what it prints."""
    monkeypatch.setenv("CROUPIER_HOME", str(story.world.home))
    monkeypatch.setenv("CROUPIER_STORE", story.world.server.url)

    def of(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == code, (done.output, done.exception)
        return done.stdout

    return of


def test_a_decision_is_shown_in_words_and_for_machines(story: Story, run: Callable[..., str]) -> None:
    for role in ("drawn", "lost", "holdout", "objected", "priority"):
        records = [one["decision_id"] for one in story.answers]
        client, lake = story.world.client, story.world.lake
        name = next(one for one in records if find_record(client, lake, one).record.choice.role == role)
        told = json.loads(run("decisions", "show", name, "--json"))
        words = " ".join(run("decisions", "show", name).split())
        assert (told["decision_id"], told["role"]) == (name, role)
        assert told["found"].split()[0] in {"store", "log", "lake"}
        assert told["player"] in words
        assert told["at"] in words
        assert told["versions"]["rules"] in words
        assert told["policy_version"] in words
        for one in told["exclusions"]:
            assert one["rule"][:20] in words
            assert one["actions"] > 0
    drawn = next(one for one in story.answers if one["action"] != "NO_CONTACT")
    assert drawn["action"]["offer"]["name"] in " ".join(run("decisions", "show", drawn["decision_id"]).split())


def test_a_replay_ends_with_code_1_where_something_comes_out_otherwise(story: Story, run: Callable[..., str]) -> None:
    client, name = story.world.client, next(one for one in story.answers if "candidates" in one)["decision_id"]
    assert "reproduced" in run("decisions", "replay", name)
    key = decision_key(name)
    held = client.get(key)
    assert isinstance(held, bytes)
    record = load_stored(held).record
    assert record is not None, "asked to be explained, it is kept whole"
    place = held[: -len(dump_record(record))]
    moved = msgspec.structs.replace(record, choice=msgspec.structs.replace(record.choice, propensity=0.25))
    try:
        client.set(key, place + dump_record(moved))
        told = json.loads(run("decisions", "replay", name, "--json", code=1))
        assert "choice.propensity" in run("decisions", "replay", name, code=1)
        found = verified(story.world)
    finally:
        client.set(key, held)
    (difference,) = told["differences"]
    assert difference == {
        "field": "choice.propensity",
        "recorded": "0.25",
        "recomputed": str(record.choice.propensity),
    }
    assert (told["verdict"], told["not_recomputed"]) == ("differs", [])
    assert found.first_fault is not None
    assert (found.first_fault.decision_id, found.first_fault.what) == (
        name,
        "it is not the decision that the store has",
    )


def test_what_stood_against_an_action_is_said(story: Story, run: Callable[..., str]) -> None:
    client, lake = story.world.client, story.world.lake
    for answer in story.answers:
        asked = account(client, lake, None, answer["decision_id"])
        every = denied(asked, None)
        excluded = asked.record.choice.excluded
        assert {one["rule"] for one in every["against"]} == excluded.keys()
        assert len(every["eligible"]) + 1 == len(asked.record.choice.scores) // 8
        catalogue = asked.catalogue
        assert catalogue is not None
        offer = catalogue.offers[0]
        one = denied(asked, f"{offer.id}/email/evening")
        bit = 1 << (8 * len(asked.record.choice.mask) - 1 - catalogue.place(offer.id, "email", "evening"))
        against = {name for name, bits in excluded.items() if int.from_bytes(bits, "big") & bit}
        assert {found["rule"] for found in one["against"]} == against
        assert (one["standing"] == "excluded") is bool(against)
        drawn = denied(asked, every["drawn"]["action"])
        lost = asked.record.action is None and every["drawn"]["action"] != "NO_CONTACT"
        assert drawn["standing"] == ("lost" if lost else "chosen")
        assert drawn["this"]["probability"] == asked.record.choice.propensity
    name = story.answers[0]["decision_id"]
    assert "Denied before anything was drawn" in run("decisions", "why-not", name)
    assert "probability" in run("decisions", "why-not", name, "NO_CONTACT")
    kinds = {one["kind"] for answer in story.answers for one in denied(_of(story, answer), None)["against"]}
    assert kinds >= {"rule", "limit", "experiment", "request", "house"}
    for wrong, why in (("free_lunch/email/evening", "is no offer"), ("x/y", "offer/channel/timing_slot")):
        refused = CliRunner().invoke(app, ["decisions", "why-not", name, wrong])
        assert isinstance(refused.exception, AuditRefused)
        assert why in str(refused.exception)


def _of(story: Story, answer: dict[str, Any]) -> Any:
    return account(story.world.client, story.world.lake, None, answer["decision_id"])


def test_verify_counts_for_people_and_for_machines(story: Story, run: Callable[..., str]) -> None:
    told = json.loads(run("verify", "--since", "1d", "--json"))
    assert told.keys() >= {"checked", "reproduced", "chain_ok", "first_fault"}
    assert (told["checked"], told["reproduced"]) == (len(story.answers), len(story.answers))
    words = " ".join(run("verify", "--since", "1d", "--until", "0h").split())
    assert f"{len(story.answers)} came out exactly as they were logged" in words
    assert "The chain of the log holds." in words
    assert json.loads(run("verify", "--since", "2d", "--until", "1d", "--json"))["checked"] == 0
    with pytest.raises(AuditRefused, match="--until takes 7d"):
        CliRunner().invoke(app, ["verify", "--since", "1d", "--until", "noon"], catch_exceptions=False)


def test_the_page_for_officers_tells_every_reason_and_all_that_a_verification_says(run: Callable[..., str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text("utf8")
    told = json.loads(run("verify", "--since", "1d", "--json"))
    assert all(f"`{key}`" in page for key in told.keys() - {"since", "until"})
    assert all(f"`{reason}`" in page for reason in REASONS)


# --- What was done to the log


@pytest.fixture
def filled(world: World, caller: Caller) -> World:
    """A small house: decisions of two players in two flushes, and some more in the log."""
    for player in ("p1", "p2"):
        caller.welcome(player)
    world.apply()
    for _ in range(3):
        for player in ("p1", "p2"):
            for _ in range(3):
                caller.unless_left_alone(player)
        if len(list(world.lake.glob("decisions/*/*.parquet"))) < 2:
            world.flush()
    assert verified(world).first_fault is None
    return world


def rows(lake: Path, name: str) -> tuple[Path, list[dict[str, Any]], list[int]]:
    """The last file of decisions, its rows, and where among them those of a partition are."""
    file = max(lake.glob("decisions/*/*.parquet"))
    found = pq.read_table(file).to_pylist()
    return file, found, [at for at, row in enumerate(found) if row["position"].startswith(name)]


def written(file: Path, found: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(found, schema=pq.read_schema(file)), file, compression="zstd")


def partition_of(world: World, player: str) -> str:
    return open_house(world.client).player_key(player)[1:5]


def one_byte(row: dict[str, Any]) -> None:
    """Flip one byte of a record's sealed part, which no number is made of."""
    record = load_record(row["record"])
    at = row["record"].index(record.sealed) + len(record.sealed) // 2
    row["record"] = row["record"][:at] + bytes([row["record"][at] ^ 1]) + row["record"][at + 1 :]


@pytest.mark.parametrize("kept", [True, False], ids=["still in the store", "in the table alone"])
@pytest.mark.parametrize(
    "what",
    [
        *("one byte", "a row less", "the last row less", "a column", "a link"),
        *("a row more", "a row more, with a link", "a row more, with the link before"),
    ],
)
def test_what_was_done_to_the_lake_is_named(filled: World, tmp_path: Path, what: str, kept: bool) -> None:  # noqa: FBT001
    lake = tmp_path / "done to"
    shutil.copytree(filled.lake, lake)
    name = partition_of(filled, "p1")
    file, found, mine = rows(lake, name)
    first, *_, middle, last = (found[at] for at in mine)  # two players may share a partition
    ids = [row["decision_id"] for row in found]
    named, says = middle, ""
    if what == "one byte":
        one_byte(middle)
        says = "the row is not as it was written"
    elif what == "a row less":
        found.remove(middle)
        named, says = (middle, "its row is gone from the") if kept else (last, "rows before it are gone")
    elif what == "the last row less":
        found.remove(last)
        named, says = (last, "its row is gone from the table") if kept else (middle, "rows after this one are gone")
    elif what.startswith("a row more"):
        links = {"a row more, with a link": link(middle["chain"], first["record"]), "a row more": bytes(32)}
        told_link = links.get(what, middle["chain"])
        more = dict(middle, record=first["record"], position=f"{middle['position']}9", chain=told_link)
        found.insert(found.index(middle) + 1, more)
        named = more
        says = "stands in the log twice" if what == "a row more, with a link" else "the row was put in"
    elif what == "a column":
        middle["propensity"] = 0.5
        says = "columns of the lake are not those of its record: propensity"
    else:
        middle["chain"] = bytes(32)
        says = "the link of the row is not that of its record"
    written(file, found)
    if not kept:
        filled.client.delete(*map(decision_key, ids))
        for beside in lake.glob("decisions/*/*.records"):
            beside.unlink()
    told = verified(filled, lake)
    assert not told.chain_ok
    assert told.first_fault is not None
    assert told.first_fault.partition == int(name[1:])
    assert told.first_fault.stream_id == named["position"][5:]
    assert says in told.first_fault.what


def test_a_file_that_cannot_be_read_is_named(filled: World, tmp_path: Path) -> None:
    lake = tmp_path / "done to"
    shutil.copytree(filled.lake, lake)
    file = max(lake.glob("decisions/*/*.parquet"))
    file.write_bytes(file.read_bytes()[:-8])
    told = verified(filled, lake)
    assert told.first_fault is not None
    assert told.first_fault.stream_id == file.stem
    assert "cannot be read" in told.first_fault.what


def again(world: World, key: str, entries: list[Any]) -> None:
    """Write a log anew."""
    world.client.delete(key)
    for stream_id, fields in entries:
        world.client.xadd(key, fields, id=stream_id)


@pytest.mark.parametrize("what", ["one byte", "a row less", "a row less, silently", "a row more", "a row twice"])
def test_what_was_done_to_the_log_is_named(filled: World, what: str) -> None:
    partition = int(partition_of(filled, "p1")[1:])
    key = log_key(partition)
    client: Any = filled.client
    entries = [one for one in client.xrange(key) if one[1][b"k"] == b"decision"]
    stream_id, fields = entries[-2]
    name = load_record(fields[b"b"]).decision_id
    if what == "one byte":
        row = {"record": fields[b"b"]}
        one_byte(row)
        again(filled, key, [*entries[:-2], (stream_id, {**fields, b"b": row["record"]}), entries[-1]])
        says = "comes out otherwise: sealed"
    elif what == "a row less":
        client.xdel(key, stream_id)
        says = "an entry was taken out of the log"
    elif what == "a row less, silently":
        again(filled, key, [*entries[:-2], entries[-1]])
        says = "its row is gone from the log"
    else:
        record = load_record(fields[b"b"])
        forged = msgspec.structs.replace(record, decision_id=f"{record.decision_id[:4]}{'b' * 24}")
        body = fields[b"b"] if what == "a row twice" else dump_record(forged)
        stream_id = client.xadd(key, {**fields, b"b": body})
        name = record.decision_id if what == "a row twice" else forged.decision_id
        says = "stands in the log twice" if what == "a row twice" else "comes out otherwise"
    told = verified(filled)
    assert not told.chain_ok
    assert told.first_fault is not None
    assert (told.first_fault.partition, told.first_fault.stream_id) == (partition, stream_id.decode())
    assert told.first_fault.decision_id in {name, None}
    assert says in told.first_fault.what


def test_a_worker_that_goes_on_writing_takes_nothing_from_a_verification(
    filled: World, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    seen = reach

    def reached(folder: Path) -> Any:
        """The reach of the lake, which grows between two looks."""
        if len(flushed) < 3:
            flushed.append(caller.unless_left_alone("p1").json()["decision_id"])
            Lake(filled.client, filled.lake).flush()
        return seen(folder)

    before = len(caller.decisions)
    monkeypatch.setattr("pipelines.audit.verify.reach", reached)
    told = verified(filled)
    assert told.first_fault is None
    assert (told.checked, told.reproduced) == (before + 3, before + 3)
    assert set(flushed) < set(caller.decisions)


# --- Log lines


@pytest.mark.usefixtures("worker")
async def test_every_log_line_of_a_decisions_request_names_it(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = LogCapture()
    structlog.configure(processors=[merge_contextvars, lines])
    try:
        async with opened() as client:
            await tell(client, adult_events("p1"))
            body = {"player_id": "p1", "request_id": "r1"}
            made = (await client.post("/v1/decisions", json=body)).json()["decision_id"]
            lines.entries.clear()
            for route in (f"/v1/decisions/{made}", f"/v1/decisions/{made}/confirm"):
                monkeypatch.setattr("service.api.decisions.find_record", lambda *_: 1 / 0)
                monkeypatch.setattr("service.decisions.confirm.load_stored", lambda _: 1 / 0)
                method = client.post if route.endswith("confirm") else client.get
                assert (await method(route)).status_code == 500
            monkeypatch.setattr("service.decisions.decide.load_stored", lambda _: 1 / 0)
            assert (await client.post("/v1/decisions", json=body)).status_code == 500
            monkeypatch.setattr("service.decisions.outcomes.load_stored", lambda _: 1 / 0)
            outcome = {"outcome_id": "o1", "decision_id": made, "type": "sent", "occurred_at": "2026-01-01T00:00:00Z"}
            outcome |= {"type": "unsubscribed"}
            assert (await client.post("/v1/outcomes", json=outcome)).status_code == 500
            assert (await client.get("/v1/decisions/p1-or-whatever-a-caller-writes")).status_code == 404
            monkeypatch.setattr("service.api.players.read_player", lambda *_: 1 / 0)
            assert (await client.get("/v1/players/p1")).status_code == 500
    finally:
        structlog.reset_defaults()
    faults = [one for one in lines.entries if one["event"] == "fault"]
    assert [one.get("decision_id") for one in faults] == [made, made, made, made, None]


def strays(lake: Path) -> dict[str, Path]:
    """Files that no flush left, as somebody might leave them."""
    (file, *_) = sorted(lake.glob("decisions/*/*.parquet"))
    first, last = file.stem.split("-")
    found = {
        "records of no flush": file.with_name(f"_0-{int(last) + 1}.records"),
        "a table by another name": file.with_name("notes.parquet"),
        "a flush beyond the lake": file.with_name(f"{first}-{reach(lake).flushed + 5_000}.parquet"),
    }
    for place in found.values():
        shutil.copy(beside(file) if place.suffix == ".records" else file, place)
    return found


def test_files_that_no_flush_left_are_named(filled: World) -> None:
    assert verified(filled).chain_ok
    for what, file in strays(filled.lake).items():
        others = [one for one in strays(filled.lake).values() if one != file]
        for one in others:
            one.unlink()
        told = verified(filled)
        assert not told.chain_ok, what
        file.unlink()
    assert verified(filled).chain_ok


def test_what_the_lake_says_of_its_reach_does_not_hide_what_is_there(filled: World) -> None:
    place = filled.lake / "_position.json"
    told = place.read_bytes()
    place.unlink()
    assert not verified(filled).chain_ok
    place.write_bytes(told)
    assert verified(filled).chain_ok


def test_the_moment_at_which_a_decision_became_known_is_held_against_the_store(filled: World, tmp_path: Path) -> None:
    lake = tmp_path / "copy"
    shutil.copytree(filled.lake, lake)
    file = max(lake.glob("decisions/*/*.parquet"))
    found = pq.read_table(file).to_pylist()
    found[0]["known_at"] += timedelta(hours=1)
    written(file, found)
    told = verified(filled, lake)
    assert told.first_fault is not None
    assert told.first_fault.what == "columns of the lake are not those of its record: known_at"


def test_columns_of_a_contact_are_held_where_there_is_none(story: Story, tmp_path: Path) -> None:
    lake = tmp_path / "copy"
    shutil.copytree(story.world.lake, lake)
    file = max(lake.glob("decisions/*/*.parquet"))
    found = pq.read_table(file).to_pylist()
    next(row for row in found if row["offer"] is None)["offer"] = "free_bet"
    written(file, found)
    told = verified(story.world, lake)
    assert told.first_fault is not None
    assert told.first_fault.what == "columns of the lake are not those of its record: offer"


def test_a_period_hangs_on_the_links_that_came_after_it(filled: World, tmp_path: Path) -> None:
    """Of other days nothing is recomputed, but a row of them that was changed is named."""
    lake = tmp_path / "copy"
    shutil.copytree(filled.lake, lake)
    *_, file = sorted(lake.glob("decisions/*/*.parquet"))
    day = date.fromisoformat(file.parent.name[4:])
    later = file.parent.with_name(f"day={day + timedelta(days=5)}")
    later.mkdir()
    moved = later / file.name
    beside(file).replace(beside(moved))
    file.replace(moved)
    days = Period(*(micros(datetime.combine(day + timedelta(days=n), time(), UTC)) for n in (0, 1)))
    sound = verified(filled, lake, days)
    found = pq.read_table(moved).to_pylist()
    found[0]["record"] = found[0]["record"][:-1] + bytes([found[0]["record"][-1] ^ 1])
    written(moved, found)
    told = verified(filled, lake, days)
    assert (sound.chain_ok, told.chain_ok) == (True, False)
    assert told.checked == sound.checked


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--since", "2020-02-01", "--until", "2020-01-01"), "nothing lies between"),
        (("--since", "9999-01-01"), "nothing lies between"),
        (("--since", "7d", "--lake", "/nowhere"), "there is no lake at /nowhere"),
    ],
)
def test_nothing_verified_is_not_told_as_sound(
    story: Story, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.setenv("CROUPIER_HOME", str(story.world.home))
    monkeypatch.setenv("CROUPIER_STORE", story.world.server.url)
    done = CliRunner().invoke(app, ["verify", *words])
    assert isinstance(done.exception, AuditRefused)
    assert sentence in str(done.exception)
