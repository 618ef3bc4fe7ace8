"""Mapping files of imports: what each word does to a row, and how a wrong file is refused."""

import csv
import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import jsonschema_rs  # schemathesis brings it
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from features import events
from features.events import Event
from features.exchange import Exchange
from features.words import Door
from pipelines.imports.cells import RowRefused, clock, minor, reasons
from pipelines.imports.columns import AmountColumn, Assume, EventMapping, IdColumn, Made, Rule, TimeColumn, schema
from pipelines.imports.mapping import SHIPPED, ImportRefused, MappedRows, load, row_hash
from pipelines.imports.rows import Row, Source

PLAIN: dict[str, Any] = {
    "player": "who",
    "time": "at",
    "amount": "sum",
    "id": "ref",
    "rules": [
        {"when": {"kind": "in"}, "event": "deposit", "fields": {"status": "approved", "method": "card"}},
        {"when": {"kind": ["out", "back"]}, "event": "withdrawal_paid"},
        {"when": {"kind": "seen"}, "event": "login"},
    ],
}
HEADER = ["who", "at", "sum", "ref", "kind"]
GOOD = ["p1", "2020-01-02T03:04:05Z", "12.50", "e1", "in"]


def mapping(**changes: Any) -> EventMapping:
    return EventMapping.model_validate(PLAIN | changes)


def rows(header: list[str] | None = None, **changes: Any) -> MappedRows:
    header = header or HEADER
    return MappedRows(mapping(**changes), header, range(len(header)))


def one(**cells: str) -> Event:
    return rows().event([cells.get(name, good) for name, good in zip(HEADER, GOOD, strict=True)])


def refused(**cells: str) -> str:
    with pytest.raises(ValueError) as found:  # noqa: PT011 - what it says is what is tested
        one(**cells)
    return reasons(found.value)


def written(tmp_path: Path, content: object) -> Path:
    file = tmp_path / "mapping.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), "utf8")
    return file


def source(tmp_path: Path, content: bytes, found: EventMapping | None = None) -> list[Row]:
    file = tmp_path / "rows.bin"
    file.write_bytes(content)
    with Source(file, found) as opened:
        return [row for chunk in opened.chunks(3) for row in chunk]


def test_a_row_becomes_the_event_that_its_rule_names() -> None:
    event = one()
    assert event.model_dump(exclude={"currency"}) == {
        "event_id": "e1",
        "player_id": "p1",
        "occurred_at": datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC),
        "brand": "main",
        "type": "deposit",
        "status": "approved",
        "method": "card",
        "amount_minor": 1250,
        "target": "account",
    }


def test_an_event_without_an_amount_takes_none() -> None:
    assert one(kind="seen", sum="not read").type == "login"


def test_one_of_several_values_is_enough() -> None:
    assert one(kind="back").type == one(kind="out").type == "withdrawal_paid"


def test_the_first_rule_that_holds_decides_and_values_are_compared_exactly() -> None:
    first = {"when": {"kind": "in", "ref": "e1"}, "event": "login"}
    assert rows(rules=[first, *PLAIN["rules"]]).event(GOOD).type == "login"
    for kind in ("IN", "in ", "", "LOYALTYCARDCREDITCL"):
        assert "no rule" in refused(kind=kind)


def test_a_field_fixed_by_a_rule_beats_a_column() -> None:
    assert rows(columns={"method": "ref"}).event(GOOD).method == "card"  # type: ignore[union-attr]
    rules = [{"when": {}, "event": "bet"}]
    assert rows(columns={"product": "kind"}, rules=rules).event([*GOOD[:4], "casino"]).product == "casino"  # type: ignore[union-attr]


