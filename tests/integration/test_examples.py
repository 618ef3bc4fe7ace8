"""The recorded examples of the API, sent to a real house: it answers as its page shows."""

import pytest
import redis
from conftest import Opened
from msgspec import UNSET
from support import examples
from support.contracts import current

from pipelines.worker.process import Worker
from service.api.contract import Example, operations
from service.api.contract import examples as recorded


@pytest.fixture
def settled(store: redis.Redis) -> None:
    """The house that the examples are of, before anything else creates one."""
    examples.settle(store)


@pytest.mark.usefixtures("settled")
async def test_every_example_is_answered_as_the_page_shows(
    opened: Opened,
    worker: Worker,  # noqa: ARG001 - features follow what is told
) -> None:
    async with opened() as client:
        await examples.arrive(client)
        for example in recorded():
            response = await examples.send(client, example)
            assert response.status_code == example.status, f"{example.operation} {example.name}: {response.text}"
            if example.answer is not UNSET:
                found = list(examples.differences(example.answer, response.json()))
                assert not found, f"{example.operation} {example.name}; `make contract` records them anew: {found}"


def _of(operation: str) -> list[Example]:
    return [example for example in recorded() if example.operation == operation]


SIGNED = {"POST /v1/callbacks/{connector}"}
"""What a provider signs for five minutes: no example of it would be taken."""


@pytest.mark.parametrize("name", sorted(dict(operations(current())).keys() - SIGNED))
def test_every_operation_shows_what_is_sent_and_what_is_answered(name: str) -> None:
    operation = dict(operations(current()))[name]
    shown = [example for example in _of(name) if example.status < 300]
    assert shown
    done = operation["responses"].get("200") or operation["responses"]["202"]
    for media, content in done["content"].items():
        assert media != "application/json" or content["examples"]
    if "requestBody" in operation:
        assert operation["requestBody"]["content"]["application/json"]["examples"]
    assert all("example" in one for one in operation.get("parameters", ()) if one["in"] == "path")


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"action": "NO_CONTACT", "why": {"score": 0.5}, "at": "2026-11-24T10:00:00Z"}, ["/degraded"]),
        ({"action": "CONTACT", "degraded": [], "why": {"score": 0.5}, "at": "2026-11-24T10:00:00Z"}, ["/action"]),
        ({"action": "NO_CONTACT", "degraded": [], "why": {"score": "0.5"}, "at": "2026-11-24T10:00:00Z"}, ["score"]),
        ({"action": "NO_CONTACT", "degraded": ["x"], "why": {"score": 1}, "at": "2027-01-01T10:00:00Z"}, ["/degraded"]),
        ({"action": "NO_CONTACT", "degraded": [], "why": {"score": 1}, "at": "2027-01-01T10:00:00Z"}, []),
    ],
)
def test_an_answer_with_other_keys_types_or_words_is_not_like_its_example(
    changed: dict[str, object], where: list[str]
) -> None:
    example = {"action": "NO_CONTACT", "degraded": [], "why": {"score": 0.5}, "at": "2026-11-24T10:00:00Z"}
    found = list(examples.differences(example, changed))
    assert len(found) == len(where)
    assert all(part.lstrip("/") in said for part, said in zip(where, found, strict=True))
