"""Marks planted in a whole house, in good and bad requests and through faults: nothing that it writes holds one."""

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import pytest
import redis
from support import malformed
from support.cluster import free_ports
from support.fault_house import until
from support.marks import ADDRESS, KEY, MAIL, MARKS, NAME, PASSWORD, PLAYER, files_with_marks, found_in
from support.players import adult_events, event, where_it_is_nine

from features.store.deployment import open_house
from features.store.server import store_url

SEALED: Final = frozenset({"store", "lake"})
"""Parts of a home in which personal fields are sealed, or the store's own."""
BEARER: Final = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}


class House(NamedTuple):
    """A house that runs: its home, its port, and what its terminal shows."""

    home: Path
    port: int
    terminal: Path

    def send(self, method: str, path: str, body: bytes = b"", fields: Mapping[str, str] = {}) -> tuple[int, bytes]:
        """Status and body of an answer; 0 where none came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body or None, {**BEARER, **fields})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def post(self, path: str, **body: Any) -> int:
        return self.send("POST", path, json.dumps(body).encode())[0]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house of two serving processes, a worker and a learner, after all that is done to it."""
    folder = tmp_path_factory.mktemp("marks")
    (port,) = free_ports(1)
    house = House(folder / "home", port, folder / "terminal.log")
    words = ["up", "--port", str(port), "--players", "0", "--workers", "2", "--no-screen"]
    environment = {**os.environ, "CROUPIER_HOME": str(house.home), "CROUPIER_KEYS": KEY}
    with house.terminal.open("wb") as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", *words], env=environment, stdout=terminal, stderr=terminal
        )
        try:
            until(lambda: house.send("GET", "/readyz")[0] == 200)
            live(house)
            yield house
        finally:
            process.terminate()
            process.wait()


def live(house: House) -> None:
    """Everything that a caller or a fault can do to a house, with marks in it."""
    good(house)
    written_to(house)
    bad(house)
    broken_off(house)
    poisoned(house)
    silenced(house)
    until(lambda: house.post("/v1/events", **login("after")) == 200)
    commands(house)


def login(name: str, player: str = PLAYER) -> dict[str, Any]:
    return {"type": "login", "event_id": name, "player_id": player, "occurred_at": datetime.now(UTC).isoformat()}


def good(house: House) -> None:
    until(lambda: house.post("/v1/events", **login("e-1")) == 200)
    for number, player in enumerate((PLAYER, MAIL)):
        assert house.post("/v1/events", **login(f"e-2-{number}", player)) == 200
        assert house.post("/v1/decisions", player_id=player, explain=True, deadline_ms=5_000) == 200
        assert house.send("GET", f"/v1/players/{quote(player)}")[0] == 200


def written_to(house: House) -> None:
    """A mail to a player who is called by a mark, at an address that is one: rendered, sent and caught."""
    for told in adult_events(PLAYER, time_zone=where_it_is_nine()):
        assert house.post("/v1/events", **told) == 200
    told = event(PLAYER, "address_changed", kind="mail", address=MAIL, name=NAME)
    assert house.post("/v1/events", **told) == 200
    asked = {"player_id": PLAYER, "purpose": "service", "channels": ["email"], "deliver": True}
    assert house.post("/v1/decisions", **asked) == 200
    until(lambda: MAIL.encode() in house.send("GET", "/inbox-of-the-house")[1])


def bad(house: House) -> None:
    """Marks in every field of every body, as its name, and everywhere else in a request."""
    for path, body in malformed.WHOLE.items():
        for name in body:
            for value in (NAME, [MAIL], {ADDRESS: PLAYER}, f"{PLAYER}\0", f"{PLAYER} {{}}", PLAYER * 50):
                assert 400 <= house.post(path, **body | {name: value, MAIL: ADDRESS}) < 500
        text = json.dumps(body | {"player_id": PLAYER})
        for broken in (text[:-1], text.replace('"', "'"), text + NAME, f'{text[:-1]}, "{MAIL}": NaN}}'):
            assert 400 <= house.send("POST", path, broken.encode())[0] < 500
    for path in (f"/{PLAYER}", f"/v1/players/{MAIL}?{NAME}", f"/v1/decisions/{PLAYER}", f"/v1/reports/{NAME}"):
        house.send("GET", path, fields={"x-name": NAME, "origin": f"http://{ADDRESS}"})
        house.send("POST", path, PLAYER.encode(), {"host": ADDRESS})
        house.send("POST", path, PLAYER.encode(), {"authorization": f"Bearer {PASSWORD}"})
    for raw in (f"GET /{PLAYER} HTTP/{NAME}\r\n\r\n", f"{NAME}\0{MAIL}", f"GET / HTTP/1.1\r\n{KEY}\0: {MAIL}\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", house.port), 10) as made, contextlib.suppress(OSError):
            made.sendall(raw.encode())
            made.recv(65_536)


def broken_off(house: House) -> None:
    """Uploads whose caller leaves in the middle."""
    for path in malformed.WHOLE:
        for body in (json.dumps({"player_id": PLAYER, "email": MAIL}), ""):
            with socket.create_connection(("127.0.0.1", house.port), 10) as made:
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
                made.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{body}".encode())