def test_columns_become_typed_fields() -> None:
    header = [*HEADER, "value"]

    def read(field: str, event: str, text: str, **fixed: Any) -> Any:
        rules = [{"when": {}, "event": event, "fields": fixed}]
        return getattr(rows(header, columns={field: "value"}, rules=rules).event([*GOOD, text]), field)

    assert read("birth_date", "registered", "1985-02-03") == date(1985, 2, 3)
    assert read("granted", "consent_changed", "Yes", channel="email") is True
    assert read("granted", "consent_changed", "0", channel="email") is False
    assert read("tags", "support_contact", "harm; debt") == ("harm", "debt")
    assert read("until", "time_out", "2020-02-01T00:00:00Z") == datetime(2020, 2, 1, tzinfo=UTC)
    for field, event, text in (("birth_date", "registered", "3/2/85"), ("granted", "consent_changed", "maybe")):
        with pytest.raises(ValueError, match=r".+"):
            read(field, event, text, **({"channel": "email"} if field == "granted" else {}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1", 100),
        ("0.1", 10),
        ("12.5", 1250),
        ("12.50", 1250),
        ("12.5000", 1250),
        (" 7.07 ", 707),
        ("1e3", 100_000),
        ("+4.35", 435),
        (".5", 50),
        ("1.15", 115),
        ("4503599627370497.01", 450359962737049701),
    ],
)
def test_amounts_are_exact(text: str, expected: int) -> None:
    assert minor(text, 2) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("1e400", "NaN", "nan", "inf", "-inf", "1,000.50", "1.000,50", "1 000", "1_000", "$5", "5 USD", "--1", "0x10"),
        *("١٢", "1.005", "102.99999999999999", "1e-3", "9" * 40, "1e99", "-5", "-0.01", "\ud800"),
    ],
)
def test_what_is_no_amount_is_refused_with_a_reason(text: str) -> None:
    assert len(refused(sum=text)) > 10


@pytest.mark.parametrize(
    ("text", "rounding", "expected"),
    [
        ("158.82999999999998", True, 15_883),
        ("0.005", "half_up", 1),
        ("0.005", "half_even", 0),
        ("0.0199", "down", 1),
        ("7.07", True, 707),
        ("2.5e-7", True, 0),
    ],
)
def test_an_amount_is_rounded_as_the_mapping_says(text: str, rounding: bool | str, expected: int) -> None:  # noqa: FBT001
    said = {"column": "sum", "round": rounding}
    assert rows(amount=said).event([*GOOD[:2], text, *GOOD[3:]]).amount_minor == expected  # type: ignore[union-attr]


def test_an_amount_is_computed_of_columns_by_any_name() -> None:
    header = [*HEADER, "Net amount", "fee"]
    bound = rows(header, amount={"compute": "-('Net amount' + fee) / 100", "decimals": 2})
    assert bound.event([*GOOD, "-1250", "50"]).amount_minor == 1200  # type: ignore[union-attr]
    for net, reason in (("", "no plain number"), ("1e-9", "decimals"), ("nan", "no plain number")):
        with pytest.raises(RowRefused, match=reason):
            bound.event([*GOOD, net, "50"])
    with pytest.raises(RowRefused, match="no value"):
        rows(header, amount={"compute": "sum / fee"}).event([*GOOD, "1", "0"])
    with pytest.raises(ImportRefused, match="'Gross'"):
        rows(header, amount={"compute": "Gross - fee"})


def test_a_row_that_no_event_of_its_rule_is_for_is_refused() -> None:
    with pytest.raises(RowRefused, match="no event of this row"):
        rows(rules=[{"when": {}, "event": "login", "unless": {"kind": ["in", "out"]}}]).event(GOOD)


def test_every_event_of_a_row_has_its_own_time_amount_and_columns() -> None:
    header = [*HEADER, "ended", "won", "how"]
    closing = {"event": "deposit", "time": "ended", "amount": "won", "columns": {"method": "how"}}
    rule = {"when": {}, "events": [{"event": "login"}, closing | {"fields": {"status": "approved"}}]}
    bound = rows(header, id={"column": "hash", "by_kind": True}, rules=[rule])
    first, second = bound.events([*GOOD, "2020-01-02T04:00:00Z", "3", "wallet"])
    assert first.event_id.removesuffix(":login") == second.event_id.removesuffix(":deposit")
    assert second.occurred_at == datetime(2020, 1, 2, 4, tzinfo=UTC)
    assert (second.amount_minor, second.method) == (300, "wallet")  # type: ignore[union-attr]


def test_every_field_that_is_true_or_false_is_read_from_a_column() -> None:
    header = [*HEADER, "value"]
    for field, event, fixed in (
        ("listed", "register_checked", {"register_name": "gamstop"}),
        ("objects", "objection_changed", {}),
        ("vip", "vip_changed", {}),
        ("reopened", "registered", {}),
    ):
        found = rows(header, columns={field: "value"}, rules=[{"when": {}, "event": event, "fields": fixed}])
        assert getattr(found.event([*GOOD, "yes"]), field) is True


def test_an_empty_amount_is_missed_where_the_event_needs_one() -> None:
    assert refused(sum="") == "amount_minor: Field required"


