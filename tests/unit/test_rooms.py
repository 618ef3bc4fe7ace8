"""Each vendor, the clock, the environment and the parts of an assessment have rooms: nothing outside asks for them."""

import ast
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("features", "models", "service", "pipelines")
FILES: Final = sorted(str(file.relative_to(ROOT)) for top in PACKAGES for file in (ROOT / top).rglob("*.py"))

Rooms = Mapping[str, str]
"""Pattern of paths -> why they may."""

VENDORS: Final[Mapping[str, Rooms]] = {
    "aiohttp": {
        "pipelines/campaigns/campaign.py": "asks a house about many players",
        "service/delivery/http_client.py": "calls webhooks and providers",
    },
    "babel": {"service/delivery/rendering.py": "money and directions of writing, by locale"},
    "liquid": {"service/delivery/rendering.py": "templates of messages"},
    "mjml": {"service/delivery/rendering.py": "mails that every client shows"},
    "aiosmtplib": {"service/delivery/connectors/smtp.py": "sends mail"},
    "alembic": {"models/releases/registry_database.py": "MLflow migrates its database with it"},
    "cel": {"pipelines/bench/rules.py": "a peer"},
    "cronsim": {"pipelines/worker/schedule.py": "reads cron lines"},
    "croupier_client": {"pipelines/simulation/simulate.py": "drives a house over HTTP as callers do"},
    "cryptography": {
        "service/players/sealing.py": "seals personal fields",
        "service/delivery/connectors/sendgrid.py": "checks signatures of callbacks",
        "service/delivery/links.py": "encrypts what links of messages say",
    },
    "duckdb": {
        "pipelines/datasets/log.py": "reads the lake for data sets",
        "pipelines/experiments/*.py": "reads the lake and other people's files for reports, and sums up units",
        "pipelines/imports/known_events.py": "finds ids of any age in the lake",
        "pipelines/training/churn.py": "reads the lake for training",
    },
    "fastapi": {"service/api/*.py": "the API", "models/releases/screen.py": "MLflow's screen is an application of it"},
    "fastapi_offline": {"service/api/routes.py": "the page of the API without a network"},
    "feast": {"features/definitions.py": "the one home of Feast"},
    "typeguard": {"features/definitions.py": "what it compiles into Feast is left out"},
    "hiredis": {"features/store/wire.py": "reads the store's replies"},
    "httptools": {"service/api/protocol.py": "parses what callers send"},
    "ibis": {"features/batch.py": "features in batch", "pipelines/training/materialise.py": "runs them"},
    "jinja2": {"pipelines/experiments/page.py": "the page of a report"},
    "jwt": {"service/access/cookies.py": "signs the cookie of who signed in"},
    "lightgbm": {
        "models/churn/training.py": "trains",
        "models/releases/registry.py": "MLflow keeps models of its flavour",
    },
    "limits": {"service/access/rates.py": "counts requests of keys, and wrong keys of addresses"},
    "matplotlib": {
        "models/churn/plots.py": "plots of the churn model",
        "models/releases/registry.py": "writes that plot into a run",
        "pipelines/experiments/plots.py": "plots of a report",
        "pipelines/simulation/results.py": "plots of a simulation",
    },
    "mlflow": {
        "models/releases/registry.py": "the one home of MLflow",
        "models/releases/screen.py": "its screen",
    },
    "opentelemetry": {"service/api/tracing.py": "traces of requests"},
    "packaging": {"pipelines/doctor/*.py": "compares versions of packages"},
    "pandas": {
        "features/definitions.py": "Feast's training frames are of it",
        "models/churn/*.py": "so are the rows that a model is trained on",
        "pipelines/training/churn.py": "and those that training reads",
        "pipelines/experiments/*.py": "tea-tasting takes tables of it",
    },
    "prometheus_client": {"service/api/*.py": "metrics of the API"},
    "pyarrow": {
        "features/batch.py": "writes features in batch",
        "features/lake/flushes.py": "reads the lake flush by flush",
        "models/releases/registry.py": "test rows of a model",
        "pipelines/audit/*.py": "reads the lake",
        "pipelines/backup/checks.py": "says what it could not read",
        "pipelines/campaigns/players.py": "reads a file of players",
        "pipelines/datasets/*.py": "makes data sets",
        "pipelines/experiments/exposures.py": "reads the lake",
        "pipelines/lake/*.py": "makes whole days of the lake one file",
        "pipelines/learning/training_log.py": "reads the lake",
        "pipelines/privacy/export.py": "reads the lake",
        "pipelines/rules/compare.py": "reads the lake",
        "pipelines/worker/lake.py": "writes the lake",
    },
    "pycountry": {"features/places.py": "countries and their parts"},
    "river": {"models/policy/reward_model.py": "the one home of river"},
    "scipy": {
        "pipelines/experiments/*.py": "distributions of the report's statistics",
        "pipelines/simulation/*.py": "intervals of a simulation",
    },
    "sklearn": {"models/churn/training.py": "calibration and measures"},
    "standardwebhooks": {
        "pipelines/worker/webhooks.py": "signatures",
        "service/delivery/connectors/webhook.py": "signatures, both ways",
    },
    "starlette": {"service/api/*.py": "what FastAPI is made of"},
    "tea_tasting": {"pipelines/experiments/comparisons.py": "p-values over several comparisons, and power"},
    "typer": {"pipelines/cli/*.py": "the command line"},
    "tzdata": {
        "features/zones.py": "the one source of time zones",
        "service/decisions/compose.py": "records name its version",
        "service/decisions/replay.py": "and are replayed with it",
    },
    "uvicorn": {
        "pipelines/cli/*.py": "starts the API and MLflow's screen",
        "service/api/protocol.py": "bounds what it reads",
    },
    "yaml": {
        "features/definitions.py": "Feast's own settings",
        "features/files.py": "files that people edit",
        "pipelines/imports/mapping.py": "mapping files",
    },
    "zen": {"pipelines/bench/rules.py": "a peer"},
}
"""Libraries of one purpose and the files that may import them; those that all code is made of (numpy, msgspec,
pydantic, orjson, redis, rich, structlog) have none."""

