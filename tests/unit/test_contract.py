"""The contract of the API: its page as it is kept, and the law that a later one only adds to an earlier one."""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.additions import WIDENED, removals
from support.contracts import FILE, current, kept, text

from service.api.contract import operations
from service.api.problems import EVERYWHERE, MEDIA_TYPE

Page = dict[str, Any]
BLANKET = {"400", "401", "404", "409", "413", "422", "503"}
"""Problems that the first page named for every route alike, in a media type that was never sent."""


def promised(name: str, page: Page) -> Page:
    """What a page promised: of the first one the answers, as its problems were the same for every route.

    What a process serves is told to who has a key since there are scopes: of `/readyz`, `ready` alone is always there.
    """
    page = deepcopy(page)
    if ready := page["components"]["schemas"].get("ReadyAnswer"):
        ready["required"] = ["ready"]
    if name == "1.json":
        for _, operation in operations(page):
            for status in BLANKET & operation["responses"].keys():
                del operation["responses"][status]
    return page


def test_the_page_is_kept_as_it_is() -> None:
    assert FILE.read_text("utf8") == text(current()), "run `make contract`"


@given(st.data())
def test_a_pattern_that_replaced_another_takes_all_that_was_taken(data: st.DataObject) -> None:
    earlier, later = data.draw(st.sampled_from(sorted(WIDENED)))
    assert re.match(later, data.draw(st.from_regex(earlier, fullmatch=True)))


@pytest.mark.parametrize("name", kept())
def test_a_page_only_adds_to_every_earlier_one(name: str) -> None:
    assert removals(promised(name, kept()[name]), current()) == []


def test_every_reference_leads_somewhere() -> None:
    schemas = current()["components"]["schemas"]
    named = {part.partition('"')[0] for part in json.dumps(current()).split("#/components/schemas/")[1:]}
    assert named <= schemas.keys()
    assert schemas.keys() - named == set(), "a schema of nothing"


def test_a_field_of_an_answer_is_a_mapping_only_where_its_keys_are_data() -> None:
    free = {
        f"{name}.{field}"
        for name, schema in current()["components"]["schemas"].items()
        for field, shape in schema.get("properties", {}).items()
        if '"type": "object"' in json.dumps(shape) and name not in {"BatchRequest", "EventBatch"}
    }
    about_every_decision = {"markers", "harm_sources"}
    assert free == {
        "OfferAnswer.parameters",
        "InboxMessage.parameters",
        "TaskAnswer.parameters",
        *(f"{answer}.{field}" for answer in ("DecisionAnswer", "RecordAnswer") for field in about_every_decision),
        "RecordedFeatures.values",
        *(f"Personal.{field}" for field in ("context", "facts", "inputs")),
        "MissingFact.values",
        "PlayerAnswer.inputs",
        "ExportedEvent.personal",
        "ShownOffer.parameters",
        *(f"ExportedPersonal.{field}" for field in ("context", "inputs")),
        "PlayerFeatures.values",
        *(f"PlayerHarm.{field}" for field in ("markers", "sources")),
        *(f"SampleRatio.{field}" for field in ("observed", "expected")),
        "StoreReach.nodes",
        "ReadyAnswer.barred",
    }


def test_what_asks_for_a_key_says_so_and_names_what_every_route_may_refuse() -> None:
    for name, operation in operations(current()):
        open_ = name.split()[1] in {"/healthz", "/readyz", "/v1/callbacks/{connector}"}
        assert ("security" in operation) is not open_
        for error in () if open_ else EVERYWHERE:
            schema = operation["responses"][str(error.status)]["content"][MEDIA_TYPE]["schema"]
            assert error.code in schema["allOf"][1]["properties"]["code"]["enum"]


def test_what_may_be_unavailable_says_when_to_ask_again() -> None:
    for _, operation in operations(current()):
        if "503" in operation["responses"]:
            assert "retry-after" in operation["responses"]["503"]["headers"]


# What is no addition ----------------------------------------------------------------------------------------------


