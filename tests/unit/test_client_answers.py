"""Answers of the client against the contract of the API: every recorded answer is read, whatever is added to it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from inspect import signature
from typing import Any, Final, assert_type, get_args, get_type_hints

import msgspec
import pytest
from croupier_client import AsyncCroupier, Croupier, answers, errors
from croupier_client.client import House, Operation
from croupier_client.conversation import pause, retry_after
from croupier_client.messages import Failure, Reply, Request, read
from msgspec.structs import fields
from support.architecture import ROOT

CONTRACT: Final[dict[str, Any]] = json.loads((ROOT / "docs" / "openapi.json").read_text("utf8"))
SCHEMAS: Final = CONTRACT["components"]["schemas"]
ANSWERS: Final[dict[type[Any], tuple[str, str, str]]] = {
    answers.Decision: ("post", "/v1/decisions", "200"),
    answers.Record: ("get", "/v1/decisions/{decision_id}", "200"),
    answers.Leave: ("post", "/v1/decisions/{decision_id}/confirm", "200"),
    answers.Accepted: ("post", "/v1/events", "200"),
    answers.Erasure: ("post", "/v1/erasures", "200"),
    answers.StagedExport: ("post", "/v1/exports", "202"),
    answers.Export: ("get", "/v1/exports/{export_id}", "200"),
    answers.Stop: ("post", "/v1/stops", "200"),
    answers.Stops: ("get", "/v1/stops", "200"),
    answers.Keys: ("get", "/v1/keys", "200"),
    answers.NewKey: ("post", "/v1/keys", "200"),
    answers.Key: ("delete", "/v1/keys/{key_id}", "200"),
    answers.Ready: ("get", "/readyz", "200"),
}
"""Answer of the client -> method, path and status of the contract."""
OWN: Final = {
    *((kind, "missing") for kind in (answers.Decision, answers.Record)),
    (answers.Record, "after_reached"),
    (answers.Ready, "trouble"),
    *((answers.Stop, name) for name in ("unreached", "scope", "value")),
    (answers.Accepted, "staged"),
}
"""Fields that the client makes, that another answer of the same kind has, or that houses begin to tell."""
UTC_NOW: Final = datetime(2026, 11, 29, 8, tzinfo=UTC)


def content(kind: type[Any]) -> dict[str, Any]:
    method, path, status = ANSWERS[kind]
    told: dict[str, Any] = CONTRACT["paths"][path][method]["responses"][status]["content"]["application/json"]
    return told


def recorded() -> Iterator[Any]:
    for kind in ANSWERS:
        told = content(kind)
        for name, example in told.get("examples", {"": {"value": told.get("example")}}).items():
            if example["value"] is not None:
                yield pytest.param(kind, example["value"], id=f"{kind.__name__}-{name}")


def added_to(value: Any) -> Any:
    """The same with an unknown member in every object of it, and in front of the others."""
    if isinstance(value, dict):
        news: dict[str, Any] = {"added_next_year": [{"deep": None}]}
        return news | {name: added_to(member) for name, member in value.items()}
    return [added_to(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("kind", "example"), [*recorded()])
def test_every_recorded_answer_is_read_and_what_is_added_to_it_is_passed_over(kind: type[Any], example: Any) -> None:
    plain = read(kind, msgspec.json.encode(example))
    grown = read(kind, msgspec.json.encode(added_to(example)))
    assert without_news(msgspec.to_builtins(grown)) == msgspec.to_builtins(plain)


def without_news(value: Any) -> Any:
    """The same without those members: objects that the house fills as it likes keep them."""
    if isinstance(value, dict):
        return {name: without_news(member) for name, member in value.items() if name != "added_next_year"}
    return [without_news(one) for one in value] if isinstance(value, list) else value


def members(schema: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Members of an object of the contract, and those that are always there."""
    if "$ref" in schema:
        return members(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    return schema.get("properties", {}), set(schema.get("required", ()))


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_the_client_asks_of_an_answer_nothing_that_the_contract_does_not_promise(kind: type[Any]) -> None:
    there, always = members(content(kind)["schema"])
    for field in fields(kind):
        if (kind, field.name) in OWN:
            continue
        assert field.name in there, f"{kind.__name__}.{field.name}"
        if field.required:
            assert field.name in always, f"{kind.__name__}.{field.name} may be left out"
        choices = there[field.name].get("anyOf", [])
        if {"type": "null"} in choices and field.required:
            assert type(None) in get_args(get_type_hints(kind)[field.name]), f"{kind.__name__}.{field.name} may be null"


def codes() -> dict[str, int]:
    """Every code of the contract with its status."""
    from features.errors import CroupierError  # noqa: PLC0415 - of the house, not of the client
    from service import errors as of_the_house  # noqa: PLC0415
    from service.api import problems  # noqa: PLC0415, F401 - defines the others

    def below(kind: type[CroupierError]) -> Iterator[type[CroupierError]]:
        for one in kind.__subclasses__():
            yield one
            yield from below(one)

    return {one.code: one.status for one in below(of_the_house.RequestRefused) if hasattr(one, "code")}


def test_every_code_of_the_house_has_an_error_that_goes_with_its_status() -> None:
    found = codes()
    assert len(found) > 40
    assert found.keys() >= errors.BY_CODE.keys() - {"sending"}
    for code, status in found.items():
        error = errors.refusal(answers.Problem(status=status, code=code))
        by_status = errors.refusal(answers.Problem(status=status, code="of_next_year"))
        assert isinstance(error, type(by_status)), code


@pytest.mark.parametrize("status", [one.value for one in HTTPStatus if one.value >= 400])
def test_every_status_has_an_error(status: int) -> None:
    assert errors.refusal(answers.Problem(status=status, code="")).status == status


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 120 ", 120),
        ("1.5", 1.5),
        (format_datetime(UTC_NOW + timedelta(seconds=9), usegmt=True), 9),
        (format_datetime(UTC_NOW - timedelta(days=9), usegmt=True), 0),
        ("Sunday, 29-Nov-26 08:00:30 GMT", 30),  # RFC 850's form, which must be read
        ("Sun Nov 29 08:00:30 2026", 30),  # asctime's, too
        ("-5", None),
        ("٣", None),
        ("1e9", None),
        ("9" * 400, None),
        ("Infinity", None),
        ("Sun, 99 Nov 2026 08:00:00 GMT", None),
        ("", None),
    ],
)
def test_retry_after_is_read_in_every_form_and_nonsense_is_none(said: str, seconds: float | None) -> None:
    assert retry_after(Reply(503, {"retry-after": said}, b""), lambda: UTC_NOW) == seconds
    # Where the house tells its own date, that is what its dates are of.
    wrong = lambda: UTC_NOW + timedelta(days=400)  # noqa: E731
    dated = {"retry-after": said, "date": format_datetime(UTC_NOW, usegmt=True)}
    assert retry_after(Reply(503, dated, b""), wrong) == seconds