@given(st.integers(0, 10**12), st.integers(0, 8))
def test_minor_units_survive_the_way_through_text(units: int, decimals: int) -> None:
    digits = str(units).rjust(decimals + 1, "0")
    text = f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
    assert minor(text, decimals) == units


@given(st.text(max_size=30))
def test_any_text_is_an_amount_or_refused(text: str) -> None:
    try:
        assert isinstance(minor(text, 2), int)
    except RowRefused:
        return


@given(st.text(max_size=30), st.sampled_from(["iso", "seconds", "milliseconds", "%d/%m/%Y %H:%M"]))
def test_any_text_is_a_time_or_refused(text: str, form: str) -> None:
    try:
        assert clock(form, "Europe/Malta")(text).tzinfo
    except RowRefused:
        return


@pytest.mark.parametrize(
    ("form", "zone", "text", "expected"),
    [
        ("iso", None, "2019-12-01T09:29:45+0000", "2019-12-01T09:29:45+00:00"),
        ("iso", None, "2019-12-01 09:29:45.123456Z", "2019-12-01T09:29:45.123456+00:00"),
        ("iso", "Europe/Malta", "2019-12-01T09:29:45+00:00", "2019-12-01T09:29:45+00:00"),
        ("iso", "Europe/Malta", "2019-12-01T09:29:45", "2019-12-01T08:29:45+00:00"),
        ("iso", "Europe/Malta", "2019-07-01", "2019-06-30T22:00:00+00:00"),
        ("iso", "Europe/Malta", "2019-10-27T02:30:00", "2019-10-27T00:30:00+00:00"),  # happens twice: the first
        ("seconds", None, "1583107200", "2020-03-02T00:00:00+00:00"),
        ("seconds", None, "1583107200.000001", "2020-03-02T00:00:00.000001+00:00"),
        ("milliseconds", None, "1583107200123", "2020-03-02T00:00:00.123000+00:00"),
        ("%d/%m/%Y %H:%M", "America/Toronto", "02/03/2020 10:05", "2020-03-02T15:05:00+00:00"),
        ("%d/%m/%Y %H:%M %z", None, "02/03/2020 10:05 +0200", "2020-03-02T08:05:00+00:00"),
    ],
)
def test_times_are_placed(form: str, zone: str | None, text: str, expected: str) -> None:
    assert clock(form, zone)(text) == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    ("form", "zone", "text", "reason"),
    [
        ("iso", None, "2019-12-01T09:29:45", "names no zone"),
        ("iso", None, "yesterday", "no time"),
        ("iso", None, "", "no time"),
        ("iso", None, "0001-01-01T00:00:00Z", "before 1990"),
        ("iso", "Europe/Malta", "2019-03-31T02:30:00", "does not exist"),
        ("seconds", None, "1583107200123", "no time"),
        ("milliseconds", None, "1583107200", "before 1990"),
        ("seconds", None, "NaN", "no plain number"),
        ("seconds", None, "1e90", "no time"),
        ("%d/%m/%Y", "UTC", "31/02/2020", "no time"),
    ],
)
def test_what_is_no_moment_is_refused(form: str, zone: str | None, text: str, reason: str) -> None:
    with pytest.raises(RowRefused, match=reason):
        clock(form, zone)(text)


def test_times_without_zone_throughout_are_the_mappings_fault() -> None:
    naive = [*GOOD]
    naive[1] = "2020-01-02T03:04:05"
    with pytest.raises(ImportRefused, match="zone"):
        rows().refuse_zoneless([naive, naive])
    rows().refuse_zoneless([naive, GOOD])
    rows().refuse_zoneless([["p1", "?", "", "", ""]])
    rows().refuse_zoneless([])


@pytest.mark.parametrize("player", ["", "a b", "Zoë", "{x}", "x" * 65, "\ud800"])
def test_odd_player_ids_are_refused(player: str) -> None:
    assert "player_id" in refused(who=player) or "UTF-8" in refused(who=player)


def test_the_hash_of_a_row_is_that_of_its_cells() -> None:
    assert len({row_hash(cells) for cells in (["a", "b"], ["ab", ""], ["a,b"], ["b", "a"], ["a", "b", ""], [])}) == 6
    assert len(row_hash(["x" * 1_000_000])) == 32
    found = rows(id="hash")
    assert found.event(GOOD).event_id != found.event([*GOOD[:3], "e2", "in"]).event_id


