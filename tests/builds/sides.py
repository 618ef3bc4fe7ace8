"""Run the commands and call the API of two builds on one house."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

import httpx
from support.cluster import free_ports
from support.deadlines import PATIENT
from support.fault_house import PATIENCE, Caller, players, until
from support.first_build import lines
from support.keys import HEADERS
from support.players import adult_events

from benchmarks.builds import Build
from features.events import EVENT

SLOWLY: Final = 5 * PATIENCE
"""Seconds for a house that begins beside others."""
PLAIN: Final = {"channels": ["in_app"]}
DEPOSITS: Final = 2
"""Deposits that `adult_events` tells of."""
"""Contacts that are due at once."""


class Process:
    """A command of a build over a home, until it is ended."""

    def __init__(self, build: Build, words: str, home: Path, environment: Mapping[str, str]) -> None:
        self.build, self.words = build, words
        place = home / "logs" / f"{build.name} {words}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        self._log = place
        own = {"CROUPIER_HOME": str(home), **PATIENT, **environment}
        command, env = [build.croupier, *words.split()], {**os.environ, **own}
        with place.open("a") as file:
            # Its children are `python -m`, which takes what lies where they are before what is installed.
            self.process = subprocess.Popen(command, cwd=build.folder, env=env, stdout=file, stderr=file)

    @property
    def said(self) -> str:
        """All that it has written."""
        return self._log.read_text("utf8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(SLOWLY)
        assert "Traceback" not in self.said, self.said


class Side(Caller):
    """A caller of one build's API, whose ids are its own."""

    def __init__(self, build: Build, address: str) -> None:
        super().__init__(Path())
        self._client.close()
        self._client = httpx.Client(base_url=address, timeout=60, headers=HEADERS)
        self.build = build

    def fresh(self, word: str) -> str:
        """An id that neither side has used."""
        return super().fresh(f"{word}-{self.build.name.replace(' ', '-')}")

    def ready(self) -> bool:
        """Whether it serves, with all that it decides by."""
        return self.get("/readyz").status_code == 200

    def welcome(self, player: str) -> None:
        """Tell of a player, and wait until decisions see all of it: a stage that changes later takes contacts back."""
        super().welcome(player)
        until(lambda: (self.feature(player, "deposit_count") or 0) >= DEPOSITS)

    def denied(self, player: str) -> set[str]:
        """Rules that leave a player no contact."""
        found = self.ask(player, dry_run=True, explain=True).json()
        assert found["action"] == "NO_CONTACT", found
        return {one["rule"] for one in found["exclusions"]}

    def feature(self, player: str, name: str) -> Any:
        """A feature as decisions see it."""
        return self.ask(player, dry_run=True, explain=True).json()["features"]["values"][name]

    def facts(self, player: str) -> Any:
        """What is known of a player."""
        return self.get(f"/v1/players/{player}").json()["facts"]

    def post(self, path: str, body: Any = None) -> httpx.Response:
        """Send as it stands."""
        return self._client.post(path, json=body)


@contextmanager
def serving(build: Build, home: Path, environment: Mapping[str, str]) -> Iterator[Side]:
    """A build's API over a store that runs."""
    (port,) = free_ports(1)
    words = f"serve --port {port}"
    with Process(build, words, home, environment) as process, Side(build, f"http://127.0.0.1:{port}") as side:
        until(lambda: process.process.poll() is not None or side.ready(), SLOWLY)
        assert process.process.poll() is None, process.said
        yield side


@contextmanager
def up(build: Build, home: Path, environment: Mapping[str, str]) -> Iterator[Side]:
    """A build's whole house."""
    (port,) = free_ports(1)
    with ExitStack() as stack:
        process = stack.enter_context(Process(build, f"up --players 0 --no-screen --port {port}", home, environment))
        side = stack.enter_context(Side(build, f"http://127.0.0.1:{port}"))
        until(lambda: process.process.poll() is not None or "ready after" in process.said, SLOWLY)
        assert process.process.poll() is None, process.said
        yield side


@dataclass
class Promises:
    """What a house had acknowledged, and what it said of its players."""

    events: list[tuple[dict[str, Any], str]]
    outcomes: list[tuple[dict[str, Any], str]]
    decisions: dict[str, dict[str, Any]]
    requests: list[tuple[dict[str, Any], str]]
    facts: dict[str, Any]
    confirmed: dict[str, dict[str, Any]]


def of_every_kind() -> list[dict[str, Any]]:
    """An event of every type that the first build knew, of a player each, a minute ago."""
    at = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    until_at = (datetime.now(UTC) + timedelta(days=30)).isoformat()
    found: dict[str, dict[str, Any]] = {}
    for line in lines("hashes/event_digests"):
        event = EVENT.validate_json(line["given"]).model_dump(mode="json", exclude_unset=True)
        found.setdefault(event["type"], event)
    more = {"time_out": {"until": until_at}}
    named = {name: {"player_id": f"p-{name}", "event_id": f"e-{name}", "occurred_at": at} for name in found}
    return [event | named[name] | more.get(name, {}) for name, event in found.items()]


def lived_in(side: Side) -> Promises:
    """Let a house know, decide, confirm and learn of outcomes, and keep what it promised."""
    every = of_every_kind()
    names = [*(event["player_id"] for event in every), *players("plain-", 12)]
    events = [one for name in names for one in adult_events(name)] + every
    made = Promises([], [], {}, [], {}, {})
    for event in events:
        answer = side.post("/v1/events", event)
        assert answer.status_code == 200, (event, answer.text)
        made.events.append((event, answer.json()["position"]))
    for name in names:
        until(lambda name=name: (side.feature(name, "deposit_count") or 0) >= DEPOSITS)  # type: ignore[misc]
    for number, name in enumerate(names):
        _decided(side, made, name, number)
    made.facts = {name: side.facts(name) for name in names}
    return made


def _decided(side: Side, made: Promises, name: str, number: int) -> None:
    for turn in range(6):
        body = {"player_id": name, "request_id": f"r-{number}-{turn}", **PLAIN}
        found = side.post("/v1/decisions", body).json()
        made.requests.append((body, found["decision_id"]))
        made.decisions[found["decision_id"]] = side.get(f"/v1/decisions/{found['decision_id']}").json()
        if found["action"] == "NO_CONTACT":
            continue
        confirmed = side.confirm(found["decision_id"])
        if confirmed.json().get("code") == "too_early":
            continue
        assert confirmed.status_code == 200, confirmed.text
        made.confirmed[found["decision_id"]] = confirmed.json()
        told = {"outcome_id": f"o-{number}-{turn}", "decision_id": found["decision_id"], "type": "delivered"}
        body = told | {"occurred_at": datetime.now(UTC).isoformat()}
        answer = side.post("/v1/outcomes", body)
        assert answer.status_code == 200, answer.text
        made.outcomes.append((body, answer.json()["position"]))
