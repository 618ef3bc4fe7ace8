from collections.abc import Iterator
from pathlib import Path

import pytest

from features.store import start_server


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Valkey that only these tests use."""
    home: Path = tmp_path_factory.mktemp("house")
    server = start_server(home)
    yield server.url
    server.stop()
