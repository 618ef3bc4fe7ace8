"""Result of the rounds: mix of answers, medians, ratios with intervals; as JSON and as tables. Pure."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.callers import CallerAnswer
from benchmarks.peers.servers import PEERS
from benchmarks.rounds import Ratio, ratio
from benchmarks.sides import Cost, Turn

LEAST_CONTACTS: Final = 0.3
"""A house in which fewer decisions are to contact is not what is to be measured: leaving alone is cheap."""
NAMED: Final = ("echo", "feast_serve", "off_the_shelf")
"""Peers whose ratio has a key of its own."""


def server(turn: Turn) -> float:
    """CPU time of the server, microseconds per request."""
    return turn.cost.server


def store(turn: Turn) -> float:
    """CPU time of the store's main thread, microseconds per request."""
    return turn.cost.store


def store_others(turn: Turn) -> float:
    """CPU time of the store's other threads, microseconds per request."""
    return turn.cost.store_others


class KeptBytes(NamedTuple):
    """Memory that the store takes for a decision's key: decisions looked at, mean and 99th percentile of bytes."""

    decisions: int
    mean: float
    p99: float


class BenchResult(NamedTuple):
    """Measurements of a run.

    Attributes:
        load: Load average before, of a minute.
        players: Players of the home.
        requests: Requests of a turn.
        idle: Side -> CPU time of it and its store while idle.
        turns: Side -> its turn of each round; a peer that is not installed has none.
        kept: Side -> what its store takes for each decision, after all rounds.
    """

    load: float
    players: int
    requests: int
    idle: Mapping[str, Cost]
    turns: Mapping[str, Sequence[Turn]]
    kept: Mapping[str, KeptBytes] = {}

    def median(self, side: str, of: Callable[[Turn], float]) -> float | None:
        """Median over the turns of a side, None without turns."""
        return statistics.median(of(turn) for turn in self.turns[side]) if side in self.turns else None

    def ratio_to(self, side: str, of: Callable[[Turn], float] = server) -> Ratio | None:
        """CPU time of our decision over that of a side, None if the side took no turn."""
        return ratio(*(list(map(of, self.turns[name])) for name in ("decision", side))) if side in self.turns else None

    @property
    def answers(self) -> list[CallerAnswer]:
        """All answers to our decisions."""
        return [answer for turn in self.turns["decision"] for answer in turn.answers]


def idle_server(at_rest: Cost) -> float:
    """CPU time of an idle server, microseconds per second."""
    return at_rest.server / at_rest.seconds


def idle_store(at_rest: Cost) -> float:
    """CPU time of an idle store's main thread, microseconds per second."""
    return at_rest.store / at_rest.seconds


# --- The mix of answers


def kind(answer: CallerAnswer) -> str:
    """Kind of an answer: `contact`, `NO_CONTACT` with its reason, an HTTP status, or `no answer`."""
    if answer.status != 200:
        return str(answer.status) if answer.status else "no answer"
    body = json.loads(answer.body)
    return "contact" if body["action"] != "NO_CONTACT" else f"NO_CONTACT, {_reason(body)}"


def _reason(body: Mapping[str, Any]) -> str:
    if not body["recorded"]:
        return f"not recorded ({', '.join(body['degraded'])})"
    if (body["experiment"] or {}).get("variant") == "holdout":
        return "holdout"
    if "lost" in body:
        return "budget lost"
    return "nothing else was allowed" if body["propensity"] == 1 else "drawn"


def mix(answers: Sequence[CallerAnswer]) -> dict[str, float]:
    """Share of each kind of answer, the most frequent first."""
    return _shares(Counter(map(kind, answers)), len(answers))


def exclusions(answers: Sequence[CallerAnswer]) -> dict[str, float]:
    """Share of answers without a contact, holdout apart, that name each rule."""
    alone = [answer for answer in answers if kind(answer).startswith("NO_CONTACT") and "holdout" not in kind(answer)]
    named = Counter(rule["rule"] for answer in alone for rule in json.loads(answer.body)["exclusions"])
    return _shares(named, len(alone))


def _shares(counted: Counter[str], total: int) -> dict[str, float]:
    return {name: round(count / total, 4) for name, count in counted.most_common()}


def contact_share(measured: BenchResult) -> float:
    """Share of decisions with a contact."""
    return mix(measured.answers).get("contact", 0.0)


def trouble(measured: BenchResult) -> str | None:
    """Why the figures are not trustworthy, None if they are."""
    share = contact_share(measured)
    if share < LEAST_CONTACTS:
        return f"{share:.1%} of the answers were contacts, below {LEAST_CONTACTS:.0%}: these are not whole decisions"
    return None


