"""Schemas by their hash, and recorded values by the names of features, whatever build recorded them"""

from dataclasses import replace as replaced
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from support.learning_log import BEGAN, record
from support.schema_file import FOLDER
from support.schemas import ALIKE, FEWER, POINTS, otherwise, under, without

from features.aggregates import SOURCES, empty, encode, forward
from features.kept_schemas import TODAY, LakeSchemas, Schema, SchemaError, by_name, find, lacking
from features.schema import STORED, VECTOR, Kind, schema_hash
from pipelines.learning.training_log import drawn, schema_of_readings
from service.api.answers import _features
from service.decisions.personal import Personal
from service.decisions.record import unpack_floats
from service.decisions.replay import recorded_player

FIRST, BEFORE = "9b2c9c7118b3", "26f9aaf72d00"
SCHEMAS = {**ALIKE, **FEWER}
EACH = pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
MADE = record("d", "{p001}1", BEGAN, 5, np.random.default_rng(1))
VALUES = unpack_floats(MADE.seen.features)


def readings(values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip((one.name for one in VECTOR), forward(values, BEGAN + 3_600_000_000).tolist(), strict=True))


# --- What is kept


def test_todays_schema_is_among_the_kept_files() -> None:
    file = FOLDER / f"{schema_hash()}.json"
    assert file.exists(), "the schema has changed: `make map` keeps it, beside those that there are"
    assert file.read_bytes() == TODAY.dumps()


@pytest.mark.parametrize("file", sorted(FOLDER.iterdir()), ids=lambda file: file.stem)
def test_every_kept_file_gives_its_hash_and_its_bytes_again(file: Path) -> None:
    assert Schema.loads(file.read_bytes(), file.stem).dumps() == file.read_bytes()
    assert find(file.stem).hash == file.stem


def test_every_schema_that_was_ever_committed_is_known() -> None:
    assert {FIRST, BEFORE} <= {file.stem for file in FOLDER.iterdir()}
    assert list(find(BEFORE).definitions) == [
        name for name in find(FIRST).definitions if name in find(BEFORE).definitions
    ]


@pytest.mark.parametrize("content", [b"", b"junk", b"{}", b'[{"name":"a"}]', b'[{"name":"a","when":1}]', b"[1]"])
def test_what_is_no_schema_is_refused(content: bytes) -> None:
    with pytest.raises(SchemaError, match="ffffffffffff is none"):
        Schema.loads(content, "f" * 12)


@EACH
def test_a_schema_is_read_as_it_was_kept_and_under_no_other_hash(schema: Schema) -> None:
    again = Schema.loads(schema.dumps(), schema.hash)
    assert (again.hash, again.definitions) == (schema.hash, schema.definitions)
    with pytest.raises(SchemaError, match=f"is another: its content gives {schema.hash}"):
        Schema.loads(schema.dumps(), TODAY.hash)


def test_a_schema_of_a_later_build_is_read_by_what_the_two_have_in_common() -> None:
    """A later build's features may be of kinds, and have fields, that this one does not know."""
    kept = TODAY.dumps().replace(b'"kind":"count"', b'"kind":"median","span":7')
    with pytest.raises(SchemaError) as refused:
        Schema.loads(kept, TODAY.hash)
    later = Schema.loads(kept, str(refused.value)[-12:])
    assert lacking(later) == {one.name for one in STORED if one.kind is Kind.COUNT}


def test_a_lake_tells_the_schemas_that_it_keeps(tmp_path: Path) -> None:
    schema, other = ALIKE["another order"], ALIKE["one more at the end"]
    schemas, file = LakeSchemas(tmp_path), tmp_path / "_schemas" / f"{schema.hash}.json"
    with pytest.raises(SchemaError, match=f"{schema.hash} is not kept"):
        schemas.find(schema.hash)
    file.parent.mkdir()
    file.write_bytes(other.dumps())
    with pytest.raises(SchemaError, match=f"its content gives {other.hash}"):
        schemas.find(schema.hash)
    file.write_bytes(schema.dumps())
    assert schemas.find(schema.hash).definitions == schema.definitions
    with pytest.raises(SchemaError, match="is not kept"):
        schemas.find(f"../_schemas/{schema.hash}")


# --- Values by name


@EACH
def test_recorded_values_are_found_by_name(schema: Schema) -> None:
    found = by_name(unpack_floats(under(MADE, schema).seen.features), schema)
    for feature, value, meant in zip(STORED, found, VALUES, strict=True):
        if schema.has(feature.name, TODAY):
            assert value == meant
        else:
            assert np.isnan(value)


