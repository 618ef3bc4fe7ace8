"""The client against a whole house: its README block by block, both clients alike, answers lost on the way."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from croupier_client import (
    NO_CONTACT,
    Accepted,
    AsyncCroupier,
    Croupier,
    Decision,
    IdReused,
    NotAllowed,
    NotFound,
    NotSent,
    NotValid,
    Ready,
    Unavailable,
)
from support.flaky_house import Fault, FlakyHouse, before, busy
from support.whole_house import whole_house

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "clients" / "python" / "README.md").read_text("utf8")
SCOPES: Final = "decide,events,outcomes,read,personal,operate,admin"
LOST: Final = Fault(forwarded=True, reset=True)
"""The house does it, and its answer is lost on the way."""


class Opened(NamedTuple):
    """A house that runs, and a key that allows everything."""

    home: Path
    url: str
    key: str

    def command(self, *words: str) -> str:
        """What a command prints."""
        environment = {**os.environ, "CROUPIER_HOME": str(self.home)}
        command = [sys.executable, "-m", "pipelines", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    home = tmp_path_factory.mktemp("client") / "home"
    with whole_house(home) as url:
        made = json.loads(Opened(home, url, "").command("keys", "create", "--scopes", SCOPES, "--json"))
        yield Opened(home, url, made["key"])


class Asking:
    """Either client as one that answers: the methods of the one that is awaited are run to their end."""

    def __init__(self, croupier: Croupier | AsyncCroupier, loop: asyncio.Runner | None) -> None:
        self._croupier, self._loop = croupier, loop

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._croupier, name)
        if self._loop is None:
            return method
        loop = self._loop

        def awaited(*given: Any, **named: Any) -> Any:
            async def run() -> Any:
                return await method(*given, **named)

            return loop.run(run())

        return awaited


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Asked(NamedTuple):
    """A client before a house that fails when it is told to."""

    croupier: Any
    flaky: FlakyHouse
    player: str


@pytest.fixture
def asked(opened: Opened, kind: str, request: pytest.FixtureRequest) -> Iterator[Asked]:
    with ExitStack() as stack:
        flaky = stack.enter_context(before(opened.url))
        name = f"{request.node.originalname[5:40]}-{kind}"
        if kind == "sync":
            yield Asked(Asking(stack.enter_context(Croupier(flaky.url, opened.key)), None), flaky, name)
            return
        loop = stack.enter_context(asyncio.Runner())
        made = AsyncCroupier(flaky.url, opened.key)
        yield Asked(Asking(made, loop), flaky, name)
        loop.run(made.close())


def known(croupier: Any, player: str) -> str:
    """Make a player known who lives where it is about noon, so that much may be sent now; the last event's position."""
    east = 12 - datetime.now(UTC).hour
    croupier.event("registered", player, jurisdiction="MT", time_zone=f"Etc/GMT{-east:+d}", birth_date="1984-03-09")
    croupier.event("kyc_verified", player)
    for channel in ("in_app", "push", "email"):
        croupier.event("consent_changed", player, channel=channel, granted=True)
    return str(croupier.event("deposit", player, status="approved", method="card", amount_minor=5_000).position)


