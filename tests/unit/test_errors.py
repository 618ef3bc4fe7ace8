"""Errors: all of ours in one tree, each word once, and every status and exit code on its class."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins
from support.architecture import ROOT

from features.errors import CroupierError
from features.store.lane import SilentError
from service.api.problems import REFUSALS, problem
from service.contacts.snapshot import Linked
from service.delivery.rendering import RenderingError
from service.errors import InvalidBodyError, NoContactError, Revoked, TooEarlyError

OURS = ("features", "models", "service", "pipelines")
OUTSIDE = {Linked, RenderingError, SilentError}
"""What nobody meets but our own code; the docstring of each says why."""
ANSWERS = {
    "invalid_gzip": 400,
    "invalid_json": 400,
    "malformed_request": 400,
    "unauthorised": 401,
    "callback_refused": 403,
    "cross_site": 403,
    "insufficient_scope": 403,
    "no_such_route": 404,
    "archived": 404,
    "unknown_decision": 404,
    "unknown_export": 404,
    "unknown_key": 404,
    "unknown_player": 404,
    "unknown_report": 404,
    "unknown_stop": 404,
    "unknown_task": 404,
    "no_such_method": 405,
    "too_slow": 408,
    "already_linked": 409,
    "event_id_reused": 409,
    "expired": 409,
    "export_failed": 409,
    "key_id_reused": 409,
    "key_revoked": 409,
    "no_contact": 409,
    "outcome_id_reused": 409,
    "released": 409,
    "request_id_reused": 409,
    "revoked": 409,
    "rotation_unfinished": 409,
    "sending": 409,
    "too_early": 409,
    "too_large": 413,
    "target_too_long": 414,
    "unsupported_media_type": 415,
    "misdirected": 421,
    "before_trading": 422,
    "event_in_future": 422,
    "event_too_old": 422,
    "foreign_position": 422,
    "implausible_outcome": 422,
    "invalid_body": 422,
    "invalid_id": 422,
    "outcome_in_future": 422,
    "outcome_too_old": 422,
    "stop_refused": 422,
    "reason_names_player": 422,
    "unknown_brand": 422,
    "unknown_type": 422,
    "rate_limited": 429,
    "headers_too_large": 431,
    "lake_unreadable": 503,
    "contended": 503,
    "history_full": 503,
    "no_definitions": 503,
    "not_ready": 503,
    "overloaded": 503,
    "store_full": 503,
    "stop_incomplete": 503,
    "store_unavailable": 503,
    "too_many_connections": 503,
}
"""Codes that callers know, with their status, for ever."""
ENDING = {
    "audit_refused",
    "command_refused",
    "connector_secret",
    "dataset_refused",
    "gate_refused",
    "house_key",
    "import_refused",
    "invalid_backup",
    "invalid_erasures",
    "invalid_file",
    "invalid_learner",
    "invalid_registry",
    "invalid_schedule",
    "invalid_setting",
    "key_file_refused",
    "no_house",
    "not_compacted",
    "not_deleted",
    "report_refused",
    "rules_refused",
    "simulation_refused",
    "answers_refused",
    "campaign_refused",
    "players_refused",
    "port_taken",
    "stop_refused",
    "store_unavailable",
    "training_refused",
    "unknown_stop",
    "zones_refused",
}
"""Codes of what ends a command with one sentence and exit code 2."""


def below(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    for one in kind.__subclasses__():
        yield one
        yield from below(one)


@pytest.fixture(scope="module")
def ours() -> set[type[BaseException]]:
    """Every exception that a module of ours defines."""
    for top in OURS:
        for file in sorted((ROOT / top).rglob("*.py")):
            import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    return {kind for kind in below(BaseException) if kind.__module__.partition(".")[0] in OURS}


@pytest.fixture(scope="module")
def tree(ours: set[type[BaseException]]) -> set[type[CroupierError]]:
    return {kind for kind in ours if issubclass(kind, CroupierError)} - {CroupierError}


def test_every_exception_is_in_the_tree_or_says_why_not(
    ours: set[type[BaseException]], tree: set[type[CroupierError]]
) -> None:
    assert len(tree) > 40
    assert ours - tree - {CroupierError} == OUTSIDE
    for kind in OUTSIDE:
        assert "Outside the tree of errors: " in (kind.__doc__ or "")


def test_every_code_is_of_one_class_and_those_that_specialise_it(tree: set[type[CroupierError]]) -> None:
    own = [kind.code for kind in tree if "code" in vars(kind)]
    assert len(own) == len(set(own))
    for kind in tree:
        assert hasattr(kind, "code") or kind.__subclasses__(), f"{kind.__name__} has no code"


def test_names_end_in_error_or_are_participles(tree: set[type[CroupierError]]) -> None:
    for kind in tree | OUTSIDE:
        assert kind.__name__.endswith(("Error", "ed")), kind.__name__


def test_statuses_and_exit_codes_are_those_of_the_class(tree: set[type[CroupierError]]) -> None:
    told = [kind for kind in tree if hasattr(kind, "code")]
    assert {kind.code: kind.status for kind in told if kind.status != 500} == ANSWERS
    assert {kind.code for kind in told if kind.exit_code != 1} == ENDING
    assert {kind.exit_code for kind in tree} == {1, 2}


def test_a_caller_is_told_of_what_has_a_status_of_its_own(tree: set[type[CroupierError]]) -> None:
    assert {kind for kind in tree if kind.status != 500} == {kind for kind in tree if issubclass(kind, REFUSALS)}


def test_a_problem_holds_what_its_class_knows() -> None:
    head = {"type": "about:blank", "title": "Conflict", "status": 409}
    detail = "the decision was to leave the player alone"

    def told(error: CroupierError) -> dict[str, Any]:
        return dict(to_builtins(problem(error)))

    assert told(NoContactError()) == head | {"code": "no_contact", "detail": detail}
    assert told(NoContactError(pointer="/decision_id"))["pointer"] == "/decision_id"
    assert told(InvalidBodyError("no", ""))["pointer"] == "", "the whole body"
    assert told(Revoked("no", ("GB1",))) == head | {"code": "revoked", "detail": "no", "rules": ["GB1"]}
    assert told(TooEarlyError("wait")) == head | {"code": "too_early", "detail": "wait", "rules": []}


def test_a_command_ends_with_the_sentence_and_the_exit_code_of_the_class(tmp_path: Path) -> None:
    def ended(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pipelines", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        return done.returncode, done.stderr

    assert ended("up", "--clock", "noon") == (
        2,
        "croupier: --clock takes a date or a moment such as 2020-03-02T10:00:00Z, not 'noon'\n",
    )
    code, said = ended("rules", "lint", str(tmp_path))
    assert (code, said.count("\n"), said[:10]) == (2, 1, "croupier: ")
