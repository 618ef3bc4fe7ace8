"""Start a real cluster on loopback from the embedded server's binary."""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from support.fault_house import until

from features.store.cluster import plain
from features.store.server import server_binary

SLOTS = 16_384


@dataclass
class Node:
    """One server of a cluster."""

    folder: Path
    port: int
    bus: int
    options: Sequence[str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        fixed = {
            "port": self.port,
            "cluster-port": self.bus,
            "bind": "127.0.0.1",
            "dir": self.folder,
            "logfile": self.folder / "valkey.log",
            "cluster-enabled": "yes",
            "cluster-require-full-coverage": "no",
            "appendonly": "yes",
            "save": "",
            "hash-max-listpack-entries": 16,
            # A replica is promoted however long ago it heard from its primary: tests kill primaries soon after start.
            "cluster-replica-validity-factor": 0,
        }
        told = [text for name, value in fixed.items() for text in (f"--{name}", str(value))]
        self.process = subprocess.Popen([str(server_binary()), *told, *self.options], start_new_session=True)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def client(self) -> redis.Redis:
        return plain(f"redis://{self.name}", 10)

    def ask(self, command: str, *parts: str | int) -> Any:
        """Raw reply: the client knows commands of two words only by both, and leaves what it does not know."""
        with closing(self.client()) as client:
            return client.execute_command(*command.split(), *parts)  # type: ignore[no-untyped-call]

    def alive(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False


class Servers:
    """The servers of a cluster: the primaries first, then a replica of each if there are replicas."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(node.name for node in self.nodes)

    def holder(self, key: str) -> Node:
        """The server that answers for a key."""
        slot = next(node for node in self.nodes if node.process).ask("CLUSTER KEYSLOT", key)
        for node in filter(lambda one: one.process, self.nodes):
            for first, last, primary, *_ in node.ask("CLUSTER SLOTS"):
                if first <= slot <= last:
                    return next(one for one in self.nodes if one.port == primary[1])
        raise AssertionError(f"nobody holds {key}")


@contextmanager
def cluster(folder: Path, *, replicas: bool = False, options: Sequence[str] = ()) -> Iterator[Servers]:
    """Three primaries that share the slots, with a replica each or none."""
    ports = free_ports(12 if replicas else 6)
    nodes = [Node(folder / str(port), port, bus, options) for port, bus in zip(ports[::2], ports[1::2], strict=True)]
    with ExitStack() as stack:
        for node in nodes:
            node.start()
            stack.callback(node.kill)
        for node in nodes:
            until(node.alive)
        _form(nodes)
        yield Servers(nodes)


def _form(nodes: list[Node]) -> None:
    primaries, replicas = nodes[:3], nodes[3:]
    for at, node in enumerate(primaries):
        node.ask("CLUSTER SET-CONFIG-EPOCH", at + 1)
        node.ask("CLUSTER ADDSLOTSRANGE", SLOTS * at // 3, SLOTS * (at + 1) // 3 - 1)
    for node in nodes[1:]:
        nodes[0].ask("CLUSTER MEET", "127.0.0.1", node.port, node.bus)
    until(lambda: all(_knows_all(node, len(nodes)) for node in nodes))
    for primary, replica in zip(primaries, replicas, strict=False):
        replica.ask("CLUSTER REPLICATE", primary.ask("CLUSTER MYID").decode())
    for replica in replicas:
        until(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up")  # noqa: B023 - called at once
    until(lambda: all(_covers_all(node, 1 + bool(replicas)) for node in nodes))


def _knows_all(node: Node, count: int) -> bool:
    told = node.ask("CLUSTER NODES").decode().splitlines()
    return len(told) == count and not any("handshake" in line for line in told)


def _covers_all(node: Node, servers: int) -> bool:
    """Whether a server serves, and knows who holds every slot, and the replicas of each."""
    held = node.ask("CLUSTER SLOTS")
    if b"cluster_state:ok" not in node.ask("CLUSTER INFO"):
        return False
    return sum(last - first + 1 for first, last, *_ in held) == SLOTS and all(len(one) - 2 == servers for one in held)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        held = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
