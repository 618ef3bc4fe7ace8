"""Logs: whatever has a voice in a process speaks in lines of JSON, and none of it tells a value."""

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from rich.pretty import pretty_repr

from features.errors import told
from features.faults import described
from features.settings.environment import Environment, SettingError
from features.settings.masks import masked
from features.store.deployment import House
from features.store.errors import StoreError
from service.decisions.request import DecisionRequest
from service.settings import Settings

MARK = "jane.doe@example.com"


def run(script: str, code: int = 0) -> list[dict[str, Any]]:
    """What a process says that begins its logs and runs a script, line by line; nothing of it holds the mark."""
    whole = f"from features import logs\nlogs.begin()\nmark = {MARK!r}\n{dedent(script)}"
    ended = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    assert MARK not in ended.stderr + ended.stdout
    assert not ended.stdout
    return [json.loads(line) for line in ended.stderr.splitlines()]


def test_events_of_ours_are_lines_of_json_with_moment_and_level() -> None:
    (one,) = run("import structlog; structlog.get_logger().warning('held', count=3, at={1: (2,)}, what=object())")
    assert (one["event"], one["level"], one["count"], one["at"]) == ("held", "warning", 3, {"1": [2]})
    assert one["what"] == "<object>"
    assert one["timestamp"].endswith("Z")


def test_a_fault_is_told_by_type_and_places_with_what_it_came_of() -> None:
    script = """
        import structlog
        def inner(secret): raise ValueError(secret)
        def outer(secret):
            try: inner(secret)
            except ValueError as error: raise LookupError(secret) from error
        try: outer(mark)
        except LookupError: structlog.get_logger().exception("fault", route="/v1/events")
    """
    (one,) = run(script)
    assert [fault["type"] for fault in one["fault"]] == ["LookupError", "ValueError"]
    assert [place.split()[-1] for place in one["fault"][1]["places"]] == ["outer", "inner"]


def test_a_deep_fault_is_told_by_its_innermost_places() -> None:
    script = """
        import structlog
        def deeper(secret): deeper(secret)
        try: deeper(mark)
        except RecursionError: structlog.get_logger().exception("fault")
    """
    (one,) = run(script)
    assert len(one["fault"][0]["places"]) == 40


@pytest.mark.parametrize(
    ("script", "event"),
    [
        ("import warnings; warnings.warn(mark)", "warning"),
        ("import logging; logging.getLogger('redis').error('lost %s', mark)", "lost %s"),
        ("import logging; logging.getLogger('some').error(ValueError(mark))", "a record of some, withheld"),
        ("import logging; logging.getLogger('some').error('all is %d', mark)", "all is %d"),
        ("import logging; logging.getLogger('some').error(f'all is {mark}')", "a record of some, withheld"),
        ("import threading; t = threading.Thread(target=int, args=(mark,)); t.start(); t.join()", "thread"),
        ("class C:\n  def __del__(self): raise ValueError(mark)\nC()", "unraisable"),
        (
            (
                "import asyncio\nasync def fail(): raise ValueError(mark)\n"
                "async def main():\n  asyncio.create_task(fail()); await asyncio.sleep(0.01)\nasyncio.run(main())"
            ),
            "Task exception was never retrieved",
        ),
        (
            (
                "import asyncio\nasync def main():\n"
                "  asyncio.get_running_loop().call_soon(int, mark); await asyncio.sleep(0.01)\nasyncio.run(main())"
            ),
            "Exception in callback int",
        ),
        (
            (
                "import asyncio, uvloop\nasync def main():\n"
                "  asyncio.get_running_loop().call_soon(int, mark); await asyncio.sleep(0.01)\nuvloop.run(main())"
            ),
            "Exception in callback",
        ),
    ],
)
def test_whatever_else_has_a_voice_tells_no_value(script: str, event: str) -> None:
    (one,) = run(script)
    assert one["event"].startswith(event)


def test_what_nobody_caught_ends_a_process_in_one_line() -> None:
    (one,) = run("{}[mark]", code=1)
    assert (one["level"], one["fault"][0]["type"]) == ("critical", "KeyError")


def test_what_kills_a_process_tells_its_places() -> None:
    script = f"from features import logs\nlogs.begin()\nmark = {MARK!r}\nimport os; os.abort()"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "Fatal Python error: Aborted" in ended.stderr
    assert MARK not in ended.stderr


def test_a_command_that_fails_by_our_fault_shows_places_and_no_value(tmp_path: Path) -> None:
    script = (
        "from pipelines.cli import app, house\nimport sys\n"
        f"def broken(*_): raise ValueError({MARK!r})\n"
        "import features.settings.listing as listing; listing.listed = broken\n"
        "sys.argv = ['croupier', 'settings']; app.main()"
    )
    environment = os.environ | {"CROUPIER_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[0] == "croupier: a fault of ours, told without values:"
    assert ended.stderr.splitlines()[-1] == "ValueError"
    assert MARK not in ended.stderr


def test_texts_of_errors_are_told_where_they_are_ours_or_the_systems() -> None:
    assert told(StoreError("the store is silent")) == "the store is silent"
    assert told(FileNotFoundError(2, "No such file", f"/home/{MARK}")) == "ENOENT: No such file or directory"
    assert told(OSError(MARK)) == "OSError"
    assert told(ValueError(MARK)) == "ValueError"


class Numbered(BaseModel):
    number: int


def test_an_error_of_pydantic_is_told_without_what_it_was_given() -> None:
    with pytest.raises(ValidationError) as caught:
        Numbered.model_validate({"number": MARK})
    assert MARK in str(caught.value)
    assert MARK not in json.dumps(list(described(caught.value)))
    with pytest.raises(ValidationError) as hidden:
        DecisionRequest.model_validate({"player_id": MARK, MARK: MARK, "channels": [MARK]})
    assert f"input_value='{MARK}'" not in str(hidden.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "no store answers at redis://croupier:hunter2@store:6379",
            "no store answers at redis://croupier:***@store:6379",
        ),
        ("redis://:hunter2@store", "redis://:***@store"),
        (
            "rediss+cluster://a:hunter2@one:1,b:2?password=hunter2 broke",
            "rediss+cluster://a:***@one:1,b:2?password=*** broke",
        ),
        ("http://me:hunter2@mlflow/x and redis://:hun@ter2@store/0", "http://me:***@mlflow/x and redis://:***@store/0"),
        ("'unix:///run/store.sock'", "'unix:///run/store.sock'"),
        ("a plain: sentence @ home", "a plain: sentence @ home"),
    ],
)
def test_addresses_are_shown_without_their_passwords(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_a_wrong_setting_is_shown_without_its_secret() -> None:
    with pytest.raises(SettingError) as caught:
        _ = Environment({"PORT": "redis://:hunter2@store"}).port
    assert "hunter2" not in str(caught.value)


def test_what_holds_secrets_or_persons_is_shown_by_its_type() -> None:
    house = House(format=2, partitions=256, sandbox=False, real_us=0, house_us=0, rate=1.0, secret="ab" * 32)
    assert repr(house) == str(house) == "<House>"
    assert f"{DecisionRequest(player_id='p-1')}" == "<DecisionRequest>"
    assert (pretty_repr(house), pretty_repr(DecisionRequest(player_id="p-1"))) == ("House()", "DecisionRequest()")
    settings = Settings("redis://:hunter2@store", Path(), Path(), ("some-key",))
    assert "hunter2" not in repr(settings)
    assert "some-key" not in repr(settings)
