"""Reports at the HTTP door: what `croupier report` published, as it is; nothing is computed here."""

from __future__ import annotations

from html import escape
from typing import Annotated, Final, NamedTuple

import msgspec
from fastapi import FastAPI, Path, Response

from features.moments import when
from features.store.keys import REPORTS, report_history_key, report_key, report_looks_key
from service.api.routing import Dependencies, Deps, Operation, add_route
from service.errors import UnknownReportError
from service.reports import Finding, Look, Publication, PublishedReport, Summary

_TYPES: Final = {"html": "text/html; charset=utf-8", "csv": "text/csv; charset=utf-8", "json": "application/json"}
_SEALED: Final = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
"""A report brings its styles along and needs nothing else: no script of it, or of what it quotes, may run."""

ReportName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="As the list names it.")]


async def get_reports(deps: Deps) -> Response:
    """The reports there are, with date and health."""
    held = await deps.ledger.store.hash(REPORTS)
    found = {name.decode(): msgspec.json.decode(text, type=Summary) for name, text in sorted(held.items())}
    lives = {name: await _life(name, deps) for name in found}
    return Response(_page(found, lives), media_type=_TYPES["html"], headers=_SEALED)


async def get_report(name: ReportName, deps: Deps) -> Response:
    """A report as a page to read."""
    return await _report(name, "html", deps)


async def get_report_csv(name: ReportName, deps: Deps) -> Response:
    """A report's comparisons as a table."""
    return await _report(name, "csv", deps)


async def get_report_json(name: ReportName, deps: Deps) -> Response:
    """A whole report for machines."""
    return await _report(name, "json", deps)


async def _report(name: str, kind: str, deps: Dependencies) -> Response:
    text = (await deps.ledger.store.hash(report_key(name))).get(kind.encode())
    if text is None:
        raise UnknownReportError
    await _note_look(name, deps)
    return Response(text, media_type=_TYPES[kind], headers=_SEALED)


async def _note_look(name: str, deps: Dependencies) -> None:
    """Keep who looks: whoever looks often and stops at a good moment must be judged by what holds at every look."""
    look, key = Look(when(await deps.ledger.now_us()), deps.caller.id), report_looks_key(name)
    if await deps.ledger.store.command("RPUSH", key, msgspec.json.encode(look)) > _LOOKS:
        await deps.ledger.store.command("LTRIM", key, -_LOOKS, -1)


class _Life(NamedTuple):
    """What was published under a name, and who looked."""

    publications: list[Publication]
    looks: list[Look]


async def _life(name: str, deps: Dependencies) -> _Life:
    store = deps.ledger.store
    told = await store.command("LRANGE", report_history_key(name), -_SHOWN, -1)
    looks = await store.command("LRANGE", report_looks_key(name), 0, -1)
    return _Life(
        [msgspec.json.decode(one, type=Publication) for one in told],
        [msgspec.json.decode(one, type=Look) for one in looks],
    )


_LOOKS: Final = 1_000
_SHOWN: Final = 12
"""Publications and looks that the list shows of each report."""
_STYLE: Final = (
    "body{margin:0;background:#f5f7fa;color:#1f2933;font:16px/1.5 system-ui,sans-serif}"
    "main{max-width:44rem;margin:0 auto;padding:1.5rem 1rem}li{background:#fff;border:1px solid #d9e0e7;"
    "border-radius:8px;padding:.8rem 1rem;margin:.8rem 0}ul{list-style:none;padding:0}h1{font-size:1.5rem}"
    "table{border-collapse:collapse;font-size:.85rem;display:block;overflow-x:auto}td,th{padding:.2rem .6rem .2rem 0;"
    "text-align:left;vertical-align:top}p{margin:.4rem 0}.good{color:#1a7f4b}.bad{color:#b42318}"
)
_EMPTY: Final = "<p>No report was published yet: run <code>croupier report uplift</code>.</p>"


def _page(found: dict[str, Summary], lives: dict[str, _Life]) -> str:
    items = "".join(_item(name, one, lives[name]) for name, one in found.items())
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    body = f"<ul>{items}</ul>" if items else _EMPTY
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>Reports</title><style>{_STYLE}</style></head>'
        f"<body><main><h1>Reports</h1>{body}</main></body></html>"
    )


def _item(name: str, one: Summary, life: _Life) -> str:
    state = '<b class="good">healthy</b>' if one.ok else '<b class="bad">not healthy, verdict withheld</b>'
    said = f"<p>{escape(one.verdict)}</p>" if one.ok and one.verdict else ""
    link = f"/reports/{escape(name)}"
    return (
        f'<li><a href="{link}">{escape(one.title)}</a>, {escape(one.at[:16].replace("T", " "))} UTC, {state}{said}'
        f'<p><a href="{link}.csv">CSV</a> · <a href="{link}.json">JSON</a></p>'
        f"{_over_time(life.publications)}{_looked(life.looks)}</li>"
    )


def _over_time(told: list[Publication]) -> str:
    """The latest publications beside each other: how the primary comparisons moved."""
    rows = "".join(
        f"<tr><td>{_minute(one.at)}</td><td>{escape(one.experiment)}</td><td>{one.players:,}</td>"
        f"<td>{'healthy' if one.ok else 'not healthy'}</td>"
        f"<td>{'<br>'.join(_finding(found) for found in one.findings) or '-'}</td></tr>"
        for one in reversed(told)
    )
    head = "<tr><th>Published</th><th>Experiment</th><th>Players</th><th>Health</th><th>Difference</th></tr>"
    return f"<details><summary>Over time</summary><table>{head}{rows}</table></details>" if rows else ""


def _finding(found: Finding) -> str:
    bounds = "" if found.low is None or found.high is None else f" ({found.low:+,.4g} to {found.high:+,.4g})"
    return escape(f"{found.metric}, {found.variant} vs {found.control}: {found.estimate:+,.4g}{bounds}")


def _looked(looks: list[Look]) -> str:
    """How often it was looked at, and who looked last."""
    if not looks:
        return ""
    last = ", ".join(f"{escape(one.by)} {_minute(one.at)}" for one in reversed(looks[-_SHOWN:]))
    return f"<details><summary>{len(looks)} looks</summary><p>{last}</p></details>"


def _minute(at: str) -> str:
    return escape(at[:16].replace("T", " "))


def add(app: FastAPI) -> None:
    """Add the routes of the reports to an application."""
    tag, one, unknown = "Report", "/reports/{name}", (UnknownReportError,)
    for operation in (
        Operation("/reports", get_reports, tag, "read", "text/html", ()),
        # Before the page, whose name would swallow the ending.
        Operation(f"{one}.csv", get_report_csv, tag, "read", "text/csv", unknown),
        Operation(f"{one}.json", get_report_json, tag, "read", PublishedReport, unknown),
        Operation(one, get_report, tag, "read", "text/html", unknown),
    ):
        add_route(app, operation)
