"""The API against its own OpenAPI page: answers conform to the schema and are never faults."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.application import application

from features.store.deployment import create_house
from features.store.server import Server


def no_fault(_: Any, answer: schemathesis.Response, case: Any) -> None:
    """What the page admits is no fault of ours; a deadline of a millisecond may pass."""
    assert answer.status_code < 500 or answer.status_code == 503, case


CHECKS = [no_fault, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
def served(server: Server, store: redis.Redis) -> Iterator[str]:
    """The application in a process of its own, as it is run."""
    create_house(store)
    with application(CROUPIER_STORE=server.url) as address:
        yield address


def test_whatever_the_page_admits_is_answered_as_the_page_says(served: str) -> None:
    schema = schemathesis.openapi.from_url(f"{served}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 14
    for operation in operations:

        @settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def law(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=served, checks=CHECKS)

        law()
