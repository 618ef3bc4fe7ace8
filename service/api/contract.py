"""The contract of the API: its OpenAPI page, from the structs of answers, the tree of errors and recorded examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import UNSET, Struct, UnsetType

from features.errors import RETRY_AFTER_SECONDS, CroupierError
from service.access import cookies
from service.access.scopes import Scope
from service.api.personal_schemas import ErasureAnswer, ExportAnswer, StagedExportAnswer
from service.api.problems import MEDIA_TYPE, OF_NO_ROUTE, TITLES, Refusals, problem
from service.api.schemas import (
    AcceptedAnswer,
    BatchAnswer,
    CallbackAnswer,
    ConfirmAnswer,
    DecisionAnswer,
    EventsAnswer,
    HealthAnswer,
    InboxAnswer,
    KeyAnswer,
    KeysAnswer,
    NewKeyAnswer,
    PlayerAnswer,
    Problem,
    ReadyAnswer,
    RecordAnswer,
    StopAnswer,
    StopsAnswer,
    TaskDone,
    TasksAnswer,
)
from service.errors import REALM
from service.reports import PublishedReport

ABOUT: Final = """What now for this player? Croupier answers one action or no contact, under the rules of the house.

1. **Know.** Tell who a player is and what they do, as *events*. An exclusion holds the moment it is acknowledged.
2. **Decide.** Ask for a *decision*, and *confirm* its contact just before you send it.
3. **Learn.** Tell the *outcomes* of contacts.

**To try it**, press *Authorize* and paste the key in `development.key` of the house, or one of `croupier keys create`.
Each operation names the scope that its key needs. In code send `Authorization: Bearer KEY`.

**To repeat is safe**: after a time-out, a 429 or a 503 send the same again, under the same `event_id`, `request_id` or
`outcome_id`. A refusal is a problem (RFC 9457): `code` is for machines, `detail` for people, `pointer` names the field.

Moments are ISO 8601 with a zone, money is in minor units (1250 is 12.50). Under `/v1` fields and codes are added, never
changed or removed: pass over those that you do not know."""
TAGS: Final = [
    {"name": "Decide", "description": "What now for this player? Ask, then confirm just before sending."},
    {"name": "Know", "description": "Who players are, what they do, and what is known of them."},
    {"name": "Deliver", "description": "What the house sends itself: the player's inbox, and tasks of agents."},
    {"name": "Learn", "description": "What became of a contact."},
    {"name": "Deliver", "description": "What providers call back of messages that the house sent."},
    {"name": "Personal", "description": "What a person may demand: to be told everything, and to be erased."},
    {"name": "Stop", "description": "The kill switch: what the house sends nobody, at once and everywhere."},
    {"name": "Report", "description": "What an experiment brought, as `croupier report` published it."},
    {"name": "Operate", "description": "Whether a process is alive and serves, and its counters."},
    {"name": "Keys", "description": "Who may ask what."},
]
_ANSWERS: Final = (
    *(AcceptedAnswer, EventsAnswer, CallbackAnswer),
    *(DecisionAnswer, BatchAnswer, RecordAnswer, ConfirmAnswer),
    PlayerAnswer,
    *(ErasureAnswer, StagedExportAnswer, ExportAnswer),
    *(InboxAnswer, TasksAnswer, TaskDone),
    PublishedReport,
    *(StopAnswer, StopsAnswer),
    *(HealthAnswer, ReadyAnswer),
    *(KeysAnswer, KeyAnswer, NewKeyAnswer),
    Problem,
)
"""Every body that is answered."""
_SCHEMES: Final = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "ck_ID_SECRET",
        "description": "A key of the house, as `croupier keys create` showed it; each operation names its scope.",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": cookies.NAME,
        "description": "Of a browser that was signed in with a key at `/sign-in`; a write needs its `Origin` too.",
    },
}
_RETRY_AFTER: Final = {
    "retry-after": {
        "description": "Seconds to wait.",
        "schema": {"type": "integer", "minimum": 0, "examples": [RETRY_AFTER_SECONDS]},
    }
}
_CHALLENGE: Final = {
    "www-authenticate": {
        "description": "What is asked for, as RFC 6750 says it.",
        "schema": {"type": "string", "examples": [f'Bearer realm="{REALM}"']},
    }
}
_HEADERS: Final = {401: _CHALLENGE, 403: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}
_JSON: Final = "application/json"
_REFERENCE: Final = "#/components/schemas/{name}"
_OF_FASTAPI: Final = ("HTTPValidationError", "ValidationError")
"""Schemas of refusals that FastAPI documents for its own routes; ours refuse with problems."""


def security(scope: Scope) -> list[dict[str, list[str]]]:
    """What an operation asks for: a key with its scope, or the cookie of who signed in with one."""
    return [{name: [scope]} for name in _SCHEMES]


class Example(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An exchange with the API as it was recorded: what is sent to an operation, and what was answered.

    Attributes:
        operation: Method and path, as `POST /v1/decisions`.
        name: Of the example, unique in its operation.
        summary: What it shows, for people.
        path: Parameters of the path.
        query: Parameters of the query.
        body: Of the request.
        status: Of the answer.
        answer: Its body; unset for one that is no JSON.
    """

    operation: str
    name: str
    summary: str
    path: dict[str, str] = {}
    query: dict[str, str] = {}
    body: Any | UnsetType = UNSET
    status: int = 200
    answer: Any | UnsetType = UNSET


