"""Keys of the store as JSON: put back into a store, or taken from one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import redis

_HEX: Final = "hex:"


def text(value: bytes) -> str:
    """Bytes as text, or as hex digits after `hex:` where they are none."""
    try:
        found = value.decode()
    except UnicodeDecodeError:
        return _HEX + value.hex()
    return found if found.isprintable() and not found.startswith(_HEX) else _HEX + value.hex()


def data(value: str) -> bytes:
    """What `text` made text of."""
    return bytes.fromhex(value.removeprefix(_HEX)) if value.startswith(_HEX) else value.encode()


def put(client: redis.Redis, keys: Mapping[str, Any]) -> None:
    """Put keys into a store: hashes, strings, numbered members, and streams with the ids of their entries."""
    for key, content in keys.items():
        ((kind, held),) = content.items()
        name = data(key)
        match kind:
            case "hash":
                client.hset(name, mapping={data(field): data(value) for field, value in held.items()})  # type: ignore[arg-type]
            case "string":
                client.set(name, data(held))
            case "sorted":
                client.zadd(name, held)
            case "stream":
                for stream_id, fields in held:
                    client.xadd(name, {data(field): data(value) for field, value in fields.items()}, stream_id)


def taken(client: redis.Redis, names: Iterable[bytes]) -> dict[str, Any]:
    """Keys of a store; entries of streams without their ids, which the store's clock gave them."""
    return {text(name): _content(client, name) for name in sorted(names)}


def _content(client: Any, name: bytes) -> dict[str, Any]:
    match client.type(name):
        case b"hash":
            return {"hash": _fields(client.hgetall(name))}
        case b"string":
            return {"string": text(client.get(name))}
        case b"zset":
            return {"sorted": {one.decode(): score for one, score in client.zrange(name, 0, -1, withscores=True)}}
        case b"list":
            return {"list": [text(one) for one in client.lrange(name, 0, -1)]}
        case _:
            return {"stream": [_fields(fields) for _, fields in client.xrange(name)]}


def _fields(held: Mapping[bytes, bytes]) -> dict[str, str]:
    return {text(field): text(value) for field, value in sorted(held.items())}
