"""Laws of the settings: each is declared once and read there alone, and what nothing reads is refused or told."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from support.settings_page import PAGE, page
from typer.testing import CliRunner

from features.settings.environment import (
    OF_TESTS,
    VARIABLES,
    Environment,
    SettingError,
    environment,
    for_children,
    unknown,
)
from features.settings.listing import declared, listed
from features.settings.masks import masked
from features.settings.mlflow_file import SHIPPED, LearnerSettings, Oracle, read_mlflow, shipped
from models.policy.reward_model import REWARD_MODELS
from pipelines.__main__ import app

ROOT = Path(__file__).parents[2]
PACKAGES = ("features", "models", "service", "pipelines")
HOME = "features/settings/environment.py"
OTHERS = {
    "models/releases/registry.py": "MLflow's own variables",
    "models/releases/screen.py": "MLflow's own variables",
    "pipelines/learning/learner.py": "MLflow's own variables",
    "pipelines/worker/child.py": "handed on whole",
}
"""Who else looks at the environment, and why."""
TEXT = SHIPPED.read_text("utf8")


@cache
def code() -> list[tuple[str, ast.AST]]:
    """Every node of the product's code, with its file."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return [
        (str(file.relative_to(ROOT)), node) for file in files for node in ast.walk(ast.parse(file.read_text("utf8")))
    ]


def test_the_page_of_settings_is_what_the_code_declares() -> None:
    assert PAGE.read_text("utf8") == page(), "the page is of other settings: make map"


# The environment --------------------------------------------------------------------------------------------------


def test_nothing_but_the_settings_reads_the_environment() -> None:
    read = {
        file
        for file, node in code()
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}
    }
    assert read == {HOME, *OTHERS}


def test_names_of_variables_stand_in_the_settings_alone() -> None:
    names = {
        (file, node.value)
        for file, node in code()
        if isinstance(node, ast.Constant) and re.fullmatch("(CROUPIER|OTEL)_[A-Z_]+|PORT", str(node.value))
    }
    assert names == {(HOME, name) for name in [*(one.name for one in VARIABLES), *OF_TESTS]}


def test_each_declared_variable_is_read_by_something() -> None:
    asked = {node.attr for _, node in code() if isinstance(node, ast.Attribute)}
    assert {name for name, one in vars(Environment).items() if one in VARIABLES} <= asked


def test_every_variable_that_the_tests_read_is_known_as_theirs() -> None:
    text = "".join(file.read_text("utf8") for file in [*(ROOT / "tests").rglob("*.py"), ROOT / "Makefile"])
    read = set(re.findall(r'environ(?:\.get\(|\[)"(CROUPIER_\w+)"', text)) | set(re.findall(r"\t(CROUPIER_\w+)=", text))
    assert read - {one.name for one in VARIABLES} == OF_TESTS.keys()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("home", "/srv/house", Path("/srv/house")),
        ("home", None, Path("var")),
        ("store", "redis://h", "redis://h"),
        ("store", "", None),
        ("keys", "a,b", ("a", "b")),
        ("keys", None, ()),
        ("key", "", None),
        ("catalogue", "", None),
        ("rules", "book", Path("book")),
        ("webhooks", "", None),
        ("mlflow", "", None),
        ("read_seconds", None, 0.25),
        ("write_seconds", "3600", 3_600.0),
        ("port", "80", 80),
        ("tied", "", True),
    ],
)
def test_what_a_variable_means(name: str, text: str | None, value: object) -> None:
    variables = {} if text is None else {getattr(Environment, name).name: text}
    assert getattr(Environment(variables), name) == value


def test_a_variable_that_is_wrong_is_refused_when_it_is_asked_for_and_not_before() -> None:
    held = Environment({"CROUPIER_READ_SECONDS": "soon", "PORT": "0"})
    assert held.write_seconds == 2.0
    with pytest.raises(
        SettingError, match=r"^CROUPIER_READ_SECONDS must be a number of seconds above 0, at most 3600, and is 'soon'$"
    ):
        _ = held.read_seconds
    with pytest.raises(SettingError, match=r"^PORT must be a port from 1 to 65535, and is '0'$"):
        _ = held.port
    with pytest.raises(AttributeError):
        held.home = Path("elsewhere")