@cache
def examples() -> tuple[Example, ...]:
    """The recorded examples, in the order in which they were sent."""
    text = (files("service.api") / "examples.json").read_bytes()
    return msgspec.json.decode(text, type=tuple[Example, ...])


def responses(
    answer: type[Struct] | str | None,
    refusals: Refusals,
    *,
    keyed: bool = False,
    meanwhile: type[Struct] | None = None,
) -> dict[int | str, dict[str, Any]]:
    """Responses of an operation: its answer, as a struct or by media type, and the problems of its errors.

    `meanwhile` is the struct of what is answered, with status 202, while the answer is being made.
    """
    statuses = sorted({error.status for error in refusals})
    found: dict[int | str, dict[str, Any]] = {
        status: _answered(one) for status, one in ((200, answer), (202, meanwhile)) if one is not None
    }
    if keyed and answer == "text/html":
        found[303] = {"description": "To the page where people sign in: for a browser without a key"}
    return found | {status: _refused(status, refusals) for status in statuses}


def _answered(answer: type[Struct] | str) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"description": "As text", "content": {answer: {"schema": {"type": "string"}}}}
    schema = {"$ref": _REFERENCE.format(name=answer.__name__)}
    return {"description": _first_line(answer), "content": {_JSON: {"schema": schema}}}


def _refused(status: int, refusals: Refusals) -> dict[str, Any]:
    """A response with the problems of one status: every code, with what it means."""
    errors = [error for error in refusals if error.status == status]
    codes = {error.code: f"- `{error.code}`: {_meaning(error)}" for error in errors}
    schema = {
        "allOf": [
            {"$ref": _REFERENCE.format(name=Problem.__name__)},
            {"properties": {"status": {"const": status}, "code": {"enum": list(codes)}}},
        ]
    }
    content = {"schema": schema, "examples": {error.code: _shown(error) for error in errors}}
    shown: dict[str, Any] = {
        "description": "\n".join((f"{TITLES[status]}\n", *codes.values())),
        "content": {MEDIA_TYPE: content},
    }
    headers = _HEADERS.get(status)
    return shown | ({"headers": headers} if headers else {})


def _shown(error: type[CroupierError]) -> dict[str, Any]:
    """The problem of an error as an example, for where none was recorded."""
    meaning = _meaning(error)
    return {"summary": meaning, "value": msgspec.to_builtins(problem(error() if error.sentence else error(meaning)))}


def _meaning(error: type[CroupierError]) -> str:
    return _first_line(error).rstrip(".")


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def describe(app: FastAPI) -> None:
    """Let an application, which has all its routes, describe itself by the contract."""
    page: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not page:
            page.update(document(app))
        return page

    app.openapi = openapi  # type: ignore[method-assign]


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI page of an application, with the recorded examples."""
    page = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    schemas = page["components"]["schemas"]
    for name in _OF_FASTAPI:
        schemas.pop(name, None)
    _, answered = msgspec.json.schema_components(_ANSWERS, ref_template=_REFERENCE)
    schemas |= answered
    schemas[Problem.__name__]["properties"]["code"]["enum"] = sorted(_codes(page))
    page["components"] |= {"schemas": dict(sorted(schemas.items())), "securitySchemes": _SCHEMES}
    _untitle(page["components"]["schemas"].values())
    for name, operation in operations(page):
        if _is_of_fastapi(operation["responses"].get("422", {})):
            del operation["responses"]["422"]
        if operation["description"] == operation["summary"] + ".":
            del operation["description"]
        _illustrate(operation, [example for example in examples() if example.operation == name])
    return page


def operations(page: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Operations of a page by method and path, as `POST /v1/decisions`."""
    for path, methods in page["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def _codes(page: Mapping[str, Any]) -> set[str]:
    """Codes of the problems of all operations, and of what is none."""
    refused = [
        part["enum"]
        for _, operation in operations(page)
        for response in operation["responses"].values()
        for part in _properties(response.get("content", {}).get(MEDIA_TYPE, {}))
    ]
    return {code for codes in refused for code in codes} | {error.code for error in OF_NO_ROUTE}


def _properties(media: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [media["schema"]["allOf"][1]["properties"]["code"]] if media else []


def _is_of_fastapi(response: Mapping[str, Any]) -> bool:
    return _JSON in response.get("content", {})


def _untitle(schemas: Iterable[dict[str, Any]]) -> None:
    """Drop the titles of fields, which say their names again."""
    for schema in schemas:
        for field in schema.get("properties", {}).values():
            field.pop("title", None)


def _illustrate(operation: dict[str, Any], recorded: Iterable[Example]) -> None:
    """Put recorded examples where the page shows them."""
    for example in recorded:
        told = {"summary": example.summary}
        if example.body is not UNSET:
            asked = operation["requestBody"]["content"][_JSON]
            asked.setdefault("examples", {})[example.name] = told | {"value": example.body}
        if example.answer is not UNSET:
            (media,) = operation["responses"][str(example.status)]["content"].values()
            shown = media.setdefault("examples", {})
            if example.status >= 400:
                shown.pop(example.answer["code"], None)
            shown[example.name] = told | {"value": example.answer}
        for parameter in operation.get("parameters", ()):
            given = example.path | example.query
            if parameter["name"] in given and example.status == 200:
                parameter["example"] = given[parameter["name"]]
