"""What a decision costs: CPU per whole decision beside a FastAPI and pydantic echo, taking turns in one run.

Both are uvicorn processes of one worker, asked over loopback by the same caller. A whole decision reads the
player from a real store, scores churn, evaluates rules and caps, draws, reserves and logs with every write on
disk. Only ratios carry over to another machine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import redis
from fastapi import FastAPI
from rich.console import Console
from rich.progress import track

from features.schema import MODEL_FEATURES
from features.store import House, connect, create_house, load_library, publish, real_now_us, start_server
from pipelines import bulk, world
from pipelines.worker import wait_until_applied
from service.decide import DecisionRequest

PLAYERS: Final = 200
CONNECTIONS: Final = 8
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """CPU of one server process per request, microseconds, and requests per second, of one round."""

    cpu_us: float
    per_second: float


def echo() -> FastAPI:
    """The peer: the same body, validated by pydantic and sent back by FastAPI."""
    app = FastAPI()

    @app.post("/v1/decisions")
    async def answer(body: DecisionRequest) -> DecisionRequest:
        return body

    return app


def decide(rounds: int, requests: int, port: int, console: Console) -> dict[str, Any]:
    """Measure whole decisions beside the echo, in turns; medians over the rounds."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="croupier-bench-")))
        server = start_server(home)
        stack.callback(server.stop)
        furnish(home, server.url, stack)
        environment = {"CROUPIER_STORE": server.url, "CROUPIER_HOME": str(home), "CROUPIER_READ_SECONDS": "5"}
        whole = stack.enter_context(serving("service.app:create", port, environment))
        peer = stack.enter_context(serving("pipelines.bench:echo", port + 1, environment))
        turns = {"decision": (whole, port), "echo": (peer, port + 1)}
        costs: dict[str, list[Cost]] = {name: [] for name in turns}
        store_us: list[float] = []
        for _ in track(range(rounds + 1), "rounds", console=console, transient=True):
            for name, (pid, at) in turns.items():
                before = _cpu_us(server.process.pid)
                costs[name].append(asyncio.run(_round(pid, at, requests)))
                if name == "decision":
                    store_us.append((_cpu_us(server.process.pid) - before) / requests)
    return _result({name: found[1:] for name, found in costs.items()}, store_us[1:])


def _result(costs: dict[str, list[Cost]], store_us: list[float]) -> dict[str, Any]:
    cpu = {name: statistics.median(cost.cpu_us for cost in found) for name, found in costs.items()}
    pairs = zip(costs["decision"], costs["echo"], strict=True)
    return {
        "cpu_us": {name: round(value) for name, value in cpu.items()} | {"feast_serve": None},
        "store_cpu_us": round(statistics.median(store_us)),
        "ratio_to_echo": round(statistics.median(one.cpu_us / other.cpu_us for one, other in pairs), 2),
        "ratio_to_feast_serve": None,
        "decisions_per_second": round(statistics.median(cost.per_second for cost in costs["decision"])),
    }


def furnish(home: Path, url: str, stack: ExitStack, players: int = PLAYERS) -> House:
    """A house with definitions, a churn model of serving size, a worker and some players."""
    from features.definitions import apply, open_store  # noqa: PLC0415 - Feast takes seconds to import

    client = connect(url)
    stack.callback(client.close)
    load_library(client, "service", "ledger.lua")
    load_library(client, "pipelines", "consume.lua")
    house = create_house(client, sandbox=True)
    publish(client, "plan", apply(open_store(home, url), home / "lake").dumps())
    publish(client, "churn", _model())
    command = [sys.executable, "-m", "pipelines", "worker"]
    environment = {**os.environ, "CROUPIER_STORE": url, "CROUPIER_HOME": str(home)}
    worker = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)  # noqa: S603 - ours
    stack.callback(worker.wait)
    stack.callback(worker.terminate)
    if players:
        _people(client, house, players)
    return house


def _people(client: redis.Redis, house: House, players: int) -> None:
    items = bulk.Items(client, house)
    events = world.events(players, house.now_us(real_now_us(client)), 1)
    wait_until_applied(client, bulk.append(client, house, [items.event(event) for event in events]).reached)


def _model() -> bytes:
    """A LightGBM model of 200 trees with 31 leaves over all model features, fitted to noise."""
    import lightgbm  # noqa: PLC0415 - training only

    from models.scorer import ChurnBundle, library_build  # noqa: PLC0415

    random = np.random.default_rng(1)
    rows, labels = random.normal(size=(4_000, len(MODEL_FEATURES))), random.integers(0, 2, 4_000)
    data = lightgbm.Dataset(rows, labels, feature_name=list(MODEL_FEATURES))
    parameters = {"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 1}
    text = lightgbm.train(parameters, data, 200).model_to_string()
    text = text[: text.index("\npandas_categorical")] + "\n"
    bundle = ChurnBundle(
        version="bench",
        horizon_days=30,
        features=MODEL_FEATURES,
        model=text,
        slope=1.0,
        intercept=0.0,
        build=library_build(),
        metadata={},
    )
    return bundle.dumps()


@contextmanager
def serving(application: str, port: int, environment: dict[str, str], workers: int = 1) -> Iterator[int]:
    """A uvicorn server over an application, of one process or several; its process id."""
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        application,
        "--factory",
        "--workers",
        str(workers),
        "--port",
        str(port),
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        "--no-access-log",
        "--log-level",
        "error",
    ]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        _await_port(port)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            asyncio.run(_touch(port))
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"nothing listens on port {port}")


async def _touch(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()


async def _round(pid: int, port: int, requests: int) -> Cost:
    """Ask about the players in turn over some connections; every answer must be a 200."""
    numbers = iter(range(requests))
    cpu, begun = _cpu_us(pid), time.perf_counter()
    await asyncio.gather(*(_ask(port, numbers) for _ in range(CONNECTIONS)))
    seconds = time.perf_counter() - begun
    return Cost((_cpu_us(pid) - cpu) / requests, requests / seconds)


async def _ask(port: int, numbers: Iterator[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in numbers:
        body = orjson.dumps({"player_id": f"player-{1 + number % PLAYERS}", "decision_point": "bench"})
        head = (
            f"POST /v1/decisions HTTP/1.1\r\nhost: c\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        )
        writer.write(f"{head}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode())
        length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
    writer.close()
    await writer.wait_closed()


def _cpu_us(pid: int) -> float:
    """User and system time of a process so far, microseconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS * 1e6
