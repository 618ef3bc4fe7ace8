"""Hashed forms: the first build's fields always, later fields only when set, and no class names."""

from dataclasses import dataclass, make_dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model
from support.first_build import FROZEN, frozen_catalogue, frozen_rulebook

from features.forms import Form, literal
from features.schema import STORED, Feature, hash_of
from features.settings.mlflow_file import LearnerSettings
from models.catalogue.offers import BonusTerms, Catalogue, Offer
from models.policy.learned import PolicyVersion
from pipelines.learning.attribution import RewardTerms as Worth
from pipelines.learning.training_log import lineage
from service.decisions.request import Context, DecisionRequest
from service.players.harm import HarmSettings
from service.rules.hashed import PACK
from service.rules.rulebook import Pack, Rulebook

LATER: dict[str, Any] = {"later": (int | None, None)}
RULES: dict[str, Any] = {rule.type: (pack, rule) for pack in frozen_rulebook().packs for rule in pack.rules}
REQUEST = {"player_id": "player-1", "request_id": "r1", "offers": ["welcome_bonus"], "context": {"page": "lobby"}}


def grown(model: type[BaseModel], **fields: Any) -> Any:
    """A model with one more optional field, under another name."""
    return create_model("Renamed", __base__=model, **(fields or LATER))


def content(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True)


def catalogues(later: dict[str, Any], terms: dict[str, Any]) -> str:
    """Hash of the catalogue where catalogue, offers and their terms have one more field each."""
    offer: Any = grown(Offer, terms=(grown(BonusTerms), grown(BonusTerms)()), **LATER)
    whole = content(frozen_catalogue())
    whole["offers"][0] |= later
    whole["offers"][1]["terms"] |= terms
    found: Catalogue = grown(Catalogue, offers=(tuple[offer, ...], ...), **LATER).model_validate(whole)
    return found.hash


def test_a_field_added_to_a_request_enters_only_where_it_says_something() -> None:
    before = DecisionRequest.model_validate(REQUEST).digest
    later = grown(DecisionRequest)
    assert later.model_validate(REQUEST).digest == before
    assert later.model_validate(REQUEST | {"later": 1}).digest != before


def test_a_field_added_to_the_context_of_a_request_enters_only_where_it_says_something() -> None:
    before = DecisionRequest.model_validate(REQUEST).digest
    later = grown(DecisionRequest, context=(grown(Context) | None, None))
    assert later.model_validate(REQUEST).digest == before
    assert later.model_validate(REQUEST | {"context": {"page": "lobby", "later": 1}}).digest != before


def test_how_long_a_caller_waits_is_no_part_of_a_request() -> None:
    waiting = grown(DecisionRequest, deadline_ms=(int | None, None))
    digests = {waiting.model_validate(REQUEST | {"deadline_ms": wait}).digest for wait in (None, 1, 250)}
    assert digests == {DecisionRequest.model_validate(REQUEST).digest}


def test_fields_added_to_a_catalogue_enter_only_where_they_say_something() -> None:
    before = frozen_catalogue().hash
    assert catalogues({}, {}) == catalogues({"later": None}, {"later": None}) == before
    assert len({before, catalogues({"later": 1}, {}), catalogues({}, {"later": 1}), catalogues({"later": 2}, {})}) == 4


@pytest.mark.parametrize("type_", RULES)
def test_a_field_added_to_a_type_of_rule_enters_only_where_it_says_something(type_: str) -> None:
    pack, rule = RULES[type_]
    later, open_ = grown(type(rule)), grown(Pack, rules=(tuple[Any, ...], ()))

    def hashed(**more: Any) -> str:
        rules = (later.model_validate(content(rule) | more),)
        return PACK.hash(open_.model_construct(**dict(pack) | {"rules": rules}))

    assert hashed() == PACK.hash(pack.model_copy(update={"rules": (rule,)})) != hashed(later=1)


def test_a_field_added_to_a_rulebook_enters_only_where_it_says_something() -> None:
    whole = content(frozen_rulebook())
    later = grown(Rulebook, harm=(grown(HarmSettings), ...), **LATER)
    assert later.model_validate(whole).hash == frozen_rulebook().hash
    assert later.model_validate(whole | {"later": 1}).hash != frozen_rulebook().hash
    whole["harm"]["later"] = 1
    assert later.model_validate(whole).hash != frozen_rulebook().hash