def test_nobody_comes_back_sooner_than_asked_and_never_all_at_once() -> None:
    request, busy = Request("POST", "/v1/events"), Reply(503, {}, b"")
    for attempt in range(2_000):
        for chance in (0.0, 0.5, 0.999):
            asked = pause(request, busy, 3.0, attempt, chance)
            own = pause(request, busy, None, attempt, chance)
            assert asked is not None
            assert own is not None
            assert 3 <= asked <= 5
            assert 0 < own <= 5
    assert len({pause(request, busy, 3.0, 0, chance / 10) for chance in range(10)}) == 10


@pytest.mark.parametrize("arrived", [True, False])
def test_a_broken_connection_is_tried_again_only_where_that_does_nothing_twice(*, arrived: bool) -> None:
    failure = Failure("cut", arrived)
    again = {
        repeats: pause(Request("POST", "/", repeats=repeats), failure, None, 0, 0.5) is not None
        for repeats in ("always", "unsent", "never")
    }
    assert again == {"always": True, "unsent": not arrived, "never": False}


async def typed(croupier: Croupier, awaited: AsyncCroupier) -> None:
    """What the type checker of a caller sees of either client; it is checked, and never run."""
    assert_type(croupier.decide("p1", channels=["email"]), answers.Decision)
    assert_type(await awaited.decide("p1", channels=["email"]), answers.Decision)
    assert_type(croupier.events([]), list[answers.Accepted | errors.CroupierError])
    assert_type(await awaited.within(2).confirm("001-a"), answers.Leave)
    croupier.decide("p1", chanels=["email"])  # type: ignore[call-arg]
    croupier.confirm(3)  # type: ignore[arg-type]


def test_the_package_tells_type_checkers_of_its_types() -> None:
    assert (ROOT / "clients" / "python" / "croupier_client" / "py.typed").exists()


def test_every_method_of_either_client_is_that_of_both_and_says_what_it_does() -> None:
    own = {name for name, member in vars(House).items() if isinstance(member, Operation)}
    assert {"decide", "decide_many", "confirm", "outcome", "event", "events", "decision", "erase", "export"} <= own
    assert {"stop", "stops", "lift", "keys", "ready"} <= own
    house, other = Croupier("http://127.0.0.1:1", "key"), AsyncCroupier("http://127.0.0.1:1", "key")
    for name in own:
        assert signature(getattr(house, name)) == signature(getattr(other, name))
        assert getattr(Croupier, name).__doc__ == getattr(house, name).__doc__
        assert getattr(house, name).__doc__
