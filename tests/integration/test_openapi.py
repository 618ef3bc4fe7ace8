"""The API against its own OpenAPI page: answers conform to the schema and are never faults."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support import examples
from support.application import application
from support.keys import HEADERS
from support.players import adult_events

from features.store.server import Server
from pipelines.privacy.exports import make_all
from service.api.contract import examples as recorded

SIGNED = "POST /v1/callbacks/{connector}"
"""A provider shows by its signature who it is, and has no key."""


def no_fault(_: Any, answer: schemathesis.Response, case: Any) -> None:
    """What the page admits is no fault of ours; a deadline of a millisecond may pass."""
    assert answer.status_code < 500 or answer.status_code == 503, case


CHECKS = [no_fault, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
def served(server: Server, store: redis.Redis) -> Iterator[str]:
    """The application in a process of its own, as it is run, over the house of the examples."""
    examples.settle(store)
    with application(CROUPIER_STORE=server.url) as address:
        yield address


def known(address: str, store: redis.Redis, home: Path) -> dict[str, list[dict[str, str]]]:
    """Parameters of paths that lead somewhere, by operation, once the house was told and asked what examples show."""
    paths: dict[str, list[dict[str, str]]] = defaultdict(list)
    with httpx.Client(base_url=address, timeout=60, headers=HEADERS) as client:
        for event in adult_events("player-1", examples.NOW):
            assert client.post("/v1/events", json=event).status_code == 200
        for example in recorded():
            method, _, path = example.operation.partition(" ")
            body = None if example.body is UNSET else example.body
            client.request(method, path.format(**example.path), json=body, params=example.query)
            if example.path:
                paths[example.operation].append(example.path)
        # Of a message of service, which is due at once and needs no features, for which a worker would have to run.
        service = client.post("/v1/decisions", json={"player_id": "player-1", "purpose": "service"}).json()
        assert client.post("/v1/keys", json={"scopes": ["read"], "id": "spare"}).status_code == 200
        stop = client.post("/v1/stops", json={"offer": "free_bet", "reason": "a typing error"}).json()
        export = client.post("/v1/exports", json={"player_id": "player-1"}).json()
        make_all(store, home)
    paths["GET /v1/exports/{export_id}"].append({"export_id": export["export_id"]})
    paths["POST /v1/keys/{key_id}/rotate"].append({"key_id": "spare"})
    paths["POST /v1/decisions/{decision_id}/confirm"].append({"decision_id": service["decision_id"]})
    paths["DELETE /v1/stops/{stop_id}"].append({"stop_id": stop["id"]})
    return paths


ELSEWHERE = frozenset({SIGNED, "POST /v1/tasks/{task_id}"})
"""What no request made of the page alone can do: sign as a provider, and answer a task that a worker must have made."""


def test_whatever_the_page_admits_is_answered_as_the_page_says(served: str, store: redis.Redis, tmp_path: Path) -> None:
    """Any request that fits the page, and the same about what the house knows."""
    paths, answered = known(served, store, tmp_path), set()
    schema = schemathesis.openapi.from_url(f"{served}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 30
    for operation in operations:
        leading = paths.get(operation.label, [])
        bodies = [UNSET, *(example.body for example in recorded() if example.operation == operation.label)]

        @settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(), path=st.sampled_from([None, *leading]), body=st.sampled_from(bodies))
        def law(case: schemathesis.Case, path: dict[str, str] | None, body: Any) -> None:
            if path is not None:
                case.path_parameters = path
            if body is not UNSET:  # what is random rarely fits together
                case.body = body
            answer = case.call_and_validate(base_url=served, checks=CHECKS, headers=HEADERS)
            answered.add((case.operation.label, answer.status_code))

        law()
    well = {label for label, status in answered if status < 300}
    assert well >= {operation.label for operation in operations} - ELSEWHERE


@pytest.mark.parametrize("sent", [{}, {"authorization": "Bearer ck_tests_wrong"}, {"cookie": "croupier=x.y.z"}])
def test_whatever_is_asked_without_a_key_of_the_house_is_answered_as_the_page_says_and_told_nothing(
    served: str, sent: dict[str, str]
) -> None:
    open_ = {"GET /healthz", "GET /readyz"}
    schema = schemathesis.openapi.from_url(f"{served}/openapi.json")
    for operation in [found.ok() for found in schema.get_all_operations()]:

        @settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def law(case: schemathesis.Case) -> None:
            answer = case.call_and_validate(base_url=served, checks=CHECKS, headers=sent)
            if case.operation.label in open_:
                assert answer.status_code == 200
            elif case.operation.label == SIGNED:
                assert answer.status_code in {400, 403, 413}
                assert "www-authenticate" not in answer.headers  # no key opens it
            else:
                assert answer.status_code in {401, 429}
                assert "www-authenticate" in answer.headers or answer.status_code == 429
                assert answer.json()["code"] in {"unauthorised", "rate_limited"}

        law()
