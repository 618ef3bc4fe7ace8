"""Characters that a terminal obeys instead of showing enter no reason and no label, by whatever door."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from conftest import Opened, Stored
from support.keys import HEADERS

from features.prose import prose
from features.store.deployment import create_house
from models.releases.release import GateRefused, reasoned
from pipelines.backup.manifest import BackupError
from pipelines.backup.restore import accept

UNSEEN = {
    "title": "\x1b]0;gotcha\x07",
    "bell": "a\x07",
    "c1": "\x9b31m",
    "turned": "a\u202eb",
    "joined": "a\u200bb",
    "half": "a\udce9",
}


@pytest.fixture
def house(server: Stored, store: redis.Redis) -> str:
    """Where a house is."""
    create_house(store)
    return server.url


@pytest.mark.parametrize("text", UNSEEN.values(), ids=UNSEEN)
def test_what_cannot_be_seen_is_refused_and_named(text: str, store: redis.Redis) -> None:
    with pytest.raises(ValueError, match=r"^U\+[0-9A-F]{4} is a character that cannot be seen: leave it out$"):
        prose(text)
    with pytest.raises(GateRefused, match="cannot be seen"):
        reasoned(text)
    with pytest.raises(BackupError, match="cannot be seen"):
        accept(store, "somebody", text, datetime.now(UTC))


def test_what_can_be_seen_stays_with_single_blanks() -> None:
    assert prose(" größer\n\t\u3000als 日本 👍 ") == "größer als 日本 👍"


async def test_every_door_of_http_refuses_it(opened: Opened, store: redis.Redis) -> None:
    text = UNSEEN["title"]
    async with opened() as client:
        for method, path, body in (
            ("POST", "/v1/stops", {"reason": text}),
            ("POST", "/v1/keys", {"scopes": ["read"], "label": text}),
            ("POST", "/v1/erasures", {"player_id": "p", "reason": text}),
            ("DELETE", "/v1/stops/abc", None),
            ("DELETE", "/v1/keys/somekey", None),
        ):
            query = {"reason": text} if body is None else None
            answer = await client.request(method, path, json=body, params=query, headers=HEADERS)
            assert (answer.status_code, "U+001B" in answer.json()["detail"]) == (422, True), (path, answer.text)
    assert not [name for name in ("croupier:stops", "croupier:erasures") if store.exists(name)]


@pytest.mark.parametrize(
    "command",
    [
        ["stop", "marketing", "--reason"],
        ["stop", "lift", "abc", "--reason"],
        ["keys", "revoke", "abcdefgh", "--reason"],
        ["keys", "create", "--scopes", "read", "--label"],
        ["erase", "p", "--reason"],
        ["promote", "policy", "--reason"],
        ["restore", "--accept", "--reason"],
    ],
    ids=" ".join,
)
def test_every_command_refuses_it(command: list[str], house: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *command, UNSEEN["title"]],
        env=os.environ | {"CROUPIER_HOME": str(tmp_path), "CROUPIER_STORE": house},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "U+001B is a character that cannot be seen" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