def test_a_field_added_to_the_settings_of_learning_enters_only_where_it_says_something() -> None:
    def named(settings: Any, terms: Worth) -> str:
        return lineage(settings, terms, 1, ("churn_score",), "0123456789ab", 2)

    later = msgspec.defstruct("Renamed", [("later", int | None, None)], bases=(LearnerSettings,), frozen=True)
    worth = grown(Worth)
    told = content(Worth.read())
    before = named(LearnerSettings(), Worth.read())
    assert named(later(), worth.model_validate(told)) == before
    assert named(later(later=1), Worth.read()) != before
    assert named(LearnerSettings(), worth.model_validate(told | {"later": 1})) != before


def test_a_field_added_to_a_snapshot_enters_only_where_it_says_something() -> None:
    made = msgspec.json.decode((FROZEN / "snapshot.json").read_bytes(), type=PolicyVersion)
    later = msgspec.defstruct(
        "Renamed", [("later", int | None, None)], bases=(PolicyVersion,), frozen=True, kw_only=True, dict=True
    )
    fields = {name: getattr(made, name) for name in made.__struct_fields__}
    assert later(**fields).version == made.version  # type: ignore[attr-defined]
    assert later(**fields, later=1).version != made.version  # type: ignore[attr-defined]


def test_a_field_added_to_the_features_enters_only_where_it_says_something() -> None:
    later: Any = make_dataclass("Renamed", [("later", int, 0)], bases=(Feature,), frozen=True)

    def hashed(**more: int) -> str:
        return hash_of([later(**{name: getattr(one, name) for name in Feature.__slots__}, **more) for one in STORED])

    assert hashed() == hash_of(STORED) != hashed(later=1)


class Stage(NamedTuple):
    new: float
    old: float
    older: float = 30


class Part(BaseModel):
    size: int = 1
    later: tuple[int, ...] = ()


class Kind(BaseModel):
    type: Literal["a"] = "a"
    size: int = 1
    later: int = 0


@dataclass
class Line:
    size: int
    later: str = ""


class Whole(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    renamed: int = Field(default=0, alias="name")
    one: Part | None = None
    several: tuple[Part, ...] = ()
    named: dict[str, Part] = {}
    kinds: tuple[Kind, ...] = ()
    stage: Stage = Stage(1, 2)


PART = Form("size")
WHOLE = Form(
    "name one several named kinds stage",
    one=PART,
    several=PART,
    named=PART,
    kinds={"a": Form("type size")},
    stage=Form("new old"),
)


BLANK: dict[str, Any] = {"name": 0, "one": None, "several": [], "named": {}, "kinds": [], "stage": [1, 2]}


@pytest.mark.parametrize(
    ("told", "hashed"),
    [
        ({}, {}),
        ({"renamed": 7, "one": Part()}, {"name": 7, "one": {"size": 1}}),
        ({"several": (Part(later=(1,)), Part())}, {"several": [{"size": 1, "later": [1]}, {"size": 1}]}),
        (
            {"named": {"x": Part(), "y": Part(later=(2,))}},
            {"named": {"x": {"size": 1}, "y": {"size": 1, "later": [2]}}},
        ),
        (
            {"kinds": (Kind(), Kind(later=3))},
            {"kinds": [{"type": "a", "size": 1}, {"type": "a", "size": 1, "later": 3}]},
        ),
        ({"stage": Stage(1, 2, 3)}, {"stage": [1, 2, 3]}),
    ],
)
def test_what_came_later_and_says_nothing_is_left_out_wherever_it_stands(
    told: dict[str, Any], hashed: dict[str, Any]
) -> None:
    assert msgspec.json.decode(WHOLE.json(Whole(**told))) == BLANK | hashed


def test_a_form_tells_fields_in_its_own_order() -> None:
    assert list(Form("later size").content(Line(1, "x"))) == ["later", "size"]
    assert Form("size").content(Line(1)) == {"size": 1}
    assert Form("size").content(Line(1, "x")) == {"size": 1, "later": "x"}


@pytest.mark.parametrize(
    "value",
    ["", "a", "it's", 'say "it"', 'it\'s "it"', "back\\slash", (), ("a",), ("a", None), [1, 2.5, True], {"a": ("b",)}],
)
def test_a_literal_is_told_as_the_first_build_told_it(value: object) -> None:
    assert literal(value) == repr(value)
