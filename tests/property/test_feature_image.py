"""The image of a player's features tells what Feast's fields tell, or nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features import image
from features.aggregates import Activity, empty, encode, update
from features.read_plan import ReadPlan
from features.schema import CHANNELS, PRODUCTS, TIMING_SLOTS

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
ROW = st.builds(
    Activity,
    type=st.sampled_from(["bet", "win", "deposit", "login", "session_started", "sent", "withdrawal_paid", "limit_set"]),
    occurred_us=st.integers(0, 2**52),
    amount_minor=st.none() | st.integers(0, 10**12),
    status=st.sampled_from([None, "approved", "declined", "raised"]),
    target=st.sampled_from(["account", "wallet"]),
    product=st.sampled_from([None, *PRODUCTS, "bridge"]),
    channel=st.sampled_from(CHANNELS),
    timing_slot=st.sampled_from([None, *TIMING_SLOTS]),
    night=st.booleans(),
    counts_us=st.none(),
)
ROWS = st.lists(ROW, min_size=1, max_size=20)


def written(plan: ReadPlan, rows: list[Activity]) -> dict[bytes, Any]:
    """A player's hash as the worker writes it."""
    values = update(empty(), rows)
    pairs = plan.encode(values, values[0])
    held: dict[bytes, Any] = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return held | {image.FIELD: image.dump(encode(values), pairs[-1], b"7-0"), image.APPLIED: b"7-0"}


def told_by_feast(plan: ReadPlan, held: dict[bytes, Any]) -> bytes:
    return encode(plan.decode([held.get(name) for name in plan.fields]).values).tobytes()


@SETTINGS
@given(ROWS)
def test_the_image_tells_bit_for_bit_what_feasts_fields_tell(plan: ReadPlan, rows: list[Activity]) -> None:
    held = written(plan, rows)
    found = image.load({name: held[name] for name in image.fields(plan)}, plan)
    assert found is not None
    assert found.tobytes() == told_by_feast(plan, held)


@SETTINGS
@given(ROWS, st.data())
def test_whatever_wrote_feasts_fields_alone_has_outdated_the_image(
    plan: ReadPlan, rows: list[Activity], data: st.DataObject
) -> None:
    held = written(plan, rows)
    other = plan.encode(empty(), data.draw(st.integers(1, 2**62)))[-1]
    view = data.draw(st.sampled_from(list(plan.views.values())))
    assert other == held[view] or image.load(held | {view: other}, plan) is None  # Feast
    assert image.load(held | {view: None}, plan) is None
    assert (
        image.load(held | {image.APPLIED: b"8-0"}, plan) is None
    )  # a worker of an earlier build, also of what was late
    assert image.load(held | {image.APPLIED: None}, plan) is None


@SETTINGS
@given(ROWS)
def test_an_image_that_is_drawn_of_feasts_fields_is_the_workers(plan: ReadPlan, rows: list[Activity]) -> None:
    held = written(plan, rows)
    before = {name: value for name, value in held.items() if name != image.FIELD}
    assert image.draw(before, plan) == held[image.FIELD]
    assert image.draw({**before, next(iter(plan.views.values())): b""}, plan) in {None, held[image.FIELD]}
    assert image.draw({name: value for name, value in before.items() if name != image.APPLIED}, plan) is None


@SETTINGS
@given(ROWS, st.data())
def test_an_image_of_another_schema_or_a_damaged_one_tells_nothing(
    plan: ReadPlan, rows: list[Activity], data: st.DataObject
) -> None:
    held = written(plan, rows)
    whole = held[image.FIELD]
    assert whole is not None
    at = data.draw(st.integers(8 * len(empty()), len(whole) - 1))
    spoilt = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    for other in (spoilt, whole[:-1], whole + b"0", whole[8:], bytes(8) + whole, b"", None):
        assert image.load(held | {image.FIELD: other}, plan) is None


@SETTINGS
@given(ROWS, st.none() | st.integers(2**53, 2**62))
def test_values_of_an_image_are_those_of_feasts_fields_or_none(
    plan: ReadPlan, rows: list[Activity], huge: int | None
) -> None:
    if huge is not None:
        rows = [*rows, rows[0]._replace(type="bet", product="casino", amount_minor=huge)]
    held = written(plan, rows)
    wanted = {name: held.get(name) for name in image.fields_of_values(plan)}
    feasts = plan.decode([held.get(name) for name in plan.fields]).values
    found = image.values(wanted, plan)
    assert found is None or (found == feasts and list(map(type, found)) == list(map(type, feasts)))
    told_in_numbers = not any(one == "bridge" or (isinstance(one, int) and abs(one) >= 2**53) for one in feasts)
    assert (found is not None) == told_in_numbers
    assert image.values(wanted | {image.FIELD: None}, plan) is None
    assert image.values(wanted, replace(plan, features=(*plan.features, plan.features[0]))) is None


@SETTINGS
@given(ROWS, ROWS)
def test_fields_that_change_make_of_a_hash_what_all_fields_make(
    plan: ReadPlan, rows: list[Activity], more: list[Activity]
) -> None:
    before = update(empty(), rows)
    after = update(before, more)
    whole, some = plan.encode(after, after[0]), plan.encode(after, after[0], before)
    held = plan.encode(before, before[0])
    pairs = [dict(zip(one[::2], one[1::2], strict=True)) for one in (held, whole, some)]
    assert pairs[0] | pairs[2] == pairs[1]
    assert plan.encode(before, before[0], before)[::2] == list(plan.views.values())


def test_no_field_of_feasts_is_named_like_the_image(plan: ReadPlan) -> None:
    assert not {image.FIELD, image.APPLIED} & set(plan.fields)
    assert not image.holds_any(dict.fromkeys(image.fields(plan)) | {image.APPLIED: b"7-0"})
    assert np.isnan(encode(empty())).all()
