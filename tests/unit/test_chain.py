"""The chain of decisions: whatever is changed, taken out or put in breaks it, and is named at its row."""

from typing import Final

import pytest

from pipelines.audit.chain import CHANGED, INSERTED, RELINKED, Broken, Head
from pipelines.worker.lake import link

Row = tuple[str, bytes, bytes]
COUNT: Final = 6
AT: Final = range(COUNT)


def chained() -> list[Row]:
    """Rows of one partition, each with its link."""
    found: list[Row] = []
    before = b""
    for number in AT:
        record = f"record {number}".encode()
        before = link(before, record)
        found.append((f"p017:{number + 1}-0", record, before))
    return found


def broken(rows: list[Row]) -> list[Broken]:
    head = Head()
    return [one for row in rows if (one := head.follow(*row)) is not None]


def last_word(rows: list[Row]) -> dict[str, str]:
    """What is said of each row in the end: what is put in is known by the row after it."""
    return {one.place: one.what for one in broken(rows)}


def test_a_whole_chain_holds_from_its_beginning_and_from_any_link_of_it() -> None:
    rows = chained()
    assert broken(rows) == []
    for at in range(1, COUNT):
        head = Head(rows[at - 1][2], rows[at - 1][0])
        assert [head.follow(*row) for row in rows[at:]] == [None] * (COUNT - at)


@pytest.mark.parametrize("at", AT)
def test_a_byte_that_was_changed_is_named_at_its_row_and_nowhere_else(at: int) -> None:
    rows = chained()
    place, record, told = rows[at]
    rows[at] = place, record[:-1] + b"?", told
    assert last_word(rows) == {place: CHANGED}


@pytest.mark.parametrize("at", range(COUNT - 1))
def test_a_row_that_was_taken_out_is_named_at_the_row_after_it(at: int) -> None:
    rows = chained()
    del rows[at]
    (found,) = broken(rows)
    assert (found.place, found.what) == (rows[at][0], CHANGED)
    assert found.after == (rows[at - 1][0] if at else "")


@pytest.mark.parametrize("told", ["any", "that before", "its own"])
@pytest.mark.parametrize("at", range(COUNT - 1))
def test_a_row_that_was_put_in_is_named_whatever_link_it_was_given(at: int, told: str) -> None:
    rows = chained()
    before = rows[at][2]
    given = {"any": bytes(32), "that before": before, "its own": link(before, b"forged")}[told]
    rows.insert(at + 1, (f"p017:{at + 1}-5", b"forged", given))
    assert last_word(rows) == {f"p017:{at + 1}-5": INSERTED}


@pytest.mark.parametrize("at", range(COUNT - 1))
def test_a_link_that_was_changed_is_named(at: int) -> None:
    rows = chained()
    place, record, _ = rows[at]
    rows[at] = place, record, bytes(32)
    assert last_word(rows) == {place: RELINKED}


def test_rows_that_change_their_order_are_named() -> None:
    rows = chained()
    rows[2], rows[3] = rows[3], rows[2]
    assert broken(rows)[0].place == rows[2][0]