def test_the_hash_does_not_depend_on_the_order_of_columns(tmp_path: Path) -> None:
    def ids(header: str, row: str) -> list[str]:
        file = tmp_path / "rows.csv"
        file.write_text(f"{header}\n{row}\n", "utf8")
        with Source(file, mapping(id="hash")) as opened:
            bound = MappedRows(mapping(id="hash"), opened.header, opened.hashed)
            return [bound.event(row.cells).event_id for chunk in opened.chunks(9) for row in chunk]

    one_way = ids("who,at,sum,ref,kind", "p1,2020-01-02T03:04:05Z,1,e,in")
    assert one_way == ids("kind,sum,who,ref,at", "in,1,p1,e,2020-01-02T03:04:05Z")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rules": []}, "rules"),
        ({"rules": [{"when": {"kind": "in"}, "event": "depositt"}]}, "rules.0.event"),
        ({"rules": [{"when": {"kind": "in"}, "event": "deposit"}]}, "rules.0"),
        ({"rules": [{"when": {}, "event": "deposit", "fields": {"status": "ok", "method": "x"}}]}, "status"),
        ({"rules": [{"when": {}, "event": "login", "fields": {"method": "x"}}]}, "method"),
        ({"rules": [{"when": {}, "event": "login", "fields": {"player_id": "x"}}]}, "player_id"),
        ({"rules": [{"when": {"kind": True}, "event": "login"}]}, "quotes"),
        ({"rules": [{"when": {"kind": 1.5}, "event": "login"}]}, "quotes"),
        ({"rules": [{"when": {"kind": date(2020, 1, 1)}, "event": "login"}]}, "quotes"),
        ({"amount": None}, "amount_minor"),
        ({"time": {"column": "at", "format": "%d/%m/%Y"}}, "zone"),
        ({"time": {"column": "at", "format": "%H:%M", "zone": "UTC"}}, "time.format"),
        ({"time": {"column": "at", "format": "%Q", "zone": "UTC"}}, "time.format"),
        ({"time": {"column": "at", "zone": "Mars/Olympus"}}, "time.zone"),
        ({"amount": {"column": "sum", "decimals": -1}}, "amount.decimals"),
        ({"columns": {"amount_minor": "sum"}}, "columns"),
        ({"columns": {"favourite": "sum"}}, "favourite"),
        ({"colour": "red"}, "colour"),
        ({"delimiter": ";;"}, "delimiter"),
        ({"delimiter": "\n"}, "delimiter"),
        ({"quote": "''"}, "quote"),
        ({"encoding": "klingon"}, "encoding"),
        ({"encoding": "base64"}, "encoding"),
        ({"max_rejected_share": float("inf")}, "max_rejected_share"),
        ({"max_rejected_share": 1.5}, "max_rejected_share"),
        ({"amount": {"decimals": 2}}, "compute"),
        ({"amount": {"column": "sum", "compute": "sum * 2"}}, "compute"),
        ({"amount": {"compute": "sum ** 2"}}, "arithmetic"),
        ({"amount": {"compute": "__import__('os')"}}, "arithmetic"),
        ({"amount": {"compute": "sum *"}}, "arithmetic"),
        ({"amount": {"compute": "1e400 * sum"}}, "arithmetic"),
        ({"amount": {"column": "sum", "round": "up_and_away"}}, "amount.round"),
        ({"rules": [{"when": {}, "event": "login", "events": [{"event": "login"}]}]}, "rules.0"),
        ({"rules": [{"when": {}, "events": []}]}, "rules.0.events"),
        ({"rules": [{"when": {}, "events": [{"event": "login"}, {"event": "session_started"}]}]}, "by_kind"),
        (
            {
                "id": {"column": "ref", "by_kind": True},
                "rules": [{"when": {}, "events": [{"event": "login"}, {"event": "login"}]}],
            },
            "kind",
        ),
        ({"player": None}, "player"),
        ({"assume": {"jurisdiction": "Malta"}}, "assume.jurisdiction"),
        ({"assume": {"consent": ["pigeon"]}}, "assume.consent"),
    ],
)
def test_a_wrong_mapping_is_named_by_file_and_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    file = written(tmp_path, PLAIN | changes)
    with pytest.raises(ImportRefused) as found:
        load(file)
    assert str(file) in str(found.value)
    assert field in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("content", ["", "- a\n- b", "just text", "a: [", "a: b: c", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(ImportRefused, match=r"mapping\.yaml"):
        load(written(tmp_path, content))


def test_a_mapping_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for file in (tmp_path / "none.yaml", Path("no_such_name")):
        with pytest.raises(ImportRefused, match="no mapping file"):
            load(file)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ImportRefused, match="binary"):
        load(tmp_path / "binary")
    with pytest.raises(ImportRefused, match="cannot be read"):
        load(tmp_path)


def test_numbers_and_nothing_in_a_condition_are_text() -> None:
    found = mapping(rules=[{"when": {"kind": [1, None]}, "event": "login"}])
    assert found.rules[0].when == {"kind": ("1", "")}


def test_a_column_that_is_missing_or_twice_there_is_refused() -> None:
    with pytest.raises(ImportRefused, match="no columns 'ref'"):
        rows(["who", "at", "sum", "kind"])
    with pytest.raises(ImportRefused, match="2 columns 'who'"):
        rows([*HEADER, "who"])
    with pytest.raises(ImportRefused, match="who;at"):
        rows(["who;at;sum"])


def test_the_shipped_mapping_reads_the_payments_log() -> None:
    header = ["ReqTimeUTC", "TransactionType", "TransactionAmount", "Status", "AccountIdentifier"]
    bound = MappedRows(load(Path("payments_log")), header, range(5))

    def read(kind: str, status: str) -> tuple[Any, ...]:
        found = bound.event(["2019-12-01T09:29:45+0000", kind, "25.7", status, "c1"]).model_dump()
        return tuple(found.get(name) for name in ("type", "status", "method", "target", "amount_minor"))

    assert read("LOYALTYCARDDEBIT", "APPROVED") == ("deposit", "approved", "wallet", "account", 2570)
    assert read("LOYALTYCARDDEBIT", "DECLINED") == ("deposit", "declined", "wallet", "account", 2570)
    assert read("LOYALTYCARDCREDITCL", "APPROVED") == ("deposit", "approved", "card", "wallet", 2570)
    assert read("LOYALTYCARDCREDITACH", "DECLINED") == ("deposit", "declined", "ach", "wallet", 2570)
    assert read("LOYALTYCARDCREDIT", "APPROVED")[0] == "withdrawal_paid"
    assert read("LOYALTYCARDCREDIT", "DECLINED")[0] == "withdrawal_requested"
    for kind, status in (("LOYALTYCARDCREDITCL", "NA"), ("LOYALTYCARDCREDITX", "APPROVED"), ("LOYALTYCARDDEBIT", "")):
        with pytest.raises(RowRefused, match="no rule"):
            read(kind, status)


def test_what_the_shipped_mapping_assumes_are_facts_at_moment_zero() -> None:
    found = load(Path("payments_log.yaml")).assume
    assert found
    texts = {one.field: one.text for one in found.assertions()}
    assert {one.moment_us for one in found.assertions()} == {0}
    assert texts == {
        "account": "open",
        "jurisdiction": "MT",
        "time_zone": "UTC",
        "kyc": "verified",
        "birth_date": "1985-01-01",
        **{f"consent:main:{channel}": "granted" for channel in ("email", "sms", "push", "in_app", "call")},
    }


CSV = "who,at,sum,ref,kind\n" + "".join(f"p{n},2020-01-02T03:04:05Z,{n}.5,e{n},in\n" for n in range(8))


@pytest.mark.parametrize("packed", [False, True])
def test_csv_is_read_packed_or_not_whatever_its_name(tmp_path: Path, *, packed: bool) -> None:
    content = CSV.encode()
    found = source(tmp_path, gzip.compress(content) if packed else content, mapping())
    assert [row.cells[0] for row in found] == [f"p{n}" for n in range(8)]
    assert [row.number for row in found] == list(range(1, 9))


def test_gzip_of_several_members_is_read_whole(tmp_path: Path) -> None:
    half = len(CSV) // 2
    content = gzip.compress(CSV[:half].encode()) + gzip.compress(CSV[half:].encode())
    assert len(source(tmp_path, content, mapping())) == 8


def test_bom_blank_lines_and_quoted_newlines_are_no_trouble(tmp_path: Path) -> None:
    content = '\ufeff\n\nwho,at,sum,ref,kind\r\n\r\np1,t,1,"e\n1",in\r\n\n\np2,t,2,"a,""b",in'
    found = source(tmp_path, content.encode(), mapping())
    assert [list(row.cells) for row in found] == [["p1", "t", "1", "e\n1", "in"], ["p2", "t", "2", 'a,"b', "in"]]
    assert not any(row.problem for row in found)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"p1,t,1,e", "4 cells"),
        (b"p1,t,1,e,in,more", "6 cells"),
        (b'p1,t,1,"e"x,in', "no CSV"),
        (b"p1,t," + b"9" * 200_000 + b",e,in", "no CSV"),
        (b"p1," + b"t" * 3_000_000 + b",1,e,in", "million"),
        (b"p1,t,1,e,in" + b",x" * 2_000_000, "million"),
    ],
)
def test_a_broken_row_does_not_spoil_the_next(tmp_path: Path, line: bytes, reason: str) -> None:
    content = b"who,at,sum,ref,kind\n" + line + b"\np2,t,2,e2,in\n"
    broken, good = source(tmp_path, content, mapping())
    assert reason in broken.problem
    assert len("".join(broken.original)) <= 1_000
    assert (list(good.cells), good.problem, good.number) == (["p2", "t", "2", "e2", "in"], "", 2)


