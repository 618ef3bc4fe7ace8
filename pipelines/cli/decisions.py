"""Commands that account for decisions: show one, replay it, say why not another action, verify the whole log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.terminal import Commands, Json, console, fields, home, paper, serving, show

decisions = typer.Typer(cls=Commands, no_args_is_help=True, help="Show, replay and question recorded decisions.")
Decision = Annotated[str, typer.Argument(metavar="ID", help="Id of the decision, as it was answered.")]
LakeOption = Annotated[Path | None, typer.Option(help="By default the house's.")]


@decisions.command("show")
def decisions_show(decision_id: Decision, lake: LakeOption = None, as_json: Json = False) -> None:
    """Show a decision whole, in words: who, when, what was denied, and why. Example: croupier decisions show ID."""
    from features.store.connection import connect
    from pipelines.audit import pages
    from pipelines.audit.account import account, shown

    with serving() as url:
        client = connect(url)
        found = shown(client, account(client, lake or home() / "lake", home(), decision_id))
    show(found, as_json=True) if as_json else paper().print(pages.decision(found), markup=False, highlight=False)


@decisions.command("replay")
def decisions_replay(decision_id: Decision, lake: LakeOption = None, as_json: Json = False) -> None:
    """Recompute a decision; exit code 1 if something comes out otherwise. Example: croupier decisions replay ID."""
    from features.store.connection import connect
    from pipelines.audit import pages
    from pipelines.audit.account import account, replayed

    with serving() as url:
        found = replayed(account(connect(url), lake or home() / "lake", home(), decision_id))
    show(found, as_json=True) if as_json else paper().print(pages.replay(found), markup=False, highlight=False)
    if found["differences"]:
        sys.exit(1)


@decisions.command("why-not")
def decisions_why_not(
    decision_id: Decision,
    action: Annotated[
        str | None, typer.Argument(help="offer/channel/timing_slot or NO_CONTACT; by default all, grouped.")
    ] = None,
    lake: LakeOption = None,
    as_json: Json = False,
) -> None:
    """Say what stood against another action. Example: croupier decisions why-not ID free_bet/email/evening."""
    from features.store.connection import connect
    from pipelines.audit import pages
    from pipelines.audit.account import account, denied

    with serving() as url:
        found = denied(account(connect(url), lake or home() / "lake", home(), decision_id), action)
    page = pages.why_not_others if action is None else pages.why_not
    show(found, as_json=True) if as_json else paper().print(page(found), markup=False, highlight=False)


def verify(
    since: Annotated[str, typer.Option(help="7d, 12h, or a day or moment such as 2026-11-01, UTC of the house.")],
    until: Annotated[str | None, typer.Option(help="Likewise; by default now.")] = None,
    lake: LakeOption = None,
    as_json: Json = False,
) -> None:
    """Check the log's chain, recompute its decisions; exit code 1 on a fault. Example: croupier verify --since 7d."""
    from features.moments import moment
    from features.store.connection import connect
    from features.store.deployment import open_house, real_now_us
    from pipelines.audit import pages
    from pipelines.audit.period import AuditRefused, Period, moment_us
    from pipelines.audit.verify import verify as verify_log

    if lake is not None and not lake.is_dir():
        raise AuditRefused(f"there is no lake at {lake}")
    with serving() as url, _counting() as say:
        client = connect(url)
        now_us = open_house(client).now_us(real_now_us(client)) + 1
        now = moment(now_us)
        period = Period(moment_us(since, now), now_us if until is None else moment_us(until, now, "--until"))
        if period.since_us >= period.until_us:
            raise AuditRefused(f"nothing lies between --since {since} and {'now' if until is None else until}")
        found = fields(verify_log(client, lake or home() / "lake", home(), period, say))
    show(found, as_json=True) if as_json else paper().print(pages.verified(found), markup=False, highlight=False)
    if found["first_fault"] is not None:
        sys.exit(1)


@contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """Show people how many decisions were recomputed."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.completed:,} decisions"), TimeElapsedColumn()
    with Progress(*columns, console=console(), transient=True) as progress:
        task = progress.add_task("decisions", total=None)
        yield lambda done: progress.update(task, completed=done)