def errors(measured: BenchResult) -> dict[str, int]:
    """Number of answers other than 200, by side."""
    return {
        name: sum(answer.status != 200 for turn in taken for answer in turn.answers)
        for name, taken in measured.turns.items()
    }


# --- For machines


def for_machines(measured: BenchResult) -> dict[str, Any]:
    """The result as plain values for JSON; null for a peer that is not installed."""
    ratios = {name: measured.ratio_to(name) for name in PEERS}
    share = mix(measured.answers)
    result: dict[str, Any] = {
        "cpu_us": {name: _round(measured.median(name, server)) for name in ("decision", *PEERS)},
        **{f"ratio_to_{name}": _estimate(ratios[name]) for name in NAMED},
        "decisions_per_second": _round(measured.median("decision", lambda turn: turn.per_second)),
        "contact_share": contact_share(measured),
        "store_cpu_us": _round(measured.median("decision", store)),
        "store_other_threads_cpu_us": _round(measured.median("decision", store_others)),
        "intervals": {name: None if spread is None else _spread(spread) for name, spread in ratios.items()},
        "idle_cpu_us_per_second": {name: round(idle_server(cost)) for name, cost in measured.idle.items()}
        | {"store": round(idle_store(measured.idle["decision"]))},
        "mix": share,
        "exclusions": exclusions(measured.answers),
        "errors": errors(measured),
        "players": measured.players,
        "rounds": len(measured.turns["decision"]),
        "requests": measured.requests,
        "load_before": round(measured.load, 2),
        "kept_bytes": {name: one._asdict() for name, one in measured.kept.items()},
    }
    if (to_commit := measured.ratio_to("commit")) is None:
        return result
    to_commit_store = measured.ratio_to("commit", store)
    assert to_commit_store is not None  # noqa: S101 - its turns are those of the line above
    result["cpu_us"]["commit"] = _round(measured.median("commit", server))
    return result | {"ratio_to_commit": _spread(to_commit), "store_ratio_to_commit": _spread(to_commit_store)}


def _spread(spread: Ratio) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in spread._asdict().items()}


def _estimate(spread: Ratio | None) -> float | None:
    return None if spread is None else round(spread.estimate, 4)


def _round(value: float | None) -> int | None:
    return None if value is None else round(value)


# --- For people


def show(measured: BenchResult, console: Console) -> None:
    """Print tables of costs and mix, with notes."""
    console.print(_costs(measured))
    console.print(_mix(measured))
    api, kept = (of(measured.idle["decision"]) for of in (idle_server, idle_store))
    per_second = measured.median("decision", lambda turn: turn.per_second)
    lines = [
        f"idle: the API {api:,.0f} us a second, the store {kept:,.0f}; taken off above",
        f"{per_second:,.0f} decisions a second with 8 callers; load average before {measured.load:.2f}",
        f"{len(measured.turns['decision'])} rounds of {measured.requests} requests over {measured.players:,} players",
    ]
    lines += [
        f"{name}: the store keeps {one.mean:,.0f} bytes of a decision, 99 % at most {one.p99:,.0f} ({one.decisions:,})"
        for name, one in measured.kept.items()
    ]
    if wrong := {name: count for name, count in errors(measured).items() if count}:
        lines.append(f"answers other than 200: {wrong}")
    if absent := [name for name in PEERS if name not in measured.turns]:
        lines.append(f"not measured: {', '.join(absent)} (what is not installed comes with `make install-bench`)")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _costs(measured: BenchResult) -> Table:
    table = Table("median CPU, us per request", title="What a decision costs")
    for heading in ("server", "its store, main thread", "other threads", "decision / this", "95 % of the sign test"):
        table.add_column(heading, justify="right")
    for name in measured.turns:
        parts = [f"{measured.median(name, of):,.0f}" for of in (server, store, store_others)]
        table.add_row(name, *parts, *_ratio(measured.ratio_to(name)))
    return table


def _ratio(spread: Ratio | None) -> tuple[str, str]:
    if spread is None or spread.low is None or spread.high is None:
        return ("" if spread is None else f"{spread.estimate:.2f}", "too few rounds")
    return f"{spread.estimate:.2f}", f"{spread.low:.2f} to {spread.high:.2f}"


def _mix(measured: BenchResult) -> Table:
    table = Table("answer", title="What was answered")
    table.add_column("share", justify="right")
    for name, share in mix(measured.answers).items():
        table.add_row(name, f"{share:.1%}")
    for name, share in list(exclusions(measured.answers).items())[:6]:
        table.add_row(f"  of those not to contact, holdout apart: {name}", f"{share:.1%}")
    return table