def test_a_quote_that_is_never_closed_costs_its_line_only(tmp_path: Path) -> None:
    content = 'who,at,sum,ref,kind\np1,t,1,e1,in\np2,t,2,"e2,in\np3,t,3,e3,in\n'
    found = source(tmp_path, content.encode(), mapping())
    assert [bool(row.problem) for row in found] == [False, True, False]
    assert [(row.line, row.lines) for row in found] == [(2, 1), (3, 1), (4, 1)]


def test_bytes_that_are_no_utf8_spoil_their_row_only(tmp_path: Path) -> None:
    first, second = source(
        tmp_path, b"who,at,sum,ref,kind\nJos\xe9,2020-01-01T00:00Z,1,e,in\np2,t,2,e2,in\n", mapping()
    )
    with pytest.raises(ValueError, match=r".+") as found:
        rows(id="hash").event(first.cells)
    assert "UTF-8" in reasons(found.value)
    assert second.cells[0] == "p2"


def test_huge_rows_come_in_small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.imports.rows._CHUNK_CHARACTERS", 100)
    file = tmp_path / "rows.csv"
    file.write_text(CSV, "utf8")
    with Source(file, mapping()) as opened:
        assert [len(chunk) for chunk in opened.chunks(1_000)] == [3, 3, 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"PAR1\x00\x00\x15\x04", "neither CSV"),
        ("who,at\n".encode("utf-16-le"), "neither CSV"),
        (gzip.compress(CSV.encode())[:-20], "truncated"),
        (gzip.compress(CSV.encode())[:-1], "truncated"),
        (gzip.compress(CSV.encode())[:40] + b"xxxx" + gzip.compress(CSV.encode())[44:], "damaged"),
        (b"\x1f\x8bxx", "damaged|truncated"),
        (b'"who"x,at\n', "no CSV"),
    ],
)
def test_a_file_that_cannot_be_taken_is_refused_at_once(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ImportRefused, match=reason):
        source(tmp_path, content, mapping())


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="no file"):
        Source(tmp_path / "none.csv", mapping())
    with pytest.raises(ImportRefused, match="no regular file"):
        Source(tmp_path, mapping())