def contacted(croupier: Any, prefix: str) -> Decision:
    """A decision with a contact that may be sent now; whom the draw leaves alone, or puts off, is passed by."""
    for number in range(60):
        player = f"{prefix}-{number}"
        decision = croupier.decide(player, channels=["in_app"], after=known(croupier, player))
        if decision.contact and decision.contact.send_at <= datetime.now(UTC) + timedelta(seconds=30):
            return decision  # type: ignore[no-any-return]
    raise AssertionError("no contact was drawn that may be sent now")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_every_block_of_the_readme_runs(opened: Opened, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """In order, over the house; a contact is confirmed of somebody whom the draw did not pass by."""
    monkeypatch.setenv("CROUPIER_URL", opened.url)
    monkeypatch.setenv("CROUPIER_KEY", opened.key)
    python, space = blocks("python"), dict[str, Any]()
    assert len(python) > 8
    for block in python:
        exec(compile(block, "README.md", "exec"), space)  # noqa: S102 - it is what is tested
    with space["croupier"] as croupier:
        (confirming,) = [block for block in python if "croupier.confirm(" in block]
        space["decision"] = contacted(croupier, "readme")
        exec(compile(confirming, "README.md", "exec"), space)  # noqa: S102
        shown = capsys.readouterr().out
        assert "send it by" in shown
    assert "do not send" not in shown.partition("send it by")[2]
    assert "/channels/0" in shown
    assert "False True" in shown


def test_every_command_of_the_readme_is_one(opened: Opened) -> None:
    """What installs the client is run where its wheel is tested."""
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    install, create = commands
    assert install == "pip install ./clients/python"
    assert create.startswith("croupier keys create")
    assert "ck_" in opened.command(*create.split()[1:])


def test_a_player_from_unknown_to_erased(asked: Asked) -> None:
    croupier, _, player = asked
    ready = croupier.ready()
    assert isinstance(ready, Ready)
    assert ready.ready
    assert ready.clock is not None
    assert abs(ready.clock.now - datetime.now(UTC)) < timedelta(minutes=1)
    alone = croupier.decide(player)
    assert (alone.action, alone.contact, alone.propensity) == (NO_CONTACT, None, 1.0)
    assert alone.exclusions
    decision = contacted(croupier, player)
    name = decision.player_id
    assert 0 < (decision.propensity or 0) < 1
    record = croupier.decision(decision.decision_id)
    assert record.contact == decision.contact
    assert record.player_id == name
    assert record.at.tzinfo is not None
    assert sum(one.probability for one in record.eligible) == pytest.approx(1)
    leave = croupier.confirm(decision)
    assert leave.send_at <= leave.send_by
    assert croupier.outcome("delivered", decision).duplicate is False
    tried = croupier.decide(name, dry_run=True, explain=True)
    assert tried.candidates.all >= tried.candidates.eligible
    assert croupier.erase(name, "asked by letter").already is False
    assert croupier.erase(name, "asked by letter").already is True
    with pytest.raises(NotFound):
        croupier.export(f"{player}-nobody")


def test_one_bad_item_spoils_nothing(asked: Asked) -> None:
    croupier, _, player = asked
    answers = croupier.decide_many([{"player_id": player}, {"player_id": "no id"}, {"player_id": f"{player}-2"}])
    assert [type(one) for one in answers] == [Decision, NotValid, Decision]
    assert [one.player_id for one in answers if isinstance(one, Decision)] == [player, f"{player}-2"]
    told = croupier.events([{"type": "login", "player_id": player}, {"type": "nap", "player_id": player}])
    assert [type(one) for one in told] == [Accepted, NotValid]
    assert told[1].id


def test_refusals_are_what_they_say(asked: Asked, opened: Opened) -> None:
    croupier, _, player = asked
    at = datetime.now(UTC)
    croupier.event("login", player, event_id="mine", occurred_at=at)
    assert croupier.event("login", player, event_id="mine", occurred_at=at).duplicate
    with pytest.raises(IdReused) as reused:
        croupier.event("login", player, event_id="mine", occurred_at=at - timedelta(seconds=1))
    assert (reused.value.code, reused.value.id) == ("event_id_reused", "mine")
    with pytest.raises(NotFound) as missing:
        croupier.confirm("001-" + "a" * 24)
    assert missing.value.code == "unknown_decision"
    known(croupier, player)
    lost = contacted(croupier, player)
    croupier.event("self_excluded", lost.player_id)
    with pytest.raises(NotSent) as refused:
        croupier.confirm(lost)
    assert refused.value.code == "revoked"
    with Croupier(opened.url, "ck_nobody_" + "0" * 48) as stranger, pytest.raises(NotAllowed):
        stranger.decide(player)


def test_what_is_done_and_lost_on_the_way_is_done_once(asked: Asked) -> None:
    """Each write meets a house that does it and whose answer is lost, twice, and one that is busy meanwhile."""
    croupier, flaky, prefix = asked
    due = contacted(croupier, prefix)
    player = due.player_id
    flaky.faults = [LOST, busy(), LOST]
    assert croupier.event("bet", player, amount_minor=100, product="casino").duplicate, "the first attempt was taken"
    flaky.seen.clear()
    flaky.faults = [LOST, LOST]
    decision = croupier.decide(player, channels=["email"])
    (name,) = {json.loads(one.body)["request_id"] for one in flaky.seen}
    assert len(flaky.seen) == 3
    assert croupier.decide(player, channels=["email"], request_id=name).decision_id == decision.decision_id
    flaky.faults = [LOST]
    assert croupier.confirm(due) == croupier.confirm(due)
    flaky.faults = [LOST, LOST]
    assert croupier.outcome("delivered", due).duplicate
    held = croupier.export(player)
    assert [one["type"] for one in held.events].count("bet") == 1
    assert [one["type"] for one in held.outcomes].count("delivered") == 1
    assert {one["decision_id"] for one in held.decisions} == {due.decision_id, decision.decision_id}
    assert len(held.decisions) == 2
    flaky.faults = [LOST]
    assert croupier.erase(player, "asked by letter").already


def test_a_key_whose_secret_was_lost_on_the_way_is_one_key_with_a_secret_that_works(
    asked: Asked, opened: Opened
) -> None:
    croupier, flaky, player = asked
    flaky.faults = [LOST, LOST]
    made = croupier.create_key(["events"], label=player)
    assert made.key not in repr(made)
    with Croupier(opened.url, made.key) as other:
        other.event("login", player)
    assert [key.id for key in croupier.keys() if key.label == player] == [made.id]  # noqa: SIM118 - no mapping
    assert croupier.revoke_key(made.id, "tried").state == "revoked"
    with pytest.raises(IdReused):
        croupier.create_key(["events"], key_id=made.id)


def test_a_stop_holds_and_is_lifted(asked: Asked) -> None:
    croupier, flaky, _ = asked
    flaky.faults = [LOST]
    stop = croupier.stop("wrong link", channel="call")
    assert stop.already, "the first attempt made it"
    assert stop.id in {one.id for one in croupier.stops().standing}
    flaky.faults = [LOST]
    assert croupier.lift(stop.id, "mended").lifted is not None
    assert stop.id not in {one.id for one in croupier.stops().standing}


def test_a_house_that_is_busy_for_a_second_is_waited_for(asked: Asked) -> None:
    croupier, flaky, player = asked
    flaky.faults = [busy(retry_after="1")]
    assert croupier.event("login", player).position
    flaky.faults = [busy(retry_after="60")]
    with pytest.raises(Unavailable):
        croupier.event("login", player)
