"""A campaign on a whole house: everybody is decided once, whatever fails, and whoever is killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.flaky_house import Fault, before, busy, canned
from support.keys import KEY
from support.whole_house import whole_house

from features.store.connection import connect
from features.store.keys import DECISIONS
from features.store.server import socket_path
from pipelines.campaigns.answers import AnswerFile, AnswersRefused
from pipelines.campaigns.campaign import Campaign, CampaignRefused, CampaignResult, run

QUIET = Console(quiet=True)
MANY = 1_200
"""Players of more batches than are under way at once."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("campaigns") / "home"


@pytest.fixture(scope="module")
def house(home: Path) -> Iterator[str]:
    with whole_house(home) as address:
        yield address


def decided(home: Path) -> int:
    """How many decisions the house keeps."""
    client = connect(f"unix://{socket_path(home)}")
    try:
        return sum(1 for _ in client.scan_iter(DECISIONS, count=1_000))
    finally:
        client.close()


def names(word: str, count: int) -> list[str]:
    return [f"{word}-{number}" for number in range(count)]


def held(campaign: Campaign, players: list[str], out: Path) -> CampaignResult:
    with AnswerFile(out, campaign.name, campaign.asked) as answers:
        return run(campaign, players, 0, answers, QUIET)


def lines(out: Path) -> dict[str, Any]:
    """Answers by player; that nobody has two."""
    head, *rest = [json.loads(line) for line in out.read_text().splitlines()]
    assert head.keys() == {"campaign", "asked"}
    assert len({one["player_id"] for one in rest}) == len(rest)
    return {one["player_id"]: one for one in rest}


def ids(out: Path) -> dict[str, str]:
    return {player: one["decision"]["decision_id"] for player, one in lines(out).items() if "decision" in one}


def test_everybody_is_decided_once_whatever_fails_on_the_way(house: str, home: Path, tmp_path: Path) -> None:
    players, before_it = names("flaky", 23), decided(home)
    with before(house) as flaky:
        late = {"status": 429, "code": "rate_limited", "title": "Too many requests"}
        some = json.dumps({"answers": [late] * 5}).encode()
        flaky.faults = [
            Fault(forwarded=True),  # decided, and nobody was told
            busy(retry_after="1"),
            Fault(reset=True),
            canned(200, some, content_type="application/json"),
            canned(429, b"slow down"),
        ]
        campaign = Campaign("spring", {"channels": ["email"]}, flaky.url, KEY, at_once=1, batch=5)
        done = held(campaign, players, tmp_path / "out.jsonl")
        bodies = [json.loads(seen.body)["requests"] for seen in flaky.seen]
    assert (done.players, done.decided, done.refused, done.left) == (23, 23, 0, 0)
    assert done.again == {"no_answer": 10, "store_unavailable": 5, "rate_limited": 5, "status_429": 5}
    found = lines(tmp_path / "out.jsonl").values()
    assert done.contacts == sum(one["decision"]["action"] != "NO_CONTACT" for one in found)
    assert all(len(body) <= 5 for body in bodies)
    assert decided(home) == before_it + 23
    # The same campaign into another file gets the same decisions.
    again = held(campaign._replace(address=house, at_once=4), players, tmp_path / "other.jsonl")
    assert (again.decided, again.left) == (23, 0)
    assert ids(tmp_path / "other.jsonl") == ids(tmp_path / "out.jsonl")
    assert decided(home) == before_it + 23


def test_what_the_house_refuses_is_told_and_not_asked_again(house: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = held(Campaign("odd", {}, house, KEY), ["odd-1", "no id {at all}"], out)
    assert (done.decided, done.refused, done.problems) == (1, 1, {"invalid_body": 1})
    assert lines(out)["no id {at all}"]["problem"]["status"] == 422
    again = held(Campaign("odd", {}, house, KEY), ["odd-1", "no id {at all}", "odd-2"], out)
    assert (again.answered_before, again.decided, again.refused) == (2, 1, 0)


def test_a_fault_of_the_house_leaves_a_player_for_the_next_run(house: str, tmp_path: Path) -> None:
    fault = json.dumps({"answers": [{"status": 500, "code": "fault", "title": "Fault"}]}).encode()
    with before(house) as flaky:
        flaky.faults = [canned(200, fault, content_type="application/json")]
        campaign = Campaign("faulty", {}, flaky.url, KEY)
        done = held(campaign, ["faulty-1"], tmp_path / "out.jsonl")
        assert (done.decided, done.refused, done.left, done.problems) == (0, 0, 1, {"fault": 1})
        assert held(campaign, ["faulty-1"], tmp_path / "out.jsonl").decided == 1


def test_a_house_that_never_answers_ends_a_campaign_with_all_who_are_left(tmp_path: Path) -> None:
    campaign = Campaign("silent", {}, "http://127.0.0.1:1", KEY, patience=1.0)
    done = held(campaign, ["silent-1", "silent-2"], tmp_path / "out.jsonl")
    assert (done.decided, done.left) == (0, 2)
    assert done.again["no_answer"] >= 2


def test_a_key_that_the_house_does_not_know_ends_it_with_one_sentence(house: str, tmp_path: Path) -> None:
    with pytest.raises(CampaignRefused, match="answers 401"):
        held(Campaign("keyless", {}, house, "ck_none"), ["keyless-1"], tmp_path / "out.jsonl")


def test_a_killed_campaign_goes_on_and_decides_nobody_twice(house: str, home: Path, tmp_path: Path) -> None:
    file, out, before_it = tmp_path / "players.csv", tmp_path / "out.jsonl", decided(home)
    file.write_text("name;player_id\n" + "".join(f"x;killed-{number}\n" for number in range(MANY)), "utf8")
    command = [sys.executable, "-m", "pipelines", "decide", "--players", str(file), "--out", str(out)]
    command += ["--campaign", "killed", "--address", house, "--json"]
    own = {**os.environ, "CROUPIER_KEY": KEY, "CROUPIER_HOME": str(home)}
    running = subprocess.Popen(command, env=own)
    until = time.monotonic() + 120
    while not out.exists() or out.read_bytes().count(b"\n") < 2:
        assert time.monotonic() < until, "nothing was answered"
    running.kill()
    running.wait()
    answered = out.read_bytes().count(b"\n") - 1
    with out.open("ab") as torn:
        torn.write(b'{"player_id": "killed-59", "deci')
    done = subprocess.run(command, env=own, capture_output=True, check=True)
    told = json.loads(done.stdout)
    assert (told["answered_before"], told["decided"], told["left"]) == (answered, MANY - answered, 0)
    assert answered < MANY == len(ids(out))
    assert decided(home) == before_it + MANY


def test_a_file_of_other_answers_is_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with AnswerFile(out, "one", {}), pytest.raises(AnswersRefused, match="another process"):
        AnswerFile(out, "one", {})
    with pytest.raises(AnswersRefused, match="of campaign 'one'"):
        AnswerFile(out, "two", {})
    with pytest.raises(AnswersRefused, match="of campaign 'one'"):
        AnswerFile(out, "one", {"channels": ["email"]})
    out.write_text("a,b\nc,d\n")
    with pytest.raises(AnswersRefused, match="line 1"):
        AnswerFile(out, "one", {})
    assert out.read_text() == "a,b\nc,d\n"
    with pytest.raises(AnswersRefused, match="cannot be written"):
        AnswerFile(tmp_path / "no" / "out.jsonl", "one", {})
