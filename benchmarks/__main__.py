"""The command line of the benches; `croupier bench` starts it from a checkout."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


@app.callback()
def _benches() -> None:
    """Measure against peers, in turns."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all that was started is stopped too


@app.command()
def decide(
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds; fewer than six give no interval.")] = 40,
    requests: Annotated[int, typer.Option(min=8, help="Requests of a turn.")] = 1_000,
    players: Annotated[int, typer.Option(min=8, help="Players of the home.")] = 20_000,
    peers: Annotated[str, typer.Option(help="Names with commas between them, all, or none.")] = "all",
    against: Annotated[str | None, typer.Option(help="A commit to build and to measure beside this build.")] = None,
    as_json: Json = False,
) -> None:
    """CPU of a whole decision beside its peers. Example: croupier bench decide --against HEAD~1."""
    from benchmarks import result
    from benchmarks.builds import BuildError
    from benchmarks.decide import Plan, measure

    plan = Plan(players, rounds, requests, _named(peers), against)
    try:
        measured = measure(plan, Console(stderr=True))
    except (BuildError, TimeoutError) as error:
        _fail(str(error), 2)
    if as_json:
        print(json.dumps(result.for_machines(measured)))
    else:
        result.show(measured, Console(width=None if sys.stdout.isatty() else 120))
    if (trouble := result.trouble(measured)) is not None:
        _fail(trouble, 1)


@app.command()
def events(
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds; fewer than six give no interval.")] = 8,
    events: Annotated[int, typer.Option(min=100, help="Events of a turn, by file and by HTTP each.")] = 20_000,
    players: Annotated[int, typer.Option(min=10, help="Players that they are about.")] = 10_000,
    rate: Annotated[float, typer.Option(min=1, help="Single events a second while visibility is measured.")] = 1_000,
    seconds: Annotated[float, typer.Option(min=1, help="How long that lasts.")] = 20,
    against: Annotated[str | None, typer.Option(help="A commit to build and to measure beside this build.")] = None,
    as_json: Json = False,
) -> None:
    """CPU of an event from file and HTTP to features and lake. Example: croupier bench events --against HEAD~1."""
    from benchmarks.builds import BuildError
    from benchmarks.events import EventsPlan, measure

    try:
        found = measure(EventsPlan(players, rounds, events, rate, seconds, against), Console(stderr=True))
    except (BuildError, TimeoutError) as error:
        _fail(str(error), 2)
    print(json.dumps(found, indent=None if as_json else 2))


@app.command()
def growth(
    kinds: Annotated[str, typer.Option(help="What grows, with commas between them, or all.")] = "all",
    most: Annotated[int, typer.Option(min=1, help="Leave out sizes above it.")] = 1_000_000,
    furnished: Annotated[int, typer.Option(min=100, help="Players of the home that is copied.")] = 10_000,
    rounds: Annotated[
        int, typer.Option(min=1, help="Counted rounds of each size; fewer than six give no interval.")
    ] = 8,
    requests: Annotated[int, typer.Option(min=8, help="Requests of a turn.")] = 250,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this file.")] = None,
    as_json: Json = False,
) -> None:
    """CPU of a decision as a house grows. Example: croupier bench growth --kinds candidates,rules --plot growth.svg."""
    from benchmarks import growth as grows

    named = tuple(grows.KINDS) if kinds == "all" else tuple(kinds.split(","))
    if unknown := sorted(set(named) - grows.KINDS.keys()):
        _fail(f"--kinds knows no {', '.join(unknown)}; there are {', '.join(grows.KINDS)}", 2)
    if most < (least := max(grows.KINDS[kind][0] for kind in named)):
        _fail(f"--most {most} leaves a kind without any size: {least} is the least for these", 2)
    try:
        found = grows.measure(grows.GrowthPlan(named, most, furnished, rounds, requests), Console(stderr=True))
    except TimeoutError as error:
        _fail(str(error), 2)
    if plot is not None:
        grows.draw(found).savefig(plot)
    if as_json:
        print(json.dumps(found))
    else:
        grows.show(found, Console(width=None if sys.stdout.isatty() else 120))


@app.command()
def load(
    seconds: Annotated[float, typer.Option(min=1, help="How long each rate lasts.")] = 20,
    players: Annotated[int, typer.Option(min=8, help="Players of the home.")] = 20_000,
    shares: Annotated[
        str, typer.Option(help="Rates as shares of the capacity, with commas between them.")
    ] = "0.1,0.25,0.5,0.75,0.9,1,1.5,2,4",
    against: Annotated[str | None, typer.Option(help="A commit to build and to measure beside this build.")] = None,
    as_json: Json = False,
) -> None:
    """Rates fixed ahead, from a tenth of capacity to four times. Example: croupier bench load --against HEAD~1."""
    from benchmarks import load as loads
    from benchmarks.builds import BuildError

    try:
        rates = sorted({float(one) for one in shares.split(",")})
    except ValueError:
        _fail(f"--shares are numbers with commas between them, not {shares!r}", 2)
    if not rates or rates[0] <= 0:
        _fail("--shares are above 0", 2)
    try:
        found = loads.measure(loads.LoadPlan(players, seconds, rates, against), Console(stderr=True))
    except (BuildError, TimeoutError) as error:
        _fail(str(error), 2)
    if as_json:
        print(json.dumps(found))
    else:
        loads.show(found, Console(width=None if sys.stdout.isatty() else 140))


