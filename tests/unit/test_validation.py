"""Words about what is wrong with a body: of every field of every body, whatever is sent, and none of pydantic's."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from features.events import AnyEvent, Event, type_of
from service.api.decisions import BatchRequest
from service.api.events import EventBatch
from service.api.keys import KeyRequest, RotationRequest
from service.api.personal import ErasureRequest, ExportRequest
from service.api.problems import invalid
from service.api.schemas import BodyFault
from service.api.stops import StopRequest
from service.api.validation import faults, unreadable
from service.decisions.outcomes import Outcome
from service.decisions.request import DecisionRequest
from service.errors import InvalidBodyError, InvalidJsonError

EVENT: TypeAdapter[Any] = TypeAdapter(AnyEvent)
FOREIGN = ("should", "Input", "Field required", "Extra inputs", "pattern", "^[", "pydantic", "valid datetime")
WRONG: list[Any] = [[[]], {"": 1}, "\x07", "", 1.5, -1, True, None, "x" * 500]
MODELS = (
    *(DecisionRequest, Outcome, BatchRequest, EventBatch),
    *(StopRequest, KeyRequest, RotationRequest, ErasureRequest, ExportRequest),
)
FIELDS = [
    *((EVENT, {"type": type_of(one)}, name) for one in get_args(Event) for name in one.model_fields if name != "type"),
    *((TypeAdapter(one), {}, name) for one in MODELS for name in one.model_fields),
]


def wrong(adapter: TypeAdapter[Any], body: Any) -> list[BodyFault]:
    try:
        adapter.validate_json(json.dumps(body))
    except ValidationError as error:
        return faults(error, adapter)
    return []


def plain(fault: BodyFault) -> None:
    assert not [word for word in FOREIGN if word in fault.detail], fault
    assert not [word for word in FOREIGN if word in str(fault.expected)], fault


@pytest.mark.parametrize(("adapter", "body", "field"), FIELDS, ids=lambda one: one if isinstance(one, str) else None)
def test_whatever_is_sent_in_a_field_is_told_in_plain_words_with_what_was_expected(
    adapter: TypeAdapter[Any], body: dict[str, Any], field: str
) -> None:
    refused = 0
    for value in WRONG:
        found = [one for one in wrong(adapter, {**body, field: value}) if one.pointer.split("/")[1:2] == [field]]
        for fault in found:
            plain(fault)
            assert field in fault.detail
            assert fault.expected or fault.detail.startswith(f"{field}: ")
        refused += bool(found)
    assert refused >= 2
    missing = [one for one in wrong(adapter, body) if one.pointer == f"/{field}"]
    for fault in missing:
        assert fault.detail.startswith(f"{field} is missing; expected: ")


@pytest.mark.parametrize(("adapter", "body", "field"), FIELDS, ids=lambda one: one if isinstance(one, str) else None)
def test_a_misspelt_field_leads_to_the_one_that_was_meant(
    adapter: TypeAdapter[Any], body: dict[str, Any], field: str
) -> None:
    spelt = field[:-1] if len(field) < 7 else field[:3] + field[4:]
    meant = {one.pointer: one.did_you_mean for one in wrong(adapter, {**body, spelt: 1})}
    assert meant[f"/{spelt}"] == field


@pytest.mark.parametrize(
    ("said", "field", "sentence"),
    [
        ({"type": "satisfaction_rated", "score": 0, "scale": "1-5"}, "score", "0 is not on the scale 1-5"),
        (
            {
                "type": "bet_cancelled",
                "bet_id": "b",
                "amount_minor": 1,
                "product": "casino",
                "placed_at": "2026-05-03T00:00:00Z",
            },
            "placed_at",
            "it lies after occurred_at; what is undone was there before",
        ),
        (
            {"type": "chargeback", "amount_minor": 1, "deposited_at": "2026-05-03T00:00:00Z"},
            "deposited_at",
            "it lies after occurred_at; what is undone was there before",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_told_at_one_of_them(
    said: dict[str, Any], field: str, sentence: str
) -> None:
    (fault,) = wrong(EVENT, {"event_id": "e", "player_id": "p", "occurred_at": "2026-05-02T00:00:00Z", **said})
    assert (fault.pointer, fault.detail) == (f"/{field}", f"{field}: {sentence}")
    assert fault.expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=200)
@given(JSON, st.sampled_from([EVENT, *(TypeAdapter[Any](one) for one in MODELS)]))
def test_any_json_is_told_in_plain_words(body: Any, adapter: TypeAdapter[Any]) -> None:
    for fault in wrong(adapter, body):
        plain(fault)


@settings(max_examples=200)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:\\u0e1.-tfn ', max_size=20).map(str.encode))
def test_what_is_no_json_is_told_with_line_and_column(content: bytes) -> None:
    try:
        EVENT.validate_json(content)
    except ValidationError as error:
        refusal = invalid(error, EVENT)
        if isinstance(refusal, InvalidBodyError):
            return
        assert isinstance(refusal, InvalidJsonError)
        assert str(refusal).startswith("the body is no JSON: line ") or not content
        assert "this cannot be read" not in str(refusal)


def test_an_unknown_trouble_of_a_reader_of_json_has_a_sentence_too() -> None:
    assert (
        unreadable("something new at line 3 column 9") == "the body is no JSON: line 3, column 9: this cannot be read"
    )
