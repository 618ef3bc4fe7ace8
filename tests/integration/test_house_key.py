"""The house key of a running house: raw keys of earlier builds get under it, and nothing goes on without it."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import redis
from support.deadlines import PATIENT
from support.fault_house import Serving, World, speaking

from features.read_plan import ReadPlan
from features.store.connection import connect
from features.store.deployment import FORMAT, open_house
from features.store.house_key import FILE, HouseKeyError
from features.store.keys import HOUSE, SEALED, PlayerKeys
from pipelines.machine import up
from pipelines.privacy import house_keys
from service.players.sealing import PLAIN, Seals, new_seal, seals_of

MANY: Final = 2_500


def silent(_: object) -> None:
    """Tells nobody."""


def prepare(world: World) -> Any:
    return up.prepare(world.client, up.Options(world.home, players=0), world.server.url, silent)


def stored(world: World) -> dict[str, bytes]:
    names: Any = list(world.client.scan_iter("seal:*"))
    return {name.decode().removeprefix("seal:"): world.client.get(name) for name in names}  # type: ignore[misc]


def append_only(world: World) -> bytes:
    return b"".join(file.read_bytes() for file in sorted((world.home / "store" / "appendonlydir").iterdir()))


def test_raw_keys_get_under_the_house_key_and_are_in_no_file_of_the_store_afterwards(world: World) -> None:
    raw = {f"{{p{number % 256:03d}}}{number:030x}": new_seal() for number in range(MANY)}
    for player, key in raw.items():
        world.client.set(PlayerKeys(player).seal, key)
    assert raw["{p017}" + f"{17:030x}"] in append_only(world)
    said: list[str] = []
    house = up.prepare(world.client, up.Options(world.home, players=0), world.server.url, said.append)
    assert (house.format, bool(house.key), open_house(world.client)) == (FORMAT, True, house)
    assert [line for line in said if f"{MANY:,} are under the house key" in line]
    seals = seals_of(house, world.home)
    found = stored(world)
    assert {player: seals.open(player, seal) for player, seal in found.items()} == raw
    assert not [seal for seal in found.values() if len(seal) == PLAIN]
    written = append_only(world)
    assert not [key for key in raw.values() if key in written]
    again: list[str] = []
    up.prepare(world.client, up.Options(world.home, players=0), world.server.url, again.append)
    assert not again, "what is done is not done again"
    assert stored(world) == found


def test_what_was_broken_off_goes_on_and_what_others_changed_meanwhile_stays(world: World) -> None:
    house = prepare(world)
    player, erased = ("{p001}" + letter * 30 for letter in "ab")
    key = new_seal()
    world.client.set(PlayerKeys(player).seal, key)
    world.client.set(PlayerKeys(erased).seal, new_seal())
    world.client.delete(SEALED)
    fresh = seals_of(house, world.home).new(erased)

    class Racing:
        """Replaces a seal just after it was read."""

        wraps = True

        def wrap(self, name: str, held: bytes) -> bytes:
            if name == erased:
                world.client.set(PlayerKeys(erased).seal, fresh.stored)
            return seals_of(house, world.home).wrap(name, held)

    house_keys.wrap(world.client, Racing(), silent)  # type: ignore[arg-type]
    prepare(world)
    assert seals_of(house, world.home).open(player, stored(world)[player]) == key
    assert stored(world)[erased] == fresh.stored
    assert world.client.get(SEALED) == house.key.encode()


def test_a_house_that_runs_under_its_key_serves_as_ever(world: World, tmp_path: Path) -> None:
    prepare(world)
    environment = {"CROUPIER_HOME": str(world.home), **PATIENT}
    with Serving(world.server.url, tmp_path, **environment) as serving, speaking(serving.socket) as caller:
        told = {"type": "registered", "event_id": "r", "player_id": "p", "occurred_at": "2020-01-01T00:00:00Z"}
        assert caller.post("/v1/events", json=told).status_code in {200, 422}
        asked = caller.post("/v1/decisions", json={"player_id": "p", "request_id": "once"}).json()
        assert asked["recorded"]
        assert caller.get(f"/v1/decisions/{asked['decision_id']}").json()["player_id"] == "p"
    (seal,) = stored(world).values()
    assert len(seal) > PLAIN


def command(world: World, words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    told = os.environ | {"CROUPIER_HOME": str(world.home), "CROUPIER_STORE": world.server.url} | environment
    line = [sys.executable, "-m", "pipelines", *words.split()]
    return subprocess.run(line, env=told, check=False, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("words", ["serve --port 23017", "create", "worker", "verify --since 7d"])
def test_without_the_key_or_with_another_nothing_starts_and_one_sentence_says_why(world: World, words: str) -> None:
    house = prepare(world)
    file = world.home / FILE
    content = file.read_text()
    file.unlink()
    lost = command(world, words)
    assert (lost.returncode, house.key in lost.stderr) == (2, True)
    assert len(lost.stderr.strip().splitlines()) == 1, lost.stderr
    assert "is not here, and without it no player's key opens" in lost.stderr
    other = command(world, words, CROUPIER_HOUSE_KEY="ab" * 32)
    assert "the house was sealed under the key" in other.stderr
    assert "ab" * 32 not in other.stderr
    outside = world.home.parent / f"{world.home.name}.key"
    outside.write_text(content)
    outside.chmod(0o644)
    read = command(world, words, CROUPIER_HOUSE_KEY_FILE=str(outside))
    assert "everybody on this machine can read the house key" in read.stderr
    assert world.client.get(HOUSE) == msgspec.json.encode(house), "and nothing was changed"


def test_a_store_that_is_one_house_gets_one_key_however_many_begin(world: World, plan: ReadPlan) -> None:
    first = prepare(world)
    assert plan
    before = open_house(world.client)
    assert before.key == first.key
    elsewhere = world.home / "other"
    elsewhere.mkdir()
    with pytest.raises(HouseKeyError, match="is not here"):
        up.prepare(world.client, up.Options(elsewhere, players=0), world.server.url, silent)
    assert not (elsewhere / FILE).exists()


def test_two_that_name_a_key_at_once_leave_the_one_that_came_first(world: World) -> None:
    house = open_house(world.client)
    assert not house.key
    elsewhere = world.home / "other"
    elsewhere.mkdir()
    mine = house_keys.seal_up(world.client, house, world.home, silent)
    with pytest.raises(HouseKeyError):
        house_keys.seal_up(world.client, house, elsewhere, silent)
    assert open_house(world.client) == mine
    with closing(connect(world.server.url)) as client:
        assert isinstance(client, redis.Redis)
    assert Seals().wraps is False
