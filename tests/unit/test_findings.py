"""The doctor's findings from given readings, and where each grade begins."""

from pathlib import Path

import pytest

from features.settings.environment import Unknown
from features.store.deployment import PARTITIONS, House
from features.store.server import Lock
from pipelines.doctor import findings
from pipelines.doctor.findings import Finding, ServerReading

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
HOUSE = House(format=1, partitions=256, sandbox=False, real_us=0, house_us=0, rate=1.0, secret="00")  # noqa: S106 - nobody's


def grades(found: list[Finding]) -> list[str]:
    return [one.grade for one in found]


def test_every_finding_that_is_not_well_says_what_to_do() -> None:
    server = ServerReading("s", "s", info={"redis_version": "6.2.0", "role": "slave", "aof_enabled": 0})
    found = [*findings.answer(server), *findings.durability(server), *findings.functions(server, {"f": ""})]
    found += findings.disk("/home", 0, 0, MIB)
    assert len(found) == 6
    assert all(one.grade != "ok" and one.do for one in found)


@pytest.mark.parametrize(
    ("free", "inodes", "expected"),
    [
        (500 * MIB, None, ["ok"]),
        (500 * MIB, 1_000_000, ["ok"]),
        (200 * MIB, None, ["warning"]),
        (50 * MIB, None, ["fault"]),
        (500 * MIB, 10, ["fault"]),
        (50 * MIB, 10, ["fault", "fault"]),
    ],
)
def test_a_disk_needs_room_for_the_log_once_more_and_for_new_files(
    free: int, inodes: int | None, expected: list[str]
) -> None:
    assert grades(findings.disk("/home", free, inodes, 300 * MIB)) == expected


def test_memory_is_near_its_end_from_nine_tenths_and_a_bound_of_our_own_comes_before_the_machines() -> None:
    def told(used: int, **more: int) -> list[str]:
        return grades(findings.memory(ServerReading("s", "s", info={"used_memory": used, **more})))

    assert told(89, maxmemory=100) == ["ok"]
    assert told(91, maxmemory=100) == ["warning"]
    assert told(100, maxmemory=100) == ["fault"]
    assert told(91, maxmemory=100, total_system_memory=10_000) == ["warning"]
    assert told(91, total_system_memory=100) == ["warning"]
    assert told(91) == ["ok"]


def test_a_server_elsewhere_may_sync_every_second_the_homes_own_may_not() -> None:
    told = ServerReading("s", "s", info={"aof_enabled": 1}, settings={"appendfsync": "everysec"})
    assert grades(findings.durability(told)) == ["warning"]
    assert grades(findings.durability(told._replace(embedded=True))) == ["fault"]
    assert grades(findings.durability(told._replace(settings={"appendfsync": "no"}))) == ["fault"]
    assert grades(findings.durability(told._replace(settings={}))) == ["ok"], "a service that lets nobody look"


def test_clocks_may_differ_by_two_seconds_and_are_a_fault_from_a_minute() -> None:
    def told(ahead: float) -> list[str]:
        return grades(findings.clocks([ServerReading("s", "s", ahead_seconds=ahead)], HOUSE, 10**15, 10**12))

    assert [told(ahead) for ahead in (1.9, -1.9, 2.1, -59.0, 61.0)] == [
        ["ok"],
        ["ok"],
        ["warning"],
        ["warning"],
        ["fault"],
    ]


def test_a_log_that_is_ahead_of_the_clock_by_a_flush_is_no_sign_of_a_clock_set_back() -> None:
    assert grades(findings.clocks([], HOUSE, 10**15, 10**12 + 1)) == ["ok"]
    assert grades(findings.clocks([], HOUSE, 10**15, 10**12 + 3_000)) == ["fault"]


def test_features_that_are_behind_are_told_with_their_age() -> None:
    now_us = 10**15
    current, late, never = (now_us + 1, now_us), (now_us + 1, now_us - 61_000_000), (now_us + 1, 0)
    assert grades(findings.watermarks([current] * PARTITIONS, now_us)) == ["ok"]
    assert findings.watermarks([current, late], now_us)[0].seen == "features are 61 s old"
    assert findings.watermarks([current, never], now_us)[0].seen == "features were never up to date"
    (gone,) = findings.watermarks([current, (now_us, now_us)], now_us)
    assert (gone.grade, gone.seen) == ("fault", "no worker holds 1 of 256 partitions")


def test_a_lake_that_is_behind_loses_nothing_and_is_a_warning() -> None:
    assert grades(findings.lake(10**12, 10**15)) == ["ok"]
    assert "61 s behind; the log keeps what it misses" in findings.lake(10**12 - 61_000, 10**15)[0].seen
    assert "nothing has come into the lake" in findings.lake(0, 10**15)[0].seen


def test_a_lock_that_the_child_of_a_server_holds_is_to_be_waited_for() -> None:
    (told,) = findings.lock(Lock(taken=True, pid=7, alive=False, socket="/s"), answers=False, socket="/s")
    assert (told.grade, told.do[-26:]) == ("warning", "it: look again in a minute")


def test_packages_below_their_bound_or_missing_are_faults_and_those_of_development_are_not_asked_for() -> None:
    of_extras = ['e>=1; extra == "dev"', 'f>=1; extra == "serve"', 'croupier[serve]; extra == "all"']
    found = findings.packages(
        ["a>=2", "B_c>=1", "d>=1", "python>=3.11", *of_extras], {"a": "1.9", "b-c": "1.0", "python": "3.12.1"}
    )
    assert [one.seen for one in found] == [
        "a is 1.9, asked for is >=2",
        "d is missing, asked for is >=1",
        "f is missing, asked for is >=1",
    ]


def test_a_variable_that_nothing_reads_is_told_with_the_name_that_may_be_meant() -> None:
    found = findings.variables([Unknown("CROUPIER_RULEZ", "CROUPIER_RULES"), Unknown("CROUPIER_SHINE", None)])
    assert [(one.seen, one.do) for one in found] == [
        ("nothing reads CROUPIER_RULEZ", "CROUPIER_RULES may be meant"),
        ("nothing reads CROUPIER_SHINE", "remove it"),
    ]