def test_a_process_that_is_started_finds_this_home_and_store() -> None:
    held = Environment(for_children(Path("/srv/house"), "redis://h"))
    assert (held.home, held.store) == (Path("/srv/house"), "redis://h")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("CROUPIER_RULEZ", "CROUPIER_RULES"),
        ("CROUPIER_READ_SECOND", "CROUPIER_READ_SECONDS"),
        ("CROUPIER_WEBHOOK", "CROUPIER_WEBHOOKS"),
        ("CROUPIER_SHINE_LEVEL", None),
    ],
)
def test_what_nothing_reads_is_told_with_the_name_that_may_be_meant(name: str, near: str | None) -> None:
    assert unknown(Environment({name: "x", "CROUPIER_HOME": "h", "PATH": "p"})) == [(name, near)]


@pytest.mark.parametrize("service", ["CROUPIER", "CROUPIER_API"])
def test_names_that_an_orchestrator_sets_and_those_of_the_tests_are_not_told(service: str) -> None:
    links = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR")
    assert unknown(Environment({f"{service}_{link}": "x" for link in links} | dict.fromkeys(OF_TESTS, "x"))) == []


def test_a_secret_that_the_file_of_the_webhooks_names_is_no_unknown_variable(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.yaml"
    file.write_text("endpoints: [{id: crm, url: 'https://h', secret_env: CROUPIER_CRM_SECRET}]")
    held = {"CROUPIER_CRM_SECRET": "whsec_", "CROUPIER_OTHER_SECRET": "whsec_"}
    assert [name for name, _ in unknown(Environment(held | {"CROUPIER_WEBHOOKS": str(file)}))] == [
        "CROUPIER_OTHER_SECRET"
    ]
    assert len(unknown(Environment(held | {"CROUPIER_WEBHOOKS": str(tmp_path / "none")}))) == 2


def test_settings_are_cheap_to_import() -> None:
    heavy = {"yaml", "msgspec", "pydantic", "redis", "numpy", "rich", "typer", "structlog", "cronsim"}
    script = "import sys, features.settings.environment; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert heavy.isdisjoint(loaded.stdout.split())


# mlflow.yaml ------------------------------------------------------------------------------------------------------


def keys(node: yaml.Node, *above: str) -> Iterator[tuple[tuple[str, ...], yaml.Node]]:
    """Every key of a YAML file with its path."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*above, key.value), key
            yield from keys(value, *above, key.value)


ROOT_NODE = yaml.compose(TEXT, yaml.SafeLoader)
assert ROOT_NODE is not None
KEYS = dict(keys(ROOT_NODE))


def typos(word: str) -> Iterator[str]:
    """What a slip of a finger makes of a word."""
    for at in range(len(word)):
        yield word[:at] + word[at + 1 :]
        yield word[:at] + word[at] + word[at:]
        yield word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]


def home_of(tmp_path: Path, text: str) -> Path:
    (tmp_path / "mlflow.yaml").write_text(text, "utf8")
    return tmp_path


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_typo_of_every_key_is_refused_with_its_line_and_the_key_that_is_meant(
    path: tuple[str, ...], tmp_path: Path
) -> None:
    key, known = KEYS[path], {one[-1] for one in KEYS if one[:-1] == path[:-1]}
    place = key.start_mark.index
    assert TEXT[place:].startswith(path[-1])
    for typo in set(typos(path[-1])) - known - {""}:
        home = home_of(tmp_path, TEXT[:place] + typo + TEXT[place + len(path[-1]) :])
        where = (
            f"{home}/mlflow.yaml:{key.start_mark.line + 1}: {'.'.join((*path[:-1], typo))}: '{typo}' is no known key"
        )
        with pytest.raises(SettingError, match=f"^{re.escape(where)}: did you mean {path[-1]}\\?"):
            read_mlflow(home)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "learner:\n  oracle: crystal_ball",
            ":2: learner.oracle: 'crystal_ball' is no known word: did you mean",
        ),
        ("learner:\n  batch: 0", ":2: learner.batch: Expected `int` >= 1"),
        ("learner:\n  keep: 1.5", ":2: learner.keep: Expected `float` <= 1.0"),
        ("learner:\n  kappa: .inf", ":2: learner.kappa: must be a finite number"),
        ("churn:\n  horizon_days: soon", ":2: churn.horizon_days: Expected `int`, got `str`"),
        (
            "gates:\n  churn:\n    ece_above_noise: 1",
            ":2: gates.churn: Object missing required field `auc_above_recency`",
        ),
        ("churn: {horizon_days: 3}\nchurn: {horizon_days: 4}", ": churn stands twice"),
        ("schedules: 3", ":1: schedules: Expected `object`, got `int`"),
        ("schedules:\n", ":1: schedules: Expected `object`, got `null`"),
        ("- 3", ":1: file: Expected `object`, got `array`"),
        ("a: [", ": while parsing a flow node"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_with_its_place(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=re.escape(f"{tmp_path}/mlflow.yaml{told}")):
        read_mlflow(home_of(tmp_path, text))


def test_without_a_file_of_its_own_a_home_has_the_shipped_one(tmp_path: Path) -> None:
    found = read_mlflow(tmp_path)
    assert found.tracking.uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert found.tracking.artifacts == f"{tmp_path}/mlflow/artifacts"
    assert msgspec.structs.replace(found, tracking=shipped().tracking) == shipped()
    assert found == read_mlflow(home_of(tmp_path, "")) == read_mlflow(home_of(tmp_path, TEXT))


def test_a_file_of_its_own_that_cannot_be_read_is_never_passed_over(tmp_path: Path) -> None:
    (tmp_path / "mlflow.yaml").symlink_to(tmp_path / "gone.yaml")
    with pytest.raises(SettingError, match="No such file"):
        read_mlflow(tmp_path)
    (tmp_path / "gone.yaml").touch()
    with pytest.raises(SettingError, match="cannot be read: Not a directory"):
        read_mlflow(tmp_path / "gone.yaml")


def test_each_section_of_a_homes_own_file_stands_in_place_of_the_shipped_one_whole(tmp_path: Path) -> None:
    before = read_mlflow(tmp_path)
    found = read_mlflow(home_of(tmp_path, "schedules: {}\nchurn: {horizon_days: 14}\nlearner: {batch: 10}"))
    assert (found.schedules.retrain, found.churn.horizon_days) == (None, 14)
    assert found.learner == LearnerSettings(batch=10)
    changed = {"schedules": before.schedules, "churn": before.churn, "learner": before.learner}
    assert msgspec.structs.replace(found, **changed) == before


def test_the_environment_may_name_another_tracking_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROUPIER_MLFLOW", "http://127.0.0.1:1")
    assert read_mlflow(tmp_path).tracking.uri == "http://127.0.0.1:1"
    monkeypatch.setenv("CROUPIER_MLFLOW", "")
    assert read_mlflow(tmp_path).tracking.uri.startswith("sqlite:///")


def test_the_shipped_file_has_every_key_and_what_the_code_falls_back_to_is_what_it_says(tmp_path: Path) -> None:
    assert [one.path for one in declared()] == [path for path in KEYS if not any(path == one[:-1] for one in KEYS)]
    assert read_mlflow(tmp_path).learner == LearnerSettings()


def test_the_oracles_that_settings_may_name_are_those_that_there_are() -> None:
    assert set(Oracle.__args__) == REWARD_MODELS.keys()  # type: ignore[attr-defined]


# Keys of the environment ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ",",
        "a,",
        ",a",
        "a,,b",
        "a, b",
        " a",
        "a ",
        "a,a",
        "a,b,a",
        "a b",
        "a\tb",
        "a\n",
        "'a'",
        '"a"',
        "ä",
        "a\x00",
    ],
)
def test_odd_keys_of_the_environment_are_refused_without_being_shown(text: str) -> None:
    marked = text.replace("a", "MARKER")
    with pytest.raises(SettingError) as refused:
        Environment({"CROUPIER_KEYS": marked}).keys  # noqa: B018 - it is read when it is asked for
    assert str(refused.value).startswith("CROUPIER_KEYS ")
    assert "MARKER" not in str(refused.value)


# Shown to people --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:hidden@h:1", "redis://:***@h:1"),
        ("rediss://user:hid/d@en@h:1,i:2/0?ssl_ca_certs=f", "rediss://user:***@h:1,i:2/0?ssl_ca_certs=f"),
        ("redis://user@h", "redis://user@h"),
        ("redis://h?db=1&password=hidden&x=1", "redis://h?db=1&password=***&x=1"),
        ("unix:///run/valkey.sock", "unix:///run/valkey.sock"),
        ("var", "var"),
        ("a@b", "a@b"),
    ],
)
def test_passwords_of_addresses_are_not_shown(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_every_setting_is_listed_with_its_value_and_who_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one.name for one in VARIABLES]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CROUPIER_KEYS", "hidden,other")
    monkeypatch.setenv("CROUPIER_MLFLOW", "postgresql://me:hidden@h/db")
    rows: dict[str, Any] = {
        one.name: one for one in listed(home_of(tmp_path, "{churn: {horizon_days: 14}, learner: {batch: 1}}"))
    }
    assert list(rows) == [*(one.name for one in VARIABLES), *(".".join(one.path) for one in declared())]
    assert all(one.meaning.endswith(".") for one in rows.values())
    assert "hidden" not in repr([*rows.values(), environment()])
    told = {name: rows[name][1:4] for name in ("CROUPIER_KEYS", "CROUPIER_READ_SECONDS", "tracking.uri", "experiment")}
    assert told == {
        "CROUPIER_KEYS": ("***", None, "environment"),
        "CROUPIER_READ_SECONDS": (0.25, 0.25, "default"),
        "tracking.uri": ("postgresql://me:***@h/db", "sqlite:///{home}/mlflow/mlflow.db", "environment"),
        "experiment": ("croupier", "croupier", "shipped mlflow.yaml"),
    }
    assert rows["churn.horizon_days"][1:4] == (14, 30, "CROUPIER_HOME/mlflow.yaml")
    assert rows["learner.batch"][1:4] == (1, 250, "CROUPIER_HOME/mlflow.yaml")
    assert rows["learner.keep"][1:4] == (0.995, 0.995, "default")


def test_the_command_shows_them_to_people_and_to_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROUPIER_HOME", str(tmp_path))
    shown = CliRunner().invoke(app, ["settings"]).stdout
    assert all(one.name in shown for one in listed(tmp_path))
    told = json.loads(CliRunner().invoke(app, ["settings", "--json"]).stdout)
    assert told == {"settings": [one._asdict() for one in listed(tmp_path)]}


@pytest.mark.parametrize("command", ["up", "serve", "worker", "learn"])
def test_what_runs_long_warns_once_of_what_nothing_reads(command: str, tmp_path: Path) -> None:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("CROUPIER_")}
    own = {
        "CROUPIER_HOME": str(home_of(tmp_path, "lerner: {}")),
        "CROUPIER_READ_SECONDS": "soon",
        "CROUPIER_RULEZ": "x",
    }
    words = [sys.executable, "-m", "pipelines", command]
    done = subprocess.run(words, env=kept | own, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 2
    warned, refused = done.stderr.splitlines()
    assert warned == "croupier: warning: nothing reads CROUPIER_RULEZ; CROUPIER_RULES may be meant"
    assert refused.startswith(
        "croupier: CROUPIER_READ_SECONDS must be"
        if command == "serve"
        else f"croupier: {tmp_path}/mlflow.yaml:1: lerner: 'lerner' is no known key: did you mean learner?"
    )
