"""Bench of growth: what a decision costs as players, candidates, rules and workers become more.

    furnish a home --copy--> a house of each size ---`croupier up`---> by turns the same requests
                   `-------> one house that gets more players between rounds, beside one that stays as it was

Further players are copies of the furnished ones under keys of their own, so that a million costs a minute: the store
holds as much as if each had come by itself. A ratio is that of a size to the first of its kind, of the same rounds.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, cast

import numpy as np
import redis
import yaml
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import builds, population, result, rounds, sides
from benchmarks.callers import ask
from benchmarks.decide import CATALOGUE, IDLE_SECONDS
from benchmarks.peers import servers
from benchmarks.sides import Side, Turn
from features.store.connection import connect
from features.store.deployment import open_house
from features.store.keys import PlayerKeys, pointer_key
from features.store.server import socket_path
from pipelines.worker.consumer import serving_plan
from service.rules.rulebook import rulebook_path

KINDS: Final[Mapping[str, Sequence[int]]] = {
    "players": (10_000, 100_000, 1_000_000),
    "candidates": (40, 160, 640, 2_000),
    "rules": (25, 100, 400),
    "workers": (1, 2),
}
_LABELS: Final = {"workers": "API processes"}
_PER_OFFER: Final = 20
"""Candidates of an offer: five channels in four slots."""
_SEED: Final = 7
_CHUNK: Final = 2_000
_ASKED: Final = 1_500
"""Players who are asked where their number is not what grows."""
_SPARE: Final = 4
"""Turns for which players are asked once before anything is counted, so that all have what a first decision leaves."""


class GrowthPlan(NamedTuple):
    """Options of the bench.

    Attributes:
        kinds: What grows, of `KINDS`.
        most: Sizes above it are left out.
        furnished: Players of the home that houses are copied from.
        rounds: Counted rounds of each size.
        requests: Requests of a turn.
    """

    kinds: tuple[str, ...]
    most: int
    furnished: int
    rounds: int
    requests: int


class Size(NamedTuple):
    """What one size costs.

    Attributes:
        kind: What grows.
        size: How many there are.
        server: Median CPU of the API a decision, microseconds.
        store: Median CPU of the store's main thread.
        over_first: Server CPU over that of the first size, with its interval.
        store_over_first: Store CPU likewise.
        per_second: Median decisions a second with eight callers.
        player_bytes: What the store holds for each player; None where that is not what grows.
    """

    kind: str
    size: int
    server: float
    store: float
    over_first: rounds.Ratio
    store_over_first: rounds.Ratio
    per_second: float
    player_bytes: float | None = None


def measure(plan: GrowthPlan, console: Console) -> dict[str, Any]:
    """Furnish a home, and let houses of each size take turns, kind by kind; shows progress.

    Raises:
        TimeoutError: A house does not start.
    """
    load, found = os.getloadavg()[0], list[Size]()
    with tempfile.TemporaryDirectory(prefix="croupier-bench-") as name:
        folder = Path(name)
        builds.here().furnish(folder / "furnished", plan.furnished, CATALOGUE)
        for kind in plan.kinds:
            sizes = [size for size in KINDS[kind] if size <= plan.most]
            found += (_players if kind == "players" else _beside)(kind, sizes, plan, folder, console)
    rows = [{**one._asdict(), **{name: getattr(one, name)._asdict() for name in _RATIOS}} for one in found]
    return {"load_before": round(load, 2), "rounds": plan.rounds, "requests": plan.requests, "sizes": rows}


_RATIOS: Final = ("over_first", "store_over_first")


# --- Candidates, rules, workers: a house of each size


def _beside(kind: str, sizes: Sequence[int], plan: GrowthPlan, folder: Path, console: Console) -> list[Size]:
    """Houses of each size, all there at once."""
    with ExitStack() as stack:
        started = []
        for size in sizes:
            with console.status(f"a house of {size:,} {kind} starts"):
                started.append(stack.enter_context(_house(kind, size, folder)))
        turns = _turns(started, min(plan.furnished, _ASKED), plan, console, kind)
    return [
        _size(kind, size, turns[side.name], turns[started[0].name]) for size, side in zip(sizes, started, strict=True)
    ]


@contextmanager
def _house(kind: str, size: int, folder: Path) -> Iterator[Side]:
    home = folder / f"{kind}-{size}"
    shutil.copytree(folder / "furnished", home)
    catalogue, settings = CATALOGUE, dict[str, str]()
    if kind == "candidates":
        catalogue = _catalogue(size, folder / f"catalogue-{size}.yaml")
    if kind == "rules":
        settings["CROUPIER_RULES"] = str(_rulebook(size, folder / f"rulebook-{size}"))
    workers, port = size if kind == "workers" else 1, sides.free_port()
    try:
        with sides.croupier(builds.here(), home, port, catalogue, workers, settings=settings) as served:
            yield _side(f"{kind} {size}", port, served)
    finally:
        shutil.rmtree(home)


def _side(name: str, port: int, served: sides.Served) -> Side:
    return Side(name, port, served.api, served.store, servers.decision, "/v1/decisions", key=served.key)


def _catalogue(candidates: int, file: Path) -> Path:
    """The bench's catalogue with so many candidates: its offers, again and again under other ids."""
    whole = yaml.safe_load(CATALOGUE.read_text("utf8"))
    offers = islice(cycle(whole["offers"]), candidates // _PER_OFFER)
    whole["offers"] = [
        offer if at < len(whole["offers"]) else offer | {"id": f"{offer['id']}_{at}", "name": f"{offer['name']} {at}"}
        for at, offer in enumerate(offers)
    ]
    there = {None, *(offer["id"] for offer in whole["offers"])}
    whole["caps"] = [cap for cap in whole["caps"] if cap.get("offer") in there]
    file.write_text(yaml.safe_dump(whole), "utf8")
    return file


def _rulebook(rules: int, folder: Path) -> Path:
    """The rulebook that comes with the service, and a pack of so many further rules that all ask about everybody."""
    shutil.copytree(rulebook_path(), folder)
    common = {"reason": "a rule of the bench", "source": "the bench", "confidence": "house", "valid_from": "2000-01-01"}
    pack = yaml.safe_load((folder / "packs" / "house.yaml").read_text("utf8"))
    kinds = islice(cycle(_RULES), rules)
    added = [{"id": f"bench_{at}", **common, **kind(at)} for at, kind in enumerate(kinds)]
    told = {"pack": "bench", "title": "Rules of the bench", "rules": added}
    (folder / "packs" / "bench.yaml").write_text(yaml.safe_dump(pack | told), "utf8")
    return folder


_RULES: Final[tuple[Callable[[int], dict[str, Any]], ...]] = (
    lambda at: {"type": "min_gap_after", "event": "support_contact", "hours": 1 + at},
    lambda at: {"type": "min_gap_after", "event": "big_loss", "hours": 1 + at},
    lambda at: {"type": "value_cap", "amount_minor": 900_000 + at, "currency": "EUR"},
    lambda at: {"type": "term_limit", "most_wagering": 60 + at, "purposes": ["bonus"]},
    lambda at: {
        "type": "loss_or_deposit_threshold",
        "metric": "net_deposit_month",
        "amounts": [{"amount_minor": 90_000_000 + at}],
        "currency": "EUR",
    },
)
"""Rules with room for everybody, a number of its own each, so that none is another again."""


# --- Players: one house that grows


def _players(kind: str, sizes: Sequence[int], plan: GrowthPlan, folder: Path, console: Console) -> list[Size]:
    """A house that gets more players, beside one that stays as it was; both answer in the same rounds."""
    found = []
    with ExitStack() as stack:
        small, grown = (stack.enter_context(_house(kind, number, folder)) for number in range(2))
        client = stack.enter_context(connect(f"unix://{socket_path(folder / f'{kind}-1')}"))
        copies = _Copies(client, plan.furnished)
        for size in sizes:
            copies.grow(size, console)
            each = _memory(client) / size
            turns = _turns([small, grown], plan.furnished, plan, console, f"{size:,} players", {grown.name: size})
            one = _size(kind, size, turns[grown.name], turns[small.name])
            found.append(one._replace(player_bytes=round(each)))
    return found


class _Copies:
    """Further players of a house: copies of those it was furnished with."""

    def __init__(self, client: redis.Redis, players: int) -> None:
        self._client, self._house, self._count = client, open_house(client), players
        plan = serving_plan(client)
        assert plan is not None, pointer_key("plan")  # noqa: S101 - a furnished home has it
        self._plan = plan
        self._kept = [self._dump(number) for number in range(min(players, _CHUNK))]

    def _keys(self, number: int) -> tuple[Any, Any]:
        key = self._house.player_key(population.name(number))
        keys = PlayerKeys(key, self._plan.key(key))
        return keys.facts, keys.features

    def _dump(self, number: int) -> list[Any]:
        return [self._client.dump(key) for key in self._keys(number)]

    def grow(self, players: int, console: Console) -> None:
        """Add players until there are so many."""
        spans = range(self._count, players, _CHUNK)
        for first in track(spans, f"{players:,} players", console=console, transient=True):
            pipe = self._client.pipeline(transaction=False)
            for number in range(first, min(first + _CHUNK, players)):
                for key, kept in zip(self._keys(number), self._kept[number % len(self._kept)], strict=True):
                    pipe.restore(key, 0, kept, replace=True)
            pipe.execute()
        self._count = max(self._count, players)


def _memory(client: redis.Redis) -> int:
    return int(cast("dict[str, Any]", client.info("memory"))["used_memory_dataset"])


# --- Turns and their result


def _turns(
    started: Sequence[Side],
    players: int,
    plan: GrowthPlan,
    console: Console,
    title: str,
    more: Mapping[str, int] = {},
) -> dict[str, list[Turn]]:
    """Turns of every side per counted round; `more` has the players of sides with others than `players`."""
    chance = np.random.default_rng(_SEED)
    count = (plan.rounds + _SPARE) * plan.requests
    asked = {
        side.name: chance.permutation(np.resize(np.arange(more.get(side.name, players)), max(count, players)))
        for side in started
    }
    for side in started:
        for first in range(0, _SPARE * plan.requests, plan.requests):
            ask(side.port, [side.request(int(at)) for at in asked[side.name][first : first + plan.requests]])
    at_rest = sides.idle(started, IDLE_SECONDS)
    turns: dict[str, list[Turn]] = {side.name: [] for side in started}
    for number in track(range(plan.rounds), title, console=console, transient=True):
        first = (_SPARE + number) * plan.requests
        for side in rounds.order(started, number):
            some = asked[side.name][first : first + plan.requests].tolist()
            turns[side.name].append(sides.turn(side, some, at_rest[side.name]))
    return turns


def _size(kind: str, size: int, turns: Sequence[Turn], first: Sequence[Turn]) -> Size:
    return Size(
        kind,
        size,
        round(median(map(result.server, turns))),
        round(median(map(result.store, turns))),
        rounds.ratio([*map(result.server, turns)], [*map(result.server, first)]),
        rounds.ratio([*map(result.store, turns)], [*map(result.store, first)]),
        round(median(turn.per_second for turn in turns)),
    )


def show(found: Mapping[str, Any], console: Console) -> None:
    """The sizes as a table."""
    table = Table("grows", "to", title="What a decision costs as a house grows")
    for heading in ("API us", "over the first", "store us", "over the first", "decisions/s", "bytes a player"):
        table.add_column(heading, justify="right")
    for row in found["sizes"]:
        each = "" if row["player_bytes"] is None else f"{row['player_bytes']:,}"
        costs = f"{row['server']:,}", _ratio(row["over_first"]), f"{row['store']:,}", _ratio(row["store_over_first"])
        table.add_row(row["kind"], f"{row['size']:,}", *costs, f"{row['per_second']:,}", each)
    console.print(table)


def _ratio(told: Mapping[str, float | None]) -> str:
    interval = "" if told["low"] is None else f" ({told['low']:.2f} to {told['high']:.2f})"
    return f"{told['estimate']:.2f}{interval}"


def draw(found: Mapping[str, Any]) -> Figure:
    """CPU of a decision over that of the first size, paired within rounds, a panel per kind, API and store."""
    kinds = list(dict.fromkeys(row["kind"] for row in found["sizes"]))
    figure = Figure(figsize=(3.1 * len(kinds), 3.4), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        _draw(panel, kind, [row for row in found["sizes"] if row["kind"] == kind])
    panels[0].set_ylabel("CPU over that of the first size")
    panels[0].legend(frameon=False, loc="lower right")
    return figure


def _draw(panel: Any, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:  # noqa: ANN401 - an Axes, untyped by subplots
    sizes = [row["size"] for row in rows]
    panel.axhline(1, color="0.7", linewidth=0.8)
    for name, marker, color, label in (
        ("over_first", "o", "#1f5fa8", "API"),
        ("store_over_first", "s", "#8a5a00", "store"),
    ):
        told = [row[name] for row in rows]
        middle = [one["estimate"] for one in told]
        reach = [[abs(one["estimate"] - (one[end] or one["estimate"])) for one in told] for end in ("low", "high")]
        panel.errorbar(sizes, middle, reach, marker=marker, color=color, label=label, linewidth=1.4, capsize=3)
    panel.set(xscale="log", xlabel=_LABELS.get(kind, kind), ylim=(0, 1.6))
    panel.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
    panel.minorticks_off()
    panel.grid(axis="y", color="0.92")
