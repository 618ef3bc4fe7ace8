"""The command that decides for all players of a file."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pipelines.cli.terminal import CommandRefused, Json, console, fields, home, show


def decide(
    players: Annotated[Path, typer.Option(help="Lines of ids, CSV or Parquet.")],
    out: Annotated[Path, typer.Option(help="Answers, a JSON line each; what is there already is not asked again.")],
    campaign: Annotated[str, typer.Option(help="Its name: with the player it makes the id of each request.")],
    address: Annotated[str, typer.Option(help="The running house.")] = "http://127.0.0.1:8000",
    column: Annotated[str | None, typer.Option(help="Column of the ids; by default player_id.")] = None,
    ask: Annotated[str, typer.Option(help='Fields of each request, as JSON: {"channels": ["email"]}.')] = "{}",
    as_json: Json = False,
) -> None:
    """Decide for all players of a file, once. Example: croupier decide --players p.csv --out a.jsonl --campaign may."""
    from features.events import WORD_PATTERN
    from pipelines.campaigns.answers import AnswerFile
    from pipelines.campaigns.campaign import Campaign, run
    from pipelines.campaigns.players import read_players
    from pipelines.machine.development_key import own_key

    if re.fullmatch(WORD_PATTERN, campaign) is None:
        raise CommandRefused("--campaign must be a name of one line, at most 64 characters")
    if (key := own_key(home())) is None:
        raise CommandRefused("no API key is known: let CROUPIER_KEY be one with the scope decide")
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(name, _leave)
    asked = {"decision_point": f"campaign {campaign}"} | _fields(ask)
    found, repeated = read_players(players, column)
    wanted = Campaign(campaign, asked, address.rstrip("/"), key)
    with AnswerFile(out, campaign, asked) as answers:
        done = run(wanted, found, repeated, answers, console())
    show(fields(done), as_json=as_json)
    if done.left:
        print(f"croupier: {done.left:,} players are left without an answer: run it again to go on", file=sys.stderr)
        sys.exit(1)


def _fields(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CommandRefused(f"--ask is no JSON: {error}") from error
    if not isinstance(found, dict) or {"player_id", "request_id"} & found.keys():
        raise CommandRefused("--ask must be an object of fields, without player_id and request_id, which are made here")
    return found


def _leave(number: int, _: object) -> NoReturn:
    """End by a signal as by an exception: what was answered stands in the file."""
    sys.exit(128 + number)
