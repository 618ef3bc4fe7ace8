"""Keys by command: made, listed, rotated and revoked; houses that nobody has a key of; the development key."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from support.architecture import ROOT
from support.cluster import free_ports
from support.fault_house import until
from support.keys import bearer, grant

from features.settings.environment import OF_TESTS
from features.store.connection import connect
from features.store.deployment import create_house
from features.store.keys import API_KEYS
from features.store.server import start_server
from models.releases.release import user
from pipelines.machine.development_key import KeyFileRefused, has_live_key, read_key, settle_key
from service.access.keys import DEVELOPMENT_FILE, digest_of, id_of
from service.access.scopes import SCOPES

SENT = re.compile(r"ck_[a-z0-9]{8}_[A-Za-z0-9_-]{43}")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose user has set nothing."""
    for name in [one for one in os.environ if one.startswith("CROUPIER_") and one not in OF_TESTS]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("CROUPIER_HOME", str(home))
    return home


@pytest.fixture
def client(home: Path) -> Iterator[redis.Redis]:
    """The store of a house without keys, while it runs."""
    server = start_server(home)
    found = connect(server.url)
    create_house(found)
    yield found
    found.close()
    server.stop()


def url_of(home: Path) -> str:
    server = start_server(home)
    server.stop()
    return server.url


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *words]
    env = {**os.environ, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)


def listed(*words: str) -> dict[str, Any]:
    found = json.loads(run("keys", *words, "--json").stdout)
    return dict(found)


@pytest.mark.usefixtures("client")
def test_a_key_is_made_shown_once_rotated_revoked_and_stays_in_the_list() -> None:
    made = run("keys", "create", "--scopes", "events, decide", "--label", "crm", "--expires", "90d", "--rate", "50")
    assert SENT.fullmatch(made.stdout.strip()), "the key alone, so that a script can take it"
    key_id = id_of(made.stdout.strip())
    (one,) = listed("list")["keys"]
    told = {name: one[name] for name in ("id", "label", "scopes", "state", "rate", "by", "last_used_at")}
    assert told == {
        "id": key_id,
        "label": "crm",
        "scopes": ["decide", "events"],
        "state": "live",
        "rate": 50,
        "by": user(),
        "last_used_at": None,
    }
    again = listed("rotate", str(key_id), "--keep", "2h")
    assert again["id"] == key_id
    assert again["key"] != made.stdout.strip()
    assert len(listed("list")["keys"][0]["expires_at"]) == 2
    gone = listed("revoke", str(key_id), "--reason", "leaked")
    assert (gone["state"], gone["revoked"]["by"], gone["revoked"]["reason"]) == ("revoked", user(), "leaked")
    shown = run("keys", "list")
    assert "leaked" in shown.stdout
    assert not [secret for secret in (made.stdout.strip(), again["key"]) if secret[12:] in shown.stdout + shown.stderr]


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("create --scopes decide,everything", "there is no scope 'everything'; there are decide, events"),
        ("create --scopes ,", "there is no scope ''"),
        ("create --scopes decide --expires yesterday", "--expires takes a time such as 90d or 12h"),
        ("create --scopes decide --expires 0", "--expires must lie ahead"),
        ("create --scopes decide --expires 2001-01-01", "--expires must lie ahead"),
        ("create --scopes decide --expires 999999999d", "--expires must lie ahead"),
        ("rotate nobody", "there is no key of this id"),
        ("rotate nobody --keep 31d", "--keep takes a time up to 30d"),
        ("revoke nobody --reason x", "there is no key of this id"),
        ("revoke nobody --reason=", "--reason must say why"),
    ],
)
def test_what_cannot_be_done_ends_in_one_sentence(words: str, said: str) -> None:
    done = run("keys", *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"croupier: {said}")
    assert done.stderr.count("\n") == 1


def test_a_house_that_nobody_has_a_key_of_is_not_served(home: Path, client: redis.Redis) -> None:
    def refused(**environment: str) -> str:
        done = run("serve", "--port", str(free_ports(1)[0]), **environment)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        return done.stderr

    assert "this house has no live key: make one by `croupier keys create" in refused()
    grant(client)
    client.hset(API_KEYS, "tests", '{"scopes":["read"],"secrets":[{"sha256":"00","expires_at":1}]}')
    assert "no live key" in refused(), "one that has expired is none"
    for text, said in (
        ("", "is set and holds no key"),
        (",", "an empty key"),
        ("a,a", "twice"),
        ("a, b", "an odd key"),
    ):
        assert said in refused(CROUPIER_KEYS=text)
    grant(client)
    file = home / DEVELOPMENT_FILE
    file.write_text("ck_tests_0\n")
    file.chmod(0o640)
    assert "can be read by others" in refused()