@app.command()
def classes(
    players: Annotated[int, typer.Option(min=8, help="Players of the home.")] = 5_000,
    seconds: Annotated[float, typer.Option(min=5, help="How long each part lasts.")] = 20,
    as_json: Json = False,
) -> None:
    """Batches beside decisions, exclusions under overload. Example: croupier bench classes --seconds 20."""
    from benchmarks.classes import ClassesPlan, measure

    try:
        found = measure(ClassesPlan(players, seconds), Console(stderr=True))
    except TimeoutError as error:
        _fail(str(error), 2)
    print(json.dumps(found, indent=None if as_json else 2))


@app.command()
def restarts(
    players: Annotated[int, typer.Option(min=8, help="Players of the home.")] = 2_000,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 100,
    seconds: Annotated[float, typer.Option(min=10, help="Load around each fault.")] = 60,
    as_json: Json = False,
) -> None:
    """Serving processes replaced, killed and frozen under load. Example: croupier bench restarts --rate 100."""
    from benchmarks.restarts import RestartsPlan, measure

    try:
        found = measure(RestartsPlan(players, rate, seconds), Console(stderr=True))
    except TimeoutError as error:
        _fail(str(error), 2)
    print(json.dumps(found, indent=None if as_json else 2))


@app.command()
def sends(
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds; fewer than six give no interval.")] = 12,
    requests: Annotated[int, typer.Option(min=8, help="Decisions of a turn.")] = 300,
    players: Annotated[int, typer.Option(min=8, help="Players that are written to.")] = 1_000,
    rate: Annotated[float, typer.Option(min=1, help="Decisions a second that are sent at once.")] = 100,
    seconds: Annotated[float, typer.Option(min=1, help="How long that lasts.")] = 20,
    channel: Annotated[str, typer.Option(help="sms or email.")] = "sms",
    as_json: Json = False,
) -> None:
    """From a decision to the provider's socket, and what a message costs. Example: croupier bench sends --rate 100."""
    from benchmarks.sends import SendsPlan, measure

    if channel not in {"sms", "email"}:
        _fail(f"--channel is sms or email, not {channel!r}", 2)
    try:
        found = measure(SendsPlan(players, rounds, requests, rate, seconds, channel), Console(stderr=True))
    except TimeoutError as error:
        _fail(str(error), 2)
    print(json.dumps(found, indent=None if as_json else 2))


@app.command()
def silence(
    times: Annotated[int, typer.Option(min=1, help="Players who exclude themselves.")] = 1_000,
    as_json: Json = False,
) -> None:
    """Exclusions while decisions and confirms are in flight. Example: croupier bench silence --times 10000."""
    from benchmarks.silence import silence as measure

    found = measure(times, Console(stderr=True))
    print(json.dumps(found) if as_json else "\n".join(f"{name:>18}  {value}" for name, value in found.items()))


@app.command()
def restricting(
    times: Annotated[int, typer.Option(min=4, help="Facts that are told.")] = 1_000,
    as_json: Json = False,
) -> None:
    """Facts that restrict, of linked ids, under load. Example: croupier bench restricting --times 10000."""
    from benchmarks.restricting import restricting as measure

    found = measure(times, Console(stderr=True))
    print(json.dumps(found) if as_json else "\n".join(f"{name:>18}  {value}" for name, value in found.items()))


@app.command()
def trace(
    against: Annotated[str | None, typer.Option(help="A commit to build and to trace beside this build.")] = None,
    as_json: Json = False,
) -> None:
    """The way of one decision through folders and modules. Example: croupier bench trace --against HEAD~1."""
    from benchmarks import trace as ways
    from benchmarks.builds import BuildError

    try:
        found = ways.trace(against, Console(stderr=True))
    except BuildError as error:
        _fail(str(error), 2)
    if as_json:
        print(json.dumps(found))
    else:
        ways.show(found, Console(width=None if sys.stdout.isatty() else 120))


def _named(peers: str) -> tuple[str, ...]:
    """Peers by name."""
    from benchmarks.peers.servers import PEERS

    names = {"all": tuple(PEERS), "none": ()}.get(peers, tuple(peers.split(",")))
    if unknown := sorted(set(names) - PEERS.keys()):
        _fail(f"there is no peer {', '.join(unknown)}; there are {', '.join(PEERS)}", 2)
    return names


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"croupier: {sentence}", file=sys.stderr)
    sys.exit(code)


@app.command()
def soak(
    players: Annotated[int, typer.Option(min=8, help="Players of the home.")] = 20_000,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second; six decisions come of five.")] = 200,
    minutes: Annotated[float, typer.Option(min=1)] = 30,
    clock: Annotated[float, typer.Option(min=1, help="House seconds per real second.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this file.")] = None,
    as_json: Json = False,
) -> None:
    """All loops of a house for long under a steady load. Example: croupier bench soak --minutes 30 --plot soak.svg."""
    from benchmarks import soak as soaks

    try:
        found = soaks.measure(soaks.SoakPlan(players, rate, minutes, clock), Console(stderr=True))
    except TimeoutError as error:
        _fail(str(error), 2)
    if plot is not None:
        soaks.draw(found).savefig(plot)
    print(json.dumps(found) if as_json else soaks.summary(found))


if __name__ == "__main__":
    app(prog_name="croupier bench")