CLOCK: Final[Rooms] = {
    "models/releases/release.py": "waits until serving processes report a release",
    "features/store/*.py": "deadlines of calls to the store",
    "service/api/*.py": "deadlines of requests, and how long they took",
    "pipelines/*/*.py": "commands and processes wait, show how long they took and bound what they wait for",
}
"""The machine's clock; what is decided, judged, learnt or counted takes the moment as an argument."""

ENVIRONMENT: Final[Rooms] = {
    "features/settings/environment.py": "every variable of ours",
    "models/releases/registry.py": "MLflow reads its own settings there",
    "models/releases/screen.py": "MLflow reads its own settings there",
    "pipelines/learning/learner.py": "MLflow reads its own settings there",
    "pipelines/worker/child.py": "processes that are started get this one's",
}
"""The environment of the process."""

ASSESSED: Final[Rooms] = {
    "service/decisions/assess.py": "the one place where a player is assessed",
    "pipelines/worker/changes.py": "signs of harm are noted as events come, without a request",
    "pipelines/bench/ledger.py": "measures the limits alone",
}
"""Parts of an assessment: facts as a brand sees them, behaviour, harm, inputs of rules, eligibility, limits."""

_CLOCKS: Final = {"time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter"} | {
    "time.perf_counter_ns",
    "time.sleep",
    "datetime.now",
    "datetime.utcnow",
    "date.today",
}
_ENVIRONMENTS: Final = {"os.environ", "os.getenv", "os.putenv"}
_PARTS: Final = {"facts.read", "harm.assess", "inputs.read", "eligibility.evaluate", "limits.evaluate"}


@cache
def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text("utf8"))


def imported(tree: ast.AST) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found |= {one.name.partition(".")[0] for one in names}
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module.partition(".")[0])
    return found


def dotted(tree: ast.AST) -> Iterator[str]:
    """Names with a dot that a file uses, as `time.monotonic`; those imported alone as well."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                yield f"{owner}.{name}"
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module.rpartition('.')[2]}.{one.name}" for one in names)


def may(path: str, rooms: Rooms) -> bool:
    return any(fnmatch(path, room) for room in rooms)


@pytest.mark.parametrize("path", FILES)
def test_a_vendor_is_imported_where_it_lives_alone(path: str) -> None:
    outside = sorted(name for name in imported(parsed(path)) & VENDORS.keys() if not may(path, VENDORS[name]))
    assert outside == []


@pytest.mark.parametrize(
    ("rooms", "names"),
    [(CLOCK, _CLOCKS), (ENVIRONMENT, _ENVIRONMENTS), (ASSESSED, _PARTS)],
    ids=["clock", "environment", "assessment"],
)
def test_what_has_a_room_is_asked_for_in_it_alone(rooms: Rooms, names: set[str]) -> None:
    outside = {path: found for path in FILES if not may(path, rooms) and (found := names & set(dotted(parsed(path))))}
    assert outside == {}


def test_every_room_is_used() -> None:
    """A room that nothing needs any more is taken off its list."""
    for vendor, rooms in VENDORS.items():
        users = [path for path in FILES if vendor in imported(parsed(path))]
        assert [room for room in rooms if not any(fnmatch(path, room) for path in users)] == [], vendor
    for rooms, names in ((CLOCK, _CLOCKS), (ENVIRONMENT, _ENVIRONMENTS), (ASSESSED, _PARTS)):
        users = [path for path in FILES if names & set(dotted(parsed(path)))]
        assert [room for room in rooms if not any(fnmatch(path, room) for path in users)] == []


def test_no_library_is_without_a_room_unawares() -> None:
    """A library that is new has a room, or is one of those that all code is made of."""
    everywhere = {"numpy", "msgspec", "pydantic", "orjson", "redis", "rich", "structlog", "markupsafe"}
    ours = {*PACKAGES, "benchmarks", "__future__"}
    found = set().union(*(imported(parsed(path)) for path in FILES)) - ours - sys.stdlib_module_names
    assert found - VENDORS.keys() <= everywhere