def test_the_development_key_is_made_once_for_a_house_that_has_none_and_nobody_else_can_read_it(
    home: Path, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url_of(home)
    assert not has_live_key(url)
    made = settle_key(home, url)
    assert made is not None
    assert made == read_key(home) == settle_key(home, url)
    assert stat.S_IMODE((home / DEVELOPMENT_FILE).stat().st_mode) == 0o600
    assert has_live_key(url)
    (kept,) = [json.loads(text) for text in client.hgetall(API_KEYS).values()]  # type: ignore[union-attr]
    assert kept["scopes"] == list(SCOPES)
    assert kept["secrets"] == [{"sha256": digest_of(made).hex()}]
    (home / DEVELOPMENT_FILE).unlink()
    other = settle_key(home, url)
    assert other not in {None, made}, "the file of the other was lost"
    client.delete(API_KEYS)
    grant(client)
    assert settle_key(home, url) is None, "the file's key is live no more, and others have keys"
    client.delete(API_KEYS)
    monkeypatch.setenv("CROUPIER_KEYS", "secret")
    assert settle_key(home, url) is None
    monkeypatch.delenv("CROUPIER_KEYS")
    assert settle_key(home, url) == read_key(home) != other


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o601])
def test_a_development_key_that_others_can_read_is_refused(home: Path, mode: int) -> None:
    home.mkdir()
    file = home / DEVELOPMENT_FILE
    file.write_text("ck_abcd_" + "x" * 43)
    file.chmod(mode)
    with pytest.raises(KeyFileRefused, match="can be read by others"):
        read_key(home)
    file.chmod(0o600)
    assert read_key(home)
    file.write_text("secret")
    with pytest.raises(KeyFileRefused, match="holds no key"):
        read_key(home)
    file.unlink()
    assert read_key(home) is None
    file.symlink_to(home / "elsewhere")
    with pytest.raises(KeyFileRefused, match="cannot be read"):
        read_key(home)


def test_up_prints_lines_that_work_as_they_stand_and_the_same_key_at_each_start(home: Path) -> None:
    seen = set()
    for words in (["--players", "8"], []):
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "pipelines", "up", "--no-screen", "--port", str(port), *words]
        log = home.parent / "up.txt"
        with log.open("w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)
        try:
            until(lambda log=log, process=process: log.read_text().count("curl -s") == 4 or process.poll() is not None)  # type: ignore[misc]
            lines = [line for line in log.read_text().splitlines() if line.startswith("curl -s")]
            for line in lines:
                done = subprocess.run(["sh", "-c", f"{line} -w '\\n%{{http_code}}'"], capture_output=True, check=False)  # noqa: S607
                assert done.stdout.endswith(b"\n200"), (line, done.stdout)
            seen |= set(SENT.findall(log.read_text()))
            (key,) = seen
            address = f"http://127.0.0.1:{port}"
            assert httpx.get(f"{address}/v1/keys", headers=bearer(key)).status_code == 200
            assert httpx.get(f"{address}/v1/keys").status_code == 401
        finally:
            process.terminate()
            process.wait()
    assert seen == {read_key(home)}
    assert not [file for file in home.rglob("*.log") if key in file.read_text()]


def test_up_says_that_its_port_is_taken_before_it_starts_anything(home: Path) -> None:
    before = sorted(home.rglob("*"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "pipelines", "up", "--no-screen", "--players", "0", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"port {port} cannot be had" in " ".join(done.stderr.split())
    assert sorted(home.rglob("*")) == before


def test_up_names_no_key_that_is_not_its_own(home: Path, client: redis.Redis) -> None:
    grant(client)
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "pipelines", "up", "--no-screen", "--players", "0", "--port", str(port)]
    log = home.parent / "up.txt"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT) as process:
        until(lambda: "curl" in log.read_text() or process.poll() is not None)
        process.terminate()
    said = log.read_text()
    assert '-H "Authorization: Bearer $KEY"' in said
    assert "no development key is live" in said
    assert not (home / DEVELOPMENT_FILE).exists()
