"""Servers of a store, each queried on its own within a time limit, so that a silent one delays nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

import redis

from features.settings.environment import Environment
from features.store.cluster import Nodes, is_cluster, plain
from features.store.deployment import real_now_us
from features.store.errors import StoreError
from features.store.server import Lock, read_lock, socket_path, store_url
from pipelines.doctor.findings import ServerReading

CALL_SECONDS: Final = 2.0
"""How long a server may take to answer one call."""
CHECK_SECONDS: Final = 10.0
"""How long a look may take as a whole, whatever it meets."""
_Result = TypeVar("_Result")


def within(look: Callable[[], _Result]) -> _Result:
    """Run a function in a thread with a time limit; raises TimeoutError and abandons the thread."""
    answer: Future[_Result] = Future()

    def work() -> None:
        try:
            answer.set_result(look())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            answer.set_exception(error)

    Thread(target=work, daemon=True).start()
    return answer.result(CHECK_SECONDS)


def servers_of(home: Path, embedded: bool) -> list[ServerReading]:  # noqa: FBT001 - what was seen
    """Query each server of the store."""
    if embedded:
        return [_asked(socket_of(home), f"unix://{socket_of(home)}")._replace(name="the store", embedded=True)]
    url = store_url(home)
    if not is_cluster(url):
        return [_asked(_place(url), url)]
    nodes = Nodes(url)
    with suppress(TimeoutError):
        within(lambda: _learn(nodes))
    with ThreadPoolExecutor(len(nodes.names)) as threads:
        return list(threads.map(lambda one: _asked(one, nodes.url(one)), nodes.names))


def _place(url: str) -> str:
    """A server's address without user and password; its fallback name where the address cannot be parsed."""
    with suppress(ValueError):
        told = urlsplit(url)
        if told.hostname:
            return f"{told.hostname}:{told.port or 6379}"
        if told.scheme == "unix":
            return told.path
    return Environment.store.name


def socket_of(home: Path) -> str:
    """Socket where the home's server listens, or would."""
    return lock_of(home).socket or str(socket_path(home))


def lock_of(home: Path) -> Lock:
    """Content of the lock of a live server; empty where none lives or that is unknown."""
    with suppress(StoreError, OSError):  # told by the check of the lock
        found = read_lock(home)
        return found if found.taken and found.alive else Lock()
    return Lock()


def _learn(nodes: Nodes) -> None:
    for name in nodes.names:
        with suppress(redis.RedisError), closing(plain(nodes.url(name), CALL_SECONDS)) as client:
            return nodes.learn(client.execute_command("CLUSTER", "SLOTS"), name)  # type: ignore[no-untyped-call]
    return None


def _asked(name: str, url: str) -> ServerReading:
    try:
        return within(lambda: _told(name, url))
    except (TimeoutError, redis.TimeoutError):
        return ServerReading(name, name, "silent")
    except redis.AuthenticationError as error:
        return ServerReading(name, name, str(error))
    except redis.ConnectionError:
        return ServerReading(name, name, "absent")
    except ValueError:
        return ServerReading(name, name, "the address cannot be read")
    except redis.RedisError as error:
        return ServerReading(name, name, str(error))


def _told(name: str, url: str) -> ServerReading:
    with closing(plain(url, CALL_SECONDS)) as client:
        info = cast("dict[str, Any]", client.info())
        if info.get("loading"):
            return ServerReading(name, name, info=info)
        before = time.time()
        ahead = real_now_us(client) / 1e6 - (before + time.time()) / 2
        settings: dict[str, str] = {}
        with suppress(redis.ResponseError):  # a service that lets nobody look
            settings = cast("dict[str, str]", client.config_get("appendfsync", "min-replicas-to-write"))
        libraries = cast("list[list[Any]]", client.function_list("croupier_*", withcode=True))
        held = [dict(zip(map(_text, one[::2]), one[1::2], strict=True)) for one in libraries]
        codes = {_text(one["library_name"]): _text(one["library_code"]) for one in held}
        return ServerReading(name, name, "", info, settings, codes, ahead)


def _text(found: bytes | str) -> str:
    return found.decode() if isinstance(found, bytes) else found


def is_stopped(process: int) -> bool:
    """Whether a process is stopped by a signal."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "T"
    return False
