"""The API key of the tests: in every house of theirs it allows everything, so that each tests what it is about."""

from typing import Any, Final

import msgspec

from features.store.keys import API_KEYS
from service.access.keys import Key, KeySecret, digest_of
from service.access.scopes import SCOPES

KEY: Final = "ck_tests_" + "0123456789abcdef" * 3
"""In the environment of all that tests start (all but `admin`), and in the store of `conftest.store`."""
HEADERS: Final = {"authorization": f"Bearer {KEY}"}


def grant(client: Any, key: str = KEY, *scopes: str, **more: Any) -> None:
    """Let a store know a key; with every scope unless some are named."""
    kept = Key(scopes=scopes or SCOPES, secrets=(KeySecret(sha256=digest_of(key).hex()),), by="tests", **more)
    client.hset(API_KEYS, key.split("_")[1], msgspec.json.encode(kept))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
