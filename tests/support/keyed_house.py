"""A house under its key, and a caller of a process that serves it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.deadlines import PATIENT
from support.fault_house import Caller, Serving, World

from features.store.deployment import create_house
from pipelines.machine import up


def silent(_: object) -> None:
    """Tells nobody."""


def under_key(world: World) -> World:
    up.prepare(world.client, up.Options(world.home, players=0), world.server.url, silent)
    world.house = create_house(world.client)
    return world


@contextmanager
def calling(home: World, folder: Path) -> Iterator[Caller]:
    environment = {"CROUPIER_HOME": str(home.home), **PATIENT}
    with Serving(home.server.url, folder, **environment) as serving, Caller(serving.socket) as made:
        yield made
