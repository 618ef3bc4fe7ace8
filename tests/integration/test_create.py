"""A house in a store without `croupier up`: what containers begin with."""

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import msgspec
import redis
from conftest import Opened

from features.kept_schemas import TODAY
from features.schema import schema_hash
from features.store.connection import connect
from features.store.deployment import FORMAT, House, open_house
from features.store.keys import HOUSE, bundle_key
from features.store.server import start_server
from pipelines.worker.consumer import serving_plan


def create(home: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CROUPIER_STORE"}
    command = [sys.executable, "-m", "pipelines", "create"]
    done = subprocess.run(command, env=environment | {"CROUPIER_HOME": str(home)}, check=False)
    assert done.returncode == 0


def found(home: Path) -> tuple[House, str | None, set[str]]:
    """The house of a home, the features that are served, whose names are kept, and the store's libraries."""
    server = start_server(home)
    try:
        client: redis.Redis = connect(server.url)
        plan = serving_plan(client)
        assert client.get(bundle_key(TODAY.hash)) == TODAY.dumps()
        libraries = cast("list[list[bytes]]", client.function_list())
        return open_house(client), plan.schema_hash if plan else None, {name.decode() for _, name, *_ in libraries}
    finally:
        server.stop()


def test_a_command_makes_a_store_a_house_for_real_players_and_ends(tmp_path: Path) -> None:
    create(tmp_path / "home")
    house, schema, libraries = found(tmp_path / "home")
    assert (house.sandbox, schema, libraries) == (False, schema_hash(), {"croupier_ledger", "croupier_consume"})
    create(tmp_path / "home")
    assert found(tmp_path / "home") == (house, schema, libraries), "what is there already stays as it is"


async def test_whoever_writes_the_second_format_raises_that_of_the_house_and_changes_nothing_else(
    opened: Opened, house: House, store: redis.Redis
) -> None:
    """Builds that cannot read what is written from then on refuse the house."""
    store.set(HOUSE, msgspec.json.encode(msgspec.structs.replace(house, format=1)))
    assert open_house(store).format == 1, "this build reads it as it stands"
    for _ in range(2):
        async with opened() as client:
            assert (await client.get("/healthz")).status_code == 200
        assert open_house(store) == house
    assert house.format == FORMAT
