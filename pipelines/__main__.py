"""The command line. Bad input ends with one sentence and exit code 2; `--json` prints the result for machines."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import redis
import typer
from typer._click.exceptions import ClickException

from features import zones
from features.errors import CroupierError
from features.moments import micros
from features.settings import Environment, Row, environment, for_children, listed, unknown, use_store
from features.store.connection import connect
from features.store.deployment import open_house
from features.store.server import relying, serving
from pipelines.worker.child import end_with_parent

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.worker.webhooks import Endpoint, Webhooks

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Deals the next best action to each player, under the rules of the house.",
)


def _group(name: str, about: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, help=about)
    app.add_typer(group, name=name)
    return group


imports = _group("import", "Take in outside data.")
train = _group("train", "Train a model.")
promote = _group("promote", "Let a model serve, if it passes its gate.")
rollback = _group("rollback", "Undo a promotion.")
report = _group("report", "Report what an experiment brought.")
rules = _group("rules", "Read, check, explain and compare the rules of the house.")
webhooks = _group("webhooks", "Who is told that a lease was taken back; CROUPIER_WEBHOOKS names the file.")
bench = _group("bench", "Measure against peers, in turns.")

_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Settings of a command whose options, `--help` among them, are read by the process that it starts."""
EndpointId = Annotated[str, typer.Argument(help="Its id in the file.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class CommandRefused(CroupierError):
    """What a command was asked cannot be done."""

    code = "command_refused"
    exit_code = 2


def home() -> Path:
    """CROUPIER_HOME, by default `var/`."""
    return environment().home


def console() -> Console:
    """Where people are told how far it is; results go to standard output."""
    from rich.console import Console

    return Console(stderr=True)


def paper() -> Console:
    """Where tables are printed: standard output, wide where no window bounds it."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result for people or for machines."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:>18}  {value}")


def _clock(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise CommandRefused(f"--clock takes a date or a moment such as 2020-03-02T10:00:00Z, not {text!r}") from error
    # A bare date is the middle of that day: its morning has happened, and nobody sleeps.
    hour = 12 if len(text) == len("2020-03-02") else at.hour
    return micros(at.replace(hour=hour, tzinfo=at.tzinfo or UTC))


@app.command()
def up(
    port: Annotated[
        int, typer.Option(envvar=Environment.port.name, help="Port of the API.", min=1, max=65_534)
    ] = Environment.port.default,
    clock: Annotated[
        str | None, typer.Option(help="House time at creation, UTC; a date means its noon. Makes a sandbox.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="House seconds per real second.", min=0.001, max=100_000)] = None,
    players: Annotated[int, typer.Option(help="Players of the seeded world; 0 for an empty house.", min=0)] = 500,
    workers: Annotated[int, typer.Option(help="API processes.", min=1, max=64)] = 1,
    screen: Annotated[bool, typer.Option(help="Start MLflow's own screen.")] = True,
) -> None:
    """Start all on one machine: store, worker, API, MLflow. Example: croupier up --port 8000."""
    from pipelines.machine.up import Options
    from pipelines.machine.up import up as start

    _warn_of_unknown()
    start(Options(home(), port, _clock(clock), rate, players, workers, screen), console())


@app.command()
def serve(
    port: Annotated[int, typer.Option(envvar=Environment.port.name, min=1, max=65_535)] = Environment.port.default,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=64)] = 1,
) -> None:
    """Serve the API over a running store. Example: CROUPIER_STORE=redis://host:6379 croupier serve."""
    import uvicorn

    from service.api.app import Settings

    _log_to_stderr()
    _warn_of_unknown()
    if host not in LOOPBACK and not environment().keys:
        raise CommandRefused("without CROUPIER_KEYS the service listens on loopback only")
    with relying(home()) as url:
        use_store(url)
        Settings.here(url)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again when it has ended
        uvicorn.run(
            "service.api.app:create",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            loop="uvloop",
            http="httptools",
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=5,
        )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at a house and say what to do; exit code 1 if there is a fault. Example: croupier doctor."""
    from pipelines.doctor.doctor import examine

    found = examine(home())
    healthy = all(one.grade != "fault" for one in found)
    if as_json:
        show({"home": str(home()), "healthy": healthy, "checks": [one._asdict() for one in found]}, as_json=True)
    else:
        for one in found:
            print(f"{one.grade:<7}  {one.check:<10}  {one.seen}{f'; to do: {one.do}' if one.do else ''}")
    if not healthy:
        sys.exit(1)


@app.command()
def settings(as_json: Json = False) -> None:
    """Show every setting, its default, who said so and what it is for. Example: croupier settings."""
    from rich.table import Table

    rows = listed(home())
    if as_json:
        show({"settings": [one._asdict() for one in rows]}, as_json=True)
        return
    table = Table(box=None, pad_edge=False)
    for name in Row._fields:
        table.add_column(name, overflow="fold")
    for one in rows:
        table.add_row(*("" if text is None else str(text) for text in one))
    paper().print(table, markup=False)


def _warn_of_unknown() -> None:
    for one in unknown(environment()):
        print(f"croupier: warning: {one}", file=sys.stderr)


@app.command(hidden=True)
def screen(port: Annotated[int, typer.Option(min=1, max=65_535)] = 8001) -> None:
    """Show MLflow's own screen over the house's runs and models. Example: croupier screen --port 8001."""
    import uvicorn

    from models.releases.screen import screen as build

    uvicorn.run(build(home()), host="127.0.0.1", port=port, access_log=False, log_level="warning")


@app.command()
def worker() -> None:
    """Turn the log into features and lake, tell senders, run what is scheduled. Example: croupier worker."""
    from pipelines.worker.process import Worker
    from pipelines.worker.schedule import Scheduler, read_schedules
    from pipelines.worker.webhooks import read_webhooks

    _log_to_stderr()
    _warn_of_unknown()
    schedules, told = read_schedules(home()), read_webhooks()
    with relying(home()) as url:
        client = connect(url)
        running = Worker(url, home() / "lake", Scheduler(client, open_house(client), schedules, home(), url), told)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: running.stop())
        running.run()


@app.command()
def learn() -> None:
    """Learn a policy from the lake as it grows, and publish it. Example: croupier learn."""
    from pipelines.learning.learner import LearnerProcess, MlflowReporter
    from pipelines.learning.training_log import open_training

    _log_to_stderr()
    _warn_of_unknown()
    with relying(home()) as url:
        running = LearnerProcess(url, home(), open_training(home()), MlflowReporter(home()), lambda _: None)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: running.stop())
        running.run()


@imports.command("events")
def import_events(
    file: Annotated[Path, typer.Argument(help="CSV or JSON lines, gzipped or not.")],
    mapping: Annotated[Path | None, typer.Option(help="Which column means what; without it, our own events.")] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="Where rejected rows go; by default CROUPIER_HOME/rejects.")
    ] = None,
    max_rejected_share: Annotated[
        float | None, typer.Option(help="End where more is rejected; by default the mapping's, 0.5.", min=0, max=1)
    ] = None,
    as_json: Json = False,
) -> None:
    """Import events of any age. Example: croupier import events log.csv.gz --mapping payments_log."""
    from pipelines.imports.importer import run

    _log_to_stderr()
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(name, _leave)
    done = run(home(), file, mapping=mapping, rejects=rejects, max_rejected_share=max_rejected_share)
    show(done._asdict(), as_json=as_json)
    for warning in done.warnings:
        print(f"croupier: warning: {warning}", file=sys.stderr)
    if done.refusal:
        raise CommandRefused(done.refusal)


def _leave(number: int, _: object) -> NoReturn:
    """End by a signal as by an exception: what is open is closed, temporary files go; a second one changes nothing."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


@imports.command("schema")
def import_schema() -> None:
    """Print the JSON schema of a mapping file. Example: croupier import schema > mapping.schema.json."""
    from pipelines.imports.columns import schema

    print(json.dumps(schema(), indent=2))


@train.command("churn")
def train_churn(
    horizon: Annotated[int | None, typer.Option(min=1, max=365, help="Days; by default mlflow.yaml's.")] = None,
    last_cutoff: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Leave out cut-offs after this day.")
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Promote it if it passes the gate.")] = False,
    as_json: Json = False,
) -> None:
    """Train, measure and register a churn model. Example: croupier train churn --horizon 30."""
    from pipelines.training import churn, promotion

    with serving(home()) as url:
        result = churn.train(home(), url, horizon, last_cutoff.date() if last_cutoff else None)
        show(msgspec.to_builtins(result), as_json=as_json)
        if promote:
            promotion.promote(home(), url, result.model_version)


@promote.command("churn")
def promote_churn(
    version: Annotated[str, typer.Argument(help="As `train churn` printed it.")], as_json: Json = False
) -> None:
    """Let a model serve if it passes the gate. Example: croupier promote churn 2."""
    from pipelines.rules.rulebooks import places_forbidden_to_policy
    from pipelines.training.promotion import promote as let_serve

    with serving(home()) as url:
        done = msgspec.to_builtins(let_serve(home(), url, version))
        show(done | {"business_rules_in": places_forbidden_to_policy(connect(url))}, as_json=as_json)


@rollback.command("churn")
def rollback_churn(as_json: Json = False) -> None:
    """Let the model before this one serve again. Example: croupier rollback churn."""
    from pipelines.training.promotion import rollback as go_back

    with serving(home()) as url:
        result = go_back(home(), url)
        show(msgspec.to_builtins(result), as_json=as_json)
        _record(url, apart=result.serving > 0)


@promote.command("policy")
def promote_policy(as_json: Json = False) -> None:
    """Let what is learnt serve again after a rollback. Example: croupier promote policy."""
    from pipelines.learning.policy import promote as let_go
    from pipelines.rules.rulebooks import places_forbidden_to_policy

    with serving(home()) as url:
        done = msgspec.to_builtins(let_go(url))
        show(done | {"business_rules_in": places_forbidden_to_policy(connect(url))}, as_json=as_json)


@rollback.command("policy")
def rollback_policy(
    version: Annotated[
        str | None, typer.Argument(help="As decisions name it; by default the one that served a day ago.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let an earlier policy serve, and hold what is learnt meanwhile. Example: croupier rollback policy."""
    from pipelines.learning.policy import rollback as go_back

    with serving(home()) as url:
        show(msgspec.to_builtins(go_back(url, version)), as_json=as_json)


@promote.command("rules")
def promote_rules(
    folder: Annotated[str, typer.Argument(help="Folder of a rulebook, or the hash of one that served.")],
    weaker: Annotated[bool, typer.Option("--weaker", help="It may lack rules that are applied now.")] = False,
    as_json: Json = False,
) -> None:
    """Let a rulebook serve that loads, is sound and loses no rule. Example: croupier promote rules rulebook/."""
    from pipelines.rules.rulebooks import promote as let_serve

    with serving(home()) as url:
        show(msgspec.to_builtins(let_serve(url, folder, weaker=weaker)), as_json=as_json)


@rollback.command("rules")
def rollback_rules(as_json: Json = False) -> None:
    """Let the rulebook before this one serve again. Example: croupier rollback rules."""
    from pipelines.rules.rulebooks import rollback as go_back

    with serving(home()) as url:
        show(msgspec.to_builtins(go_back(url)), as_json=as_json)


Folder = Annotated[Path | None, typer.Argument(help="Folder of a rulebook; by default CROUPIER_RULES or our own.")]


@rules.command("lint")
def rules_lint(folder: Folder = None, as_json: Json = False) -> None:
    """Check a rulebook; exit code 2 if it does not load, 1 if it errs or warns. Example: croupier rules lint FOLDER."""
    from pipelines.rules.inspection import lint_files
    from pipelines.rules.tables import findings

    found = lint_files(folder, datetime.now(UTC).date())
    show(found, as_json=True) if as_json else paper().print(findings(found))
    if any(one["grade"] != "note" for one in found["findings"]):
        sys.exit(1)


@rules.command("list")
def rules_list(
    jurisdiction: Annotated[str, typer.Option(help="Country, or country and region, such as GB or US-FL.")],
    on: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day; by default today.")] = None,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """List the rules that bind in a place on a day. Example: croupier rules list --jurisdiction GB --on 2026-01-19."""
    from pipelines.rules.inspection import rules_of_place
    from pipelines.rules.tables import rules_of

    found = rules_of_place(folder, jurisdiction, (on or datetime.now(UTC)).date())
    show(found, as_json=True) if as_json else paper().print(rules_of(found))


@rules.command("explain")
def rules_explain(
    player: Annotated[str, typer.Argument(help="Your id of the player.")],
    brand: Annotated[str, typer.Option(help="Brand the contact would be for.")] = "main",
    as_json: Json = False,
) -> None:
    """Tell what may be sent to a player now, what not, and why. Example: croupier rules explain player-1."""
    from pipelines.rules.explain import explain
    from pipelines.rules.tables import explained

    with serving(home()) as url:
        found = explain(url, player, brand)
    show(found, as_json=True) if as_json else paper().print(explained(found))


@rules.command("diff")
def rules_diff(
    old: Annotated[str, typer.Argument(help="Folder of a rulebook, or a hash that decisions name.")],
    new: Annotated[str, typer.Argument(help="Another one.")],
    since: Annotated[str, typer.Option(help="7d, 12h, or a day such as 2026-11-01.")] = "7d",
    lake: Annotated[Path | None, typer.Option(help="By default the house's.")] = None,
    as_json: Json = False,
) -> None:
    """Tell what another rulebook would have denied or allowed. Example: croupier rules diff OLD NEW --since 7d."""
    from pipelines.rules.compare import compare_rulebooks
    from pipelines.rules.tables import differences

    with serving(home()) as url:
        found = compare_rulebooks(url, lake or home() / "lake", old, new, since, console())
    show(found, as_json=True) if as_json else paper().print(differences(found))


@rules.command("page")
def rules_page(folder: Folder = None) -> None:
    """Print the documentation of a rulebook as Markdown. Example: croupier rules page > docs/rules.md."""
    from pipelines.rules.page import page
    from service.rules.rulebook import load_rulebook, rulebook_path

    sys.stdout.write(page(load_rulebook(folder or rulebook_path())))


@webhooks.command("check")
def webhooks_check(as_json: Json = False) -> None:
    """Read the file, resolve and check every endpoint, send nothing. Example: croupier webhooks check."""
    import asyncio

    from pipelines.worker.http_client import examine_all

    found = asyncio.run(examine_all(_webhooks()))
    if as_json:
        show({"endpoints": [one._asdict() for one in found]}, as_json=True)
    else:
        for one in found:
            print(f"{one.id:>18}  {one.trouble or 'may be called'}  ({one.host}: {', '.join(one.addresses)})")
    if refused := [one.id for one in found if one.trouble]:
        raise CommandRefused(f"not every endpoint can be called: {', '.join(refused)}")


@webhooks.command("test")
def webhooks_test(endpoint_id: EndpointId, as_json: Json = False) -> None:
    """Send an endpoint a signed example, once, and say what it answered. Example: croupier webhooks test crm."""
    import asyncio

    from pipelines.worker.http_client import send_example
    from pipelines.worker.webhooks import verdict

    told = _webhooks()
    answer = asyncio.run(send_example(_endpoint(told, endpoint_id), told))
    show({"endpoint": endpoint_id, "status": answer.status, "answer": answer.trouble}, as_json=as_json)
    if verdict(answer.status) != "delivered":
        raise CommandRefused(f"{endpoint_id} did not take the example: {answer.trouble}")


@webhooks.command("enable")
def webhooks_enable(endpoint_id: EndpointId) -> None:
    """Call an endpoint again that had answered 410 Gone. Example: croupier webhooks enable crm."""
    from pipelines.worker.outbox import enable

    _endpoint(_webhooks(), endpoint_id)
    with serving(home()) as url:
        changed = enable(connect(url), endpoint_id)
    print(f"{endpoint_id} is called again" if changed else f"{endpoint_id} was not disabled")


def _webhooks() -> Webhooks:
    from pipelines.worker.webhooks import read_webhooks

    told = read_webhooks()
    if not told.endpoints:
        raise CommandRefused("nobody is subscribed: CROUPIER_WEBHOOKS names no file with endpoints")
    return told


def _endpoint(told: Webhooks, endpoint_id: str) -> Endpoint:
    found = next((one for one in told.endpoints if one.id == endpoint_id), None)
    if found is None:
        names = ", ".join(one.id for one in told.endpoints)
        raise CommandRefused(f"there is no endpoint {endpoint_id!r}; the file has {names}")
    return found


def _log_to_stderr() -> None:
    """Logs of what runs on and on; a command that ends soon spares the import."""
    import logging

    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _record(url: str, *, apart: bool) -> None:
    """Tell MLflow what changed: beside us if a house is up, so that nobody waits for MLflow to be imported."""
    if not apart:
        settle()
        return
    from pipelines.worker.child import Child

    logs = home() / "logs"
    logs.mkdir(exist_ok=True)
    own = for_children(home(), url)
    Child("settle", [sys.executable, "-m", "pipelines", "settle"], own, logs / "settle.log").start()


@app.command(hidden=True)
def settle() -> None:
    """Tell MLflow of changes of what serves that it was not told of yet. Example: croupier settle."""
    from pipelines.training.promotion import settle as tell

    with serving(home()) as url:
        tell(home(), connect(url))


@app.command()
def retrain(as_json: Json = False) -> None:
    """Materialise, train, gate and promote the churn model, as one run of MLflow's. Example: croupier retrain."""
    from pipelines.training.retrain import retrain as again

    signal.signal(signal.SIGTERM, _stop)
    with serving(home()) as url:
        result = again(home(), url, console())
    show(msgspec.to_builtins(result), as_json=as_json)
    if result.reason is not None:
        raise CommandRefused(result.reason)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


@app.command()
def simulate(
    address: Annotated[str, typer.Option(help="The sandbox house.")] = "http://127.0.0.1:8000",
    seed: Annotated[int, typer.Option(min=0)] = 1,
    players: Annotated[int, typer.Option(min=10)] = 600,
    days: Annotated[float, typer.Option(min=1, max=3_650, help="Of the house's clock.")] = 42,
    decisions: Annotated[int, typer.Option(min=100, help="About how many are asked for in all.")] = 20_000,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; by default CROUPIER_HOME/simulations.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Drive a sandbox house with a seeded crowd. Example: croupier up --players 0 --rate 10000; croupier simulate."""
    from rich.console import Console

    from models.catalogue.offers import load_catalogue
    from pipelines.simulation import results
    from pipelines.simulation.simulate import SimulationOptions
    from pipelines.simulation.simulate import simulate as drive
    from service.api.app import catalogue_path

    catalogue = load_catalogue(catalogue_path())
    course = drive(SimulationOptions(address, seed, players, days, decisions), catalogue, console())
    folder = (out or home() / "simulations") / f"seed-{seed}"
    found = results.measure(course)
    results.write(course, found, folder)
    if as_json:
        show(msgspec.to_builtins(found), as_json=True)
        return
    shown = Console()
    shown.print(results.table(found))
    if (pooled := results.pool(folder.parent)) is not None:
        shown.print(results.together(pooled))
    shown.print(f"results and plots are in {folder}", highlight=False)


@report.command("uplift")
def report_uplift(
    window_days: Annotated[
        int | None, typer.Option(min=1, max=365, help="Days from a player's first decision; by default mlflow.yaml's.")
    ] = None,
    lake: Annotated[Path | None, typer.Option(help="Somebody else's files of the lake's columns.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Its key; by default the one that decided last.")] = None,
    as_json: Json = False,
) -> None:
    """What the variants brought: health, differences, verdict. Example: croupier report uplift --window-days 14."""
    from rich.console import Console

    from pipelines.experiments import page
    from pipelines.experiments.report import run

    found = run(home(), lake, window_days, experiment)
    if as_json:
        files = {"files": [str(file) for file in found.files], "published": found.published}
        show(msgspec.to_builtins(found.report) | files, as_json=True)
        return
    shown = Console()
    shown.print(page.terminal(found.report))
    said = found.report.verdict or "verdict withheld: " + "; ".join(found.report.health.reasons)
    shown.print(said, markup=False, highlight=False)
    shown.print("written: " + ", ".join(str(file) for file in found.files), markup=False, highlight=False)
    if found.published:
        shown.print("published at /reports/uplift of the API", markup=False, highlight=False)


@bench.command("decide", context_settings=_PASSED_ON)
def bench_decide(context: typer.Context) -> None:
    """CPU of a whole decision beside its peers. Example: croupier bench decide --rounds 10."""
    _from_checkout("decide", context.args)


@bench.command("rules")
def bench_rules(rounds: Annotated[int, typer.Option(min=1)] = 15, as_json: Json = False) -> None:
    """A mask with all reasons beside CEL and zen-engine. Example: croupier bench rules --rounds 15."""
    from pipelines.bench.rules import rules as measure

    show(measure(rounds, console()), as_json=as_json)


@bench.command("ledger")
def bench_ledger(rounds: Annotated[int, typer.Option(min=1)] = 10, as_json: Json = False) -> None:
    """A reservation over eight caps beside a plain append. Example: croupier bench ledger --rounds 10."""
    from pipelines.bench.ledger import ledger

    show(ledger(rounds, console()), as_json=as_json)


@bench.command("silence", context_settings=_PASSED_ON)
def bench_silence(context: typer.Context) -> None:
    """Exclusions while decisions and confirms are in flight. Example: croupier bench silence --times 10000."""
    _from_checkout("silence", context.args)


@bench.command("restricting", context_settings=_PASSED_ON)
def bench_restricting(context: typer.Context) -> None:
    """Facts that restrict, of linked ids, under load. Example: croupier bench restricting --times 10000."""
    _from_checkout("restricting", context.args)


def _from_checkout(name: str, arguments: Sequence[str]) -> NoReturn:
    """Start a bench that lies beside the packages, and end as it ends."""
    root = Path(__file__).parents[1]
    if not (root / "benchmarks" / "__main__.py").exists():
        raise CommandRefused(
            f"`croupier bench {name}` works from a checkout of Croupier, after `make install`, not from a wheel"
        )
    running = subprocess.Popen([sys.executable, "-m", "benchmarks", name, *arguments], cwd=root)  # noqa: S603 - ours
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the bench gets it too, and stops what it has started
    signal.signal(signal.SIGTERM, lambda *_: running.terminate())
    sys.exit(running.wait())


@bench.command("learning")
def bench_learning(
    seeds: Annotated[int, typer.Option(min=2)] = 5,
    decisions: Annotated[int, typer.Option(min=1_000, help="Of each run.")] = 16_000,
    as_json: Json = False,
) -> None:
    """Lift with delayed rewards, and where all contact harms. Example: croupier bench learning --seeds 5."""
    from models.catalogue.offers import load_catalogue
    from pipelines.simulation.bandit import measure
    from service.api.app import catalogue_path

    found = measure(seeds, decisions, load_catalogue(catalogue_path()), console())
    show(msgspec.to_builtins(found), as_json=as_json)


def main() -> NoReturn:
    """Run a command; whatever the user can mend ends in one sentence and exit code 2."""
    end_with_parent()
    try:
        if sys.argv[1:2] != ["doctor"]:  # which tells what is wrong with them
            zones.pin()
        code = app(standalone_mode=False)
    except ClickException as usage:
        usage.show()
        sys.exit(2)
    except redis.RedisError as error:
        _fail(f"the store failed: {error}", 1)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except CroupierError as error:
        if error.exit_code == CroupierError.exit_code:
            raise
        _fail(str(error), error.exit_code)
    sys.exit(code or 0)  # typer returns the code of what a key or `typer.Exit` ended, and None of what came to its end


def _fail(sentence: str, code: int) -> NoReturn:
    print(f"croupier: {sentence}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