def test_csv_without_a_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="--mapping"):
        source(tmp_path, CSV.encode())


def test_a_header_alone_is_a_file_without_rows(tmp_path: Path) -> None:
    assert source(tmp_path, b"who,at,sum,ref,kind\n", mapping()) == []


def objects(*found: Any) -> bytes:
    return "\n\n".join(one if isinstance(one, str) else json.dumps(one) for one in found).encode()


def test_objects_are_rows_and_their_numbers_stay_exact(tmp_path: Path) -> None:
    text = '{"who": "p1", "at": 1583107200, "sum": 0.10, "ref": 7, "kind": "in", "more": {"a": [1, null]}}'
    (found,) = source(tmp_path, text.encode(), mapping())
    assert list(found.cells[:-1]) == ["p1", "1583107200", "0.10", "7", "in"]
    assert list(found.original) == [text]


def test_an_object_is_the_same_in_any_spelling(tmp_path: Path) -> None:
    a, b = source(
        tmp_path,
        b'{"who":"p1","at":"t","sum":1,"ref":null,"kind":"in"}\n'
        b'{ "kind":"in", "at":"t","ref":null, "sum":1, "who":"p1" }',
        mapping(),
    )
    assert a.cells == b.cells


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"who": "p1", "who": "p2"}', "twice"),
        ("[" * 100_000, "no JSON"),
        ('{"who": ["p1"]}', "'who' holds a list"),
        ('{"sum": {"a": 1}}', "'sum' holds a list"),
    ],
)
def test_a_broken_object_does_not_spoil_the_next(tmp_path: Path, line: str, reason: str) -> None:
    good = dict(zip(HEADER, GOOD, strict=True))
    first, broken, last = source(tmp_path, objects(good, line, good), mapping())
    assert reason in broken.problem
    assert not first.problem + last.problem


