"""Commands that choose what serves, and its journals: models, policies, rulebooks, catalogues."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.terminal import CommandRefused, Commands, Json, Reason, fields, home, paper, serving, show, told

if TYPE_CHECKING:
    from models.releases.release import Released

promote = typer.Typer(cls=Commands, no_args_is_help=True, help="Let a version serve, if it passes its gate.")
rollback = typer.Typer(cls=Commands, no_args_is_help=True, help="Let a version serve again that served before.")
Earlier = Annotated[str | None, typer.Argument(help="One that served; by default the one before the last promotion.")]


@promote.command("churn")
def promote_churn(
    version: Annotated[str, typer.Argument(help="As `train churn` printed it.")],
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Let a model serve if it passes the gate. Example: croupier promote churn 2 --reason "learnt from May"."""
    from pipelines.training.promotion import promote as let_serve

    with serving() as url:
        done = let_serve(home(), url, version, reason)
        show(told(done) | {"model_version": done.version, **_business_rules_in(url)}, as_json=as_json)


@rollback.command("churn")
def rollback_churn(version: Earlier = None, reason: Reason = "", as_json: Json = False) -> None:
    """Let the model before this one serve again. Example: croupier rollback churn --reason "too many alarms"."""
    from pipelines.training.promotion import rollback as go_back

    with serving() as url:
        done = go_back(home(), url, reason, version)
        show(told(done) | {"model_version": done.version}, as_json=as_json)
        if not done.serving:
            settle()
        _record_apart(url, done)


@promote.command("policy")
def promote_policy(reason: Reason = "", as_json: Json = False) -> None:
    """Let what is learnt serve again after a rollback. Example: croupier promote policy --reason "data mended"."""
    from pipelines.learning.policy import promote as let_go

    with serving() as url:
        done = let_go(url, reason)
        show(told(done) | _business_rules_in(url), as_json=as_json)
        _record_apart(url, done)


@rollback.command("policy")
def rollback_policy(
    version: Annotated[
        str | None,
        typer.Argument(
            help="As decisions name it; by default the one before the last promotion, without one that of a day ago."
        ),
    ] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Let an earlier policy serve, and hold what is learnt. Example: croupier rollback policy --reason "too eager"."""
    from pipelines.learning.policy import rollback as go_back

    with serving() as url:
        done = go_back(url, reason, version)
        show(told(done), as_json=as_json)
        _record_apart(url, done)


@promote.command("rules")
def promote_rules(
    folder: Annotated[str, typer.Argument(help="Folder of a rulebook, or the hash of one that served.")],
    weaker: Annotated[bool, typer.Option("--weaker", help="It may lack rules that are applied now.")] = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Let a sound rulebook serve that loses no rule. Example: croupier promote rules FOLDER --reason "new law"."""
    from pipelines.rules.rulebooks import promote as let_serve

    with serving() as url:
        show(_of_rules(let_serve(url, folder, reason, weaker=weaker)), as_json=as_json)


@rollback.command("rules")
def rollback_rules(version: Earlier = None, reason: Reason = "", as_json: Json = False) -> None:
    """Let the rulebook before this one serve again. Example: croupier rollback rules --reason "denies too much"."""
    from pipelines.rules.rulebooks import rollback as go_back

    with serving() as url:
        show(_of_rules(go_back(url, reason, version)), as_json=as_json)


@promote.command("catalogue")
def promote_catalogue(
    file: Annotated[str, typer.Argument(help="File of a catalogue, or the hash of one that served.")],
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Let a catalogue serve that suits the rulebook. Example: croupier promote catalogue FILE --reason "summer"."""
    from pipelines.rules.catalogues import promote as let_serve

    with serving() as url:
        show(told(let_serve(url, file, reason)), as_json=as_json)


@rollback.command("catalogue")
def rollback_catalogue(version: Earlier = None, reason: Reason = "", as_json: Json = False) -> None:
    """Let the catalogue before this one serve again. Example: croupier rollback catalogue --reason "wrong costs"."""
    from pipelines.rules.catalogues import rollback as go_back

    with serving() as url:
        show(told(go_back(url, reason, version)), as_json=as_json)


@rollback.command("experiments")
def rollback_experiments(version: Earlier = None, reason: Reason = "", as_json: Json = False) -> None:
    """Let experiments serve as before the last change. Example: croupier rollback experiments --reason "too early"."""
    from pipelines.experiments.releases import rollback as go_back

    with serving() as url:
        show(told(go_back(url, reason, version)), as_json=as_json)


@promote.command("templates")
def promote_templates(
    folder: Annotated[str, typer.Argument(help="Folder of templates, or the hash of one that served.")],
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Let templates serve that lint clean. Example: croupier promote templates FOLDER --reason "summer texts"."""
    from pipelines.rules.message_templates import promote as let_serve

    with serving() as url:
        show(told(let_serve(url, folder, reason)), as_json=as_json)


@rollback.command("templates")
def rollback_templates(version: Earlier = None, reason: Reason = "", as_json: Json = False) -> None:
    """Let the templates before these serve again. Example: croupier rollback templates --reason "wrong terms"."""
    from pipelines.rules.message_templates import rollback as go_back

    with serving() as url:
        show(told(go_back(url, reason, version)), as_json=as_json)


def releases(
    kind: Annotated[
        str | None, typer.Argument(help="churn, policy, rules, catalogue, experiments or templates; by default all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what served, since when, who let it and why. Example: croupier releases rules."""
    from features.store.connection import connect
    from models.releases.release import KINDS, journal

    if kind not in {None, *KINDS}:
        raise CommandRefused(f"{kind} is no kind of release: {', '.join(KINDS)}")
    with serving() as url:
        client = connect(url)
        entries = [entry for name in KINDS if kind in {None, name} for entry in journal(client, name)]
    entries.sort(key=lambda entry: entry.at)
    if as_json:
        show({"releases": [fields(entry) for entry in entries]}, as_json=True)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("when", "kind", "action", "version", "replaced", "who", "why"):
        table.add_column(title, overflow="fold")
    for one in entries:
        table.add_row(one.at[:19], one.kind, one.action, one.version, one.replaced or "-", one.by, one.reason)
    paper().print(table, markup=False, highlight=False)


def _of_rules(done: Released) -> dict[str, Any]:
    return told(done) | {"rulebook": done.version, "weaker": done.evidence.get("weaker", [])}


def _business_rules_in(url: str) -> dict[str, Any]:
    from features.store.connection import connect
    from pipelines.rules.rulebooks import places_forbidden_to_policy

    return {"business_rules_in": places_forbidden_to_policy(connect(url))}


def _record_apart(url: str, done: Released) -> None:
    """Tell MLflow what changed beside us if a house is up, so that nobody waits for it; else a later command does."""
    if not done.serving:
        return
    from features.settings.environment import for_children
    from pipelines.worker.child import Child

    logs = home() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    own = for_children(home(), url)
    Child("settle", [sys.executable, "-m", "pipelines", "settle"], own, logs / "settle.log").start()


def settle() -> None:
    """Tell MLflow of changes of what serves that it was not told of yet. Example: croupier settle."""
    from features.store.connection import connect
    from pipelines.training.promotion import settle as tell

    with serving() as url:
        tell(home(), connect(url))