def test_what_was_never_recorded_is_as_of_a_new_player() -> None:
    nothing = without(*(one.name for one in STORED))
    assert np.array_equal(by_name(np.array([]), nothing), encode(empty()), equal_nan=True)
    assert lacking(nothing) == {one.name for one in VECTOR}


def test_values_of_another_number_than_the_schemas_are_refused() -> None:
    with pytest.raises(
        SchemaError, match=f"^{len(VALUES) - 1} values are not the {len(STORED)} of schema {TODAY.hash}"
    ):
        by_name(VALUES[1:], TODAY)


@given(st.data())
def test_a_reading_rests_on_its_sources_alone(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SOURCES)))
    others = np.array([one.name not in SOURCES[name] for one in STORED])
    moved = np.where(others, np.random.default_rng(data.draw(st.integers(0, 99))).permutation(VALUES), VALUES)
    np.testing.assert_array_equal(readings(moved)[name], readings(VALUES)[name])
    np.testing.assert_array_equal(readings(np.where(others, np.nan, VALUES))[name], readings(VALUES)[name])


def test_what_a_record_lacks_are_the_readings_of_every_feature_that_was_not_there() -> None:
    assert lacking(TODAY) == lacking(ALIKE["another order"]) == set()
    assert lacking(without("bonus_count")) == {"bonus_count"}
    assert lacking(otherwise("bonus_count")) == {"bonus_count"}
    assert lacking(without("night_bet_sum_30d")) == {"night_bet_sum_30d", "night_share"}
    weeks = {f"{name}_{nth}" for name in ("win_week", "net_loss_week", "net_loss_final_week") for nth in (2, 3)}
    assert lacking(without("win_week_2")) == weeks, "later weeks are filled from it"
    assert "last_product" in lacking(without("last_bet_at"))


# --- Readers of records


@EACH
def test_recorded_features_are_shown_by_name_without_those_that_were_not_there(schema: Schema) -> None:
    shown, whole = _features(under(MADE, schema), schema).values, _features(MADE, TODAY).values
    assert whole is not None
    assert shown == {name: value for name, value in whole.items() if name not in lacking(schema)}
    assert _features(MADE, None).values is None


@EACH
def test_rules_see_the_recorded_player_as_they_did(schema: Schema) -> None:
    """By the features that both builds have, of the player and of those with linked ids."""
    opened = Personal(player_id="", request_id=None, context={}, facts={}, inputs=None, contacts=None, asked=None)
    linked = record("e", "{p001}2", BEGAN, 5, np.random.default_rng(2)).seen.features
    made = replace(MADE, seen=replace(MADE.seen, whole=linked))
    here = recorded_player(made, opened, TODAY).behaviour
    there = recorded_player(under(made, schema), opened, schema).behaviour
    held = np.array([one.name not in lacking(schema) for one in VECTOR])
    np.testing.assert_array_equal(there.vector[held], here.vector[held])
    np.testing.assert_array_equal(there.strictest[held], here.strictest[held])
    assert not np.array_equal(there.vector, there.strictest, equal_nan=True)
    never = forward(encode(empty()), MADE.at_us)
    direct = np.array([one.name in lacking(schema) & TODAY.definitions.keys() for one in VECTOR])
    np.testing.assert_array_equal(there.vector[direct], never[direct])


@EACH
def test_the_learner_is_taught_the_same_by_a_record_of_another_build(schema: Schema) -> None:
    assert drawn(under(MADE, schema), lambda _: schema) == drawn(MADE)


def test_records_of_a_schema_that_is_not_kept_teach_nothing_and_say_so() -> None:
    with pytest.raises(SchemaError, match=f"schema {ALIKE['another order'].hash} is not kept"):
        drawn(under(MADE, ALIKE["another order"]))


# --- Lineages


@EACH
def test_a_lineage_goes_on_while_the_definitions_of_its_readings_stand(schema: Schema) -> None:
    assert schema_of_readings(schema) == schema_of_readings() == FIRST


@pytest.mark.parametrize("name", ["deposit_sum_30d", "last_product", "last_bet_at", "bet_count_7d", "behaviour_as_of"])
def test_a_changed_definition_of_a_reading_is_a_new_lineage(name: str) -> None:
    changed = schema_of_readings(otherwise(name))
    assert changed != FIRST
    features = [replaced(one, unit="another") if one.name == name else one for one in STORED]
    assert schema_of_readings(Schema.of([POINTS, *features[::-1]])) == changed, "whatever else is stored, in any order"