def test_a_column_that_no_object_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="'sum'"):
        source(tmp_path, objects({"who": "p1", "at": "t", "ref": 1, "kind": "in"}), mapping())


def test_missing_keys_and_truth_values_are_cells(tmp_path: Path) -> None:
    whole = dict(zip(HEADER, GOOD, strict=True))
    found = source(tmp_path, objects(whole, {"who": "p2", "kind": True, "sum": False}), mapping())
    assert list(found[1].cells[:-1]) == ["p2", "", "false", "", "true"]


def test_amounts_and_times_have_short_forms() -> None:
    assert mapping().amount == AmountColumn(column="sum", decimals=2)
    assert mapping().time == TimeColumn(column="at")


def test_rejected_rows_keep_the_order_of_their_columns(tmp_path: Path) -> None:
    content = b"who,at,sum,ref,kind,extra\np1,t,1,e1,?,x\n"
    file = tmp_path / "rows.csv"
    file.write_bytes(content)
    with Source(file, mapping()) as opened:
        assert opened.original == next(csv.reader(["who,at,sum,ref,kind,extra"]))


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-8-sig", None), ("utf-16", None), ("utf-16-be", "utf-16-be"), ("latin-1", "latin-1"), ("cp1252", "cp1252")],
)
@pytest.mark.parametrize("packed", [False, True])
def test_text_is_read_in_its_encoding(tmp_path: Path, encoding: str, named: str | None, *, packed: bool) -> None:
    content = "who,at,sum,ref,kind\r\nZoë,t,1,é,in\r\n".encode(encoding)
    (row,) = source(tmp_path, gzip.compress(content) if packed else content, mapping(encoding=named))
    assert list(row.cells) == ["Zoë", "t", "1", "é", "in"]
    assert not row.problem


def test_what_is_no_text_in_the_encoding_of_the_file_spoils_its_row_only(tmp_path: Path) -> None:
    content = "who,at,sum,ref,kind\np1,t,1,e,in\np2,t,1,e,in\n".encode("utf-16")
    first, second = source(tmp_path, content[:-3], mapping())
    assert (first.problem, second.problem) == ("", "the row is no text in the encoding of the file")


def test_blanks_and_tabs_separate_and_quotes_keep_them(tmp_path: Path) -> None:
    content = b"who at \t sum ref kind \n  p1 'a  b' 1 'it''s' in\n\np2 'open t 2 e in\np3 t 3 a'b in\np4 t 4\n"
    found = source(tmp_path, content, mapping(delimiter="whitespace", quote="'"))
    assert [list(row.cells) for row in found[::2]] == [["p1", "a  b", "1", "it's", "in"], ["p3", "t", "3", "a'b", "in"]]
    assert [bool(row.problem) for row in found] == [False, True, False, True]


def test_where_cells_have_no_quotes_a_quote_is_text(tmp_path: Path) -> None:
    (row,) = source(tmp_path, b'who,at,sum,ref,kind\np1,t,1,"e,in\n', mapping(quote=None))
    assert list(row.cells) == ["p1", "t", "1", '"e', "in"]


def test_the_page_of_the_mapping_names_every_word_and_its_example_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "mapping.md").read_text("utf8")
    for model in (EventMapping, TimeColumn, AmountColumn, IdColumn, Made, Rule, Assume):
        assert all(f"`{name}`" in page for name in model.model_fields), model
    found = load(written(tmp_path, page.split("rounds.yaml <<'END'\n")[1].split("END\n")[0]))
    header = ["Player", "Finished", "Round", "Game", "Stake", "Multiple", "Net amount", "Method"]
    bound = MappedRows(found, header, range(len(header)))
    bet, win = bound.events(["p", "02/03/2020 10:00:00", "r1", "slots", "1.10", "2.1", "", ""])
    assert (bet.event_id, win.event_id) == ("r1:bet", "r1:win")
    assert (bet.amount_minor, win.amount_minor) == (110, 231)  # type: ignore[union-attr]
    (deposit,) = bound.events(["p", "02/03/2020 10:00:00", "r2", "cashier", "", "", "-2000", "card"])
    assert (deposit.amount_minor, deposit.method) == (2_000, "card")  # type: ignore[union-attr]