def asked_of(house: House, player: str) -> set[int]:
    """Statuses of every route that reads or writes a player."""
    occurred = {"occurred_at": datetime.now(UTC).isoformat()}
    outcome = {"outcome_id": f"o-{player}", "type": "unsubscribed", "player_id": player, "channel": "email", **occurred}
    return {
        house.post("/v1/events", **login(f"{os.urandom(4).hex()}", player)),
        house.post("/v1/events", **login(f"{os.urandom(4).hex()}", player) | {"type": "self_excluded"}),
        house.post("/v1/decisions", player_id=player, request_id=f"r-{player}", explain=True),
        house.post("/v1/decisions/batch", requests=[{"player_id": player}]),
        house.post("/v1/outcomes", **outcome),
        house.send("GET", f"/v1/players/{quote(player)}")[0],
    }


def poisoned(house: House) -> None:
    """Whatever the store keeps of a player is nonsense with marks in it: faults in Python and in the store."""
    with redis.Redis.from_url(store_url(house.home)) as store:
        for number, poison in enumerate((f"not what {NAME} should be".encode(), None)):
            player = f"{PLAYER}-{number}"
            asked_of(house, player)
            for key in store.keys(f"*{open_house(store).player_key(player).rpartition('}')[2]}*"):
                if poison is not None:
                    store.set(key, poison)
                elif store.type(key) == b"hash":
                    store.hset(key, mapping=dict.fromkeys(store.hkeys(key), f"{MAIL}\x01"))
            assert any(status >= 500 for status in asked_of(house, player)), "it is a fault"


def silenced(house: House) -> None:
    """A store that is silent, and one that is killed."""
    with redis.Redis.from_url(store_url(house.home)) as store:
        pid = dict(store.info("server"))["process_id"]
    os.kill(pid, signal.SIGSTOP)
    asked_of(house, MAIL)
    os.kill(pid, signal.SIGKILL)
    asked_of(house, MAIL)
    until(lambda: house.send("GET", "/readyz")[0] == 200)


def commands(house: House) -> None:
    """Commands of a user, on the house and on a store whose address has a password."""
    running: list[subprocess.Popen[bytes]] = []
    elsewhere = f"redis://{NAME}:{PASSWORD}@127.0.0.1:1/0"
    for words, store in (
        (["doctor"], None),
        (["settings"], None),
        (["decisions", "show", f"000-{'a' * 24}"], None),
        (["doctor"], elsewhere),
        (["settings"], elsewhere),
        (["worker"], elsewhere),
        (["learn"], elsewhere),
        (["create"], elsewhere),
        (["up", "--port", "22990"], elsewhere),
        (["serve", "--port", "22991"], elsewhere),
        (["verify", "--since", "2026-01-01"], elsewhere),
        (["worker"], f"redis://:{PASSWORD}@127.0.0.1:notaport"),
        (["worker"], f"http://:{PASSWORD}@127.0.0.1"),
    ):
        environment = {**os.environ, "CROUPIER_HOME": str(house.home), "CROUPIER_KEYS": KEY}
        environment |= {} if store is None else {"CROUPIER_STORE": store}
        with house.terminal.open("ab") as terminal:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "pipelines", *words], env=environment, stdout=terminal, stderr=terminal
                )
            )
    for process in running:
        process.wait(180)


def nothing_written_holds_a_mark(lived: House) -> None:
    shown = lived.terminal.read_bytes().replace(NAME.encode() + b":***@", b"")  # the name of a store's user is none
    assert found_in(shown) == []
    assert list(files_with_marks(lived.home, SEALED)) == []
    log = (lived.home / "logs" / "api.log").read_text("utf8")
    assert '"event":"fault"' in log, "there was something to tell"
    assert all(json.loads(line) for line in log.splitlines()), "and it is told line by line"


def no_metric_holds_a_mark(lived: House) -> None:
    for _ in range(8):  # of either process
        status, page = lived.send("GET", "/metrics")
        assert status == 200
        assert found_in(page) == []


def no_answer_tells_a_fault(lived: House) -> None:
    status, answer = lived.send("POST", "/v1/decisions", json.dumps({"player_id": f"{PLAYER}-0"}).encode())
    assert status >= 500
    assert found_in(answer) == []


def nothing_is_open_to_others(lived: House) -> None:
    open_to_others = [
        file
        for file in (lived.home, *lived.home.rglob("*"))
        if not file.is_symlink() and stat.S_IMODE(file.stat().st_mode) & 0o077
    ]
    assert open_to_others == []


def test_nothing_of_a_whole_house_holds_a_mark_or_is_open_to_others(lived: House) -> None:
    """One test, for the house takes more than a minute to live."""
    no_answer_tells_a_fault(lived)
    no_metric_holds_a_mark(lived)
    nothing_written_holds_a_mark(lived)
    nothing_is_open_to_others(lived)


def test_the_marks_are_sought_as_they_would_be_found() -> None:
    assert found_in(b"x " + MARKS[1].upper().encode()) == [MARKS[1]]