def _operation(page: Page, name: str = "POST /v1/decisions") -> Page:
    return dict(operations(page))[name]


def _fields(page: Page, schema: str) -> dict[str, Any]:
    found: dict[str, Any] = page["components"]["schemas"][schema]["properties"]
    return found


def _enum(page: Page) -> list[str]:
    schema = _operation(page)["responses"]["409"]["content"][MEDIA_TYPE]["schema"]
    words: list[str] = schema["allOf"][1]["properties"]["code"]["enum"]
    return words


REMOVALS: dict[str, tuple[Callable[[Page], Any], str]] = {
    "a path": (lambda page: page["paths"].pop("/v1/outcomes"), "POST /v1/outcomes is gone"),
    "a method": (lambda page: page["paths"]["/readyz"].pop("get"), "GET /readyz is gone"),
    "a status": (lambda page: _operation(page)["responses"].pop("409"), "409 is gone"),
    "a code": (lambda page: _enum(page).pop(), "the word 'request_id_reused' is gone"),
    "a field of an answer": (lambda page: _fields(page, "DecisionAnswer").pop("lost"), "/lost is gone"),
    "a field deep in an answer": (lambda page: _fields(page, "OfferAnswer").pop("template"), "/template is gone"),
    "a promise that a field is there": (
        lambda page: page["components"]["schemas"]["Lease"].pop("required"),
        "/valid_until: may be left out now",
    ),
    "a type of an answer": (
        lambda page: _fields(page, "DecisionAnswer")["recorded"].update(type="string"),
        "/recorded: boolean became string",
    ),
    "that a field is never null": (
        lambda page: _fields(page, "ConfirmAnswer").update(send_by={"anyOf": [{"type": "string"}, {"type": "null"}]}),
        "/send_by: string became null",
    ),
    "a field of a request": (lambda page: _fields(page, "DecisionRequest").pop("dry_run"), "/dry_run is gone"),
    "a word of a request": (
        lambda page: _fields(page, "SelfExcluded")["scope"]["enum"].remove("brand"),
        "the word 'brand' is gone",
    ),
    "what a request need not say": (
        lambda page: page["components"]["schemas"]["DecisionRequest"]["required"].append("brand"),
        "/brand: newly required",
    ),
    "room of a request": (
        lambda page: _fields(page, "BatchRequest")["requests"].update(maxItems=100),
        "maxItems is 100, not 500",
    ),
    "an event": (
        lambda page: _operation(page, "POST /v1/events")["requestBody"]["content"]["application/json"]["schema"][
            "oneOf"
        ].pop(),
        "/",
    ),
    "a parameter": (
        lambda page: _operation(page, "GET /v1/players/{player_id}")["parameters"].pop(),
        "brand in the query is gone",
    ),
}
ADDITIONS: dict[str, Callable[[Page], Any]] = {
    "a path": lambda page: page["paths"].update({"/v1/journeys": {"get": {"responses": {}}}}),
    "a field of an answer": lambda page: _fields(page, "DecisionAnswer").update(later={"type": "array"}),
    "a field of a request": lambda page: _fields(page, "DecisionRequest").update(later={"type": "boolean"}),
    "a code": lambda page: _enum(page).append("stopped"),
    "a status": lambda page: _operation(page)["responses"].update({"451": {"content": {}}}),
    "a promise that a field is there": lambda page: page["components"]["schemas"]["DecisionAnswer"]["required"].append(
        "sandbox"
    ),
    "a word of a request": lambda page: _fields(page, "SelfExcluded")["scope"]["enum"].append("product"),
}


@pytest.mark.parametrize("what", REMOVALS)
def test_to_take_something_away_is_no_addition(what: str) -> None:
    change, said = REMOVALS[what]
    later = deepcopy(current())
    change(later)
    found = removals(current(), later)
    assert found
    assert any(said in one for one in found), found


@pytest.mark.parametrize("what", ADDITIONS)
def test_to_add_something_is_one(what: str) -> None:
    later = deepcopy(current())
    ADDITIONS[what](later)
    assert later != current()
    assert removals(current(), later) == []
