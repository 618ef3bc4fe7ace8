"""Commands that choose what serves: promotions and rollbacks of models, policies and rulebooks."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipelines.cli.terminal import Commands, Json, fields, home, serving, show

promote = typer.Typer(cls=Commands, no_args_is_help=True, help="Let a model serve, if it passes its gate.")
rollback = typer.Typer(cls=Commands, no_args_is_help=True, help="Undo a promotion.")


@promote.command("churn")
def promote_churn(
    version: Annotated[str, typer.Argument(help="As `train churn` printed it.")], as_json: Json = False
) -> None:
    """Let a model serve if it passes the gate. Example: croupier promote churn 2."""
    from features.store.connection import connect
    from pipelines.rules.rulebooks import places_forbidden_to_policy
    from pipelines.training.promotion import promote as let_serve

    with serving() as url:
        done = fields(let_serve(home(), url, version))
        show(done | {"business_rules_in": places_forbidden_to_policy(connect(url))}, as_json=as_json)


@rollback.command("churn")
def rollback_churn(as_json: Json = False) -> None:
    """Let the model before this one serve again. Example: croupier rollback churn."""
    from pipelines.training.promotion import rollback as go_back

    with serving() as url:
        result = go_back(home(), url)
        show(fields(result), as_json=as_json)
        _record(url, apart=result.serving > 0)


@promote.command("policy")
def promote_policy(as_json: Json = False) -> None:
    """Let what is learnt serve again after a rollback. Example: croupier promote policy."""
    from features.store.connection import connect
    from pipelines.learning.policy import promote as let_go
    from pipelines.rules.rulebooks import places_forbidden_to_policy

    with serving() as url:
        done = fields(let_go(url))
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

    with serving() as url:
        show(fields(go_back(url, version)), as_json=as_json)


@promote.command("rules")
def promote_rules(
    folder: Annotated[str, typer.Argument(help="Folder of a rulebook, or the hash of one that served.")],
    weaker: Annotated[bool, typer.Option("--weaker", help="It may lack rules that are applied now.")] = False,
    as_json: Json = False,
) -> None:
    """Let a rulebook serve that loads, is sound and loses no rule. Example: croupier promote rules rulebook/."""
    from pipelines.rules.rulebooks import promote as let_serve

    with serving() as url:
        show(fields(let_serve(url, folder, weaker=weaker)), as_json=as_json)


@rollback.command("rules")
def rollback_rules(as_json: Json = False) -> None:
    """Let the rulebook before this one serve again. Example: croupier rollback rules."""
    from pipelines.rules.rulebooks import rollback as go_back

    with serving() as url:
        show(fields(go_back(url)), as_json=as_json)


def _record(url: str, *, apart: bool) -> None:
    """Tell MLflow what changed: beside us if a house is up, so that nobody waits for MLflow to be imported."""
    if not apart:
        settle()
        return
    from features.settings.environment import for_children
    from pipelines.worker.child import Child

    logs = home() / "logs"
    logs.mkdir(exist_ok=True)
    own = for_children(home(), url)
    Child("settle", [sys.executable, "-m", "pipelines", "settle"], own, logs / "settle.log").start()


def settle() -> None:
    """Tell MLflow of changes of what serves that it was not told of yet. Example: croupier settle."""
    from features.store.connection import connect
    from pipelines.training.promotion import settle as tell

    with serving() as url:
        tell(home(), connect(url))