def test_the_json_schema_takes_what_the_mapping_takes() -> None:
    check = jsonschema_rs.validator_for(schema())
    page = (Path(__file__).parents[2] / "docs" / "mapping.md").read_text("utf8")
    shipped = (SHIPPED / "payments_log.yaml").read_text("utf8")
    for text in (page.split("rounds.yaml <<'END'\n")[1].split("END\n")[0], shipped, yaml.safe_dump(PLAIN)):
        assert check.is_valid(json.loads(json.dumps(yaml.safe_load(text), default=str)))
    faults: list[dict[str, Any]] = [
        {"colour": "red"},
        {"rules": []},
        {"rules": [{"when": {}}]},
        {"amount": {"decimals": -1}},
    ]
    for wrong in faults:
        assert not check.is_valid(PLAIN | wrong)


LATER: list[tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = [
    (
        {"event": "bet_cancelled", "columns": {"bet_id": "a", "placed_at": "b", "product": "c"}},
        {"a": "b-1", "b": "2020-01-01 10:00:00", "c": "Sports"},
        {"bet_id": "b-1", "placed_at": datetime(2020, 1, 1, 9, tzinfo=UTC), "product": "sports", "amount_minor": 1250},
    ),
    (
        {"event": "bet_settled", "columns": {"bet_id": "a"}, "fields": {"product": "sports"}},
        {"a": "b-1"},
        {"bet_id": "b-1", "amount_minor": 1250},
    ),
    ({"event": "chargeback", "columns": {"deposit_id": "a", "method": "b"}}, {"a": "d", "b": "Überweisung?"}, {}),
    ({"event": "kyc_requested", "columns": {"asked": "a"}}, {"a": "identity; Funds"}, {"asked": ("identity", "funds")}),
    (
        {"event": "satisfaction_rated", "columns": {"score": "a", "scale": "b"}},
        {"a": "9", "b": "0-10"},
        {"score": 9, "mood": "high"},
    ),
    ({"event": "support_contact", "columns": {"solved": "a", "by": "b"}}, {"a": "no", "b": "Bot"}, {"solved": False}),
    ({"event": "login", "columns": {"result": "a"}}, {"a": "failed"}, {"result": "failed"}),
    ({"event": "limit_reached", "columns": {"limit": "a"}}, {"a": "loss"}, {"limit": "loss"}),
]
"""An event of a rule, cells of a row, and what the event must have."""


@pytest.mark.parametrize(("made", "cells", "wanted"), LATER, ids=lambda one: one.get("event", "") or None)
def test_a_row_becomes_an_event_of_any_type(
    made: dict[str, Any], cells: dict[str, str], wanted: dict[str, Any]
) -> None:
    found = EventMapping.model_validate(
        {
            "player": "player",
            "time": {"column": "at", "format": "%Y-%m-%d %H:%M:%S", "zone": "Europe/Malta"},
            "amount": "sum",
            "rules": [{"when": {}, **made}],
        }
    )
    row = {"player": "p", "at": "2020-01-02 03:04:05", "sum": "12.50", **cells}
    (event,) = MappedRows(found, list(row), range(len(row))).events(list(row.values()))
    assert {name: getattr(event, name) for name in wanted} == wanted


@pytest.mark.parametrize(("currency", "house"), [("SEK", 125), ("EUR", 1250), ("", 1250), ("USD", None)])
def test_a_column_may_say_the_currency_of_each_row(currency: str, house: int | None) -> None:
    found = EventMapping.model_validate(
        {
            "player": "player",
            "time": "at",
            "amount": "sum",
            "columns": {"currency": "in"},
            "rules": [{"when": {}, "event": "bet", "fields": {"product": "casino"}}],
        }
    )
    row = {"player": "p", "at": "2020-01-02T03:04:05Z", "sum": "12.50", "in": currency}
    door = Door(exchange=Exchange("EUR", {"SEK": 0.1}))
    reader = MappedRows(found, list(row), range(len(row)), door)
    if house is None:
        with pytest.raises(ValueError, match="known are EUR, SEK"):
            reader.events(list(row.values()))
    else:
        assert events.row(reader.events(list(row.values()))[0])["amount_minor"] == house
