"""Time zones: hours follow the recorded zone data on any machine and environment."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from importlib import resources
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfoNotFoundError  # noqa: TID251 - the error, no zone

import pytest
import tzdata

from features import zones

ROOT = Path(__file__).parents[2]
MINUTE = timedelta(minutes=1)
PACKAGE = Path(str(resources.files("tzdata")))
OURS = ("features", "models", "service", "pipelines", "notebooks")

# What a process computes of a player in Vancouver at 2026-11-28 04:29 UTC, 21:29 on the wall by tzdata 2026f, and 20:29
# by data from before British Columbia kept its summer time all year; last what a library beside us would see.
HOURS = """
import sys, zoneinfo
from datetime import date, datetime, time, UTC
from features import aggregates, zones
from features.moments import micros, moment
from models.catalogue.offers import send_window
from service.contacts.limits import period
from service.players.facts import Facts
from service.rules.sending_hours import Timetable
from service.rules.inputs import age_of
from service.rules.types import TimeWindow
if "pinned" in sys.argv:
    zones.pin()
at = micros(datetime(2026, 11, 28, 4, 29, tzinfo=UTC))
quiet = TimeWindow.model_validate(dict(id="Q", type="time_window", reason="texts rest at night", source="this test",
    confidence="house", valid_from="2000-01-01", allow=[{"from": "08:00", "to": "21:00"}]))
zone = "America/Vancouver"
print(moment(at).astimezone(zones.zone(zone)).isoformat())
print(moment(Timetable(quiet).next(at, zone)).isoformat())
print(aggregates.local_parts(at, zone), send_window("evening", at, zone), period(at, "day", zone))
print(age_of(Facts(kyc_verified=True, birth_date=date(2008, 11, 28), time_zone=zone), at))
print("theirs", moment(at).astimezone(zoneinfo.ZoneInfo(zone)).isoformat())
"""


def process(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process of its own, over the project's sources."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=surroundings, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def hours(*arguments: str, **environment: str) -> list[str]:
    done = process(HOURS, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def altered(tmp_path: Path) -> Path:
    """A folder of zones in which Vancouver keeps the clock of Kiritimati, as an older or patched machine might."""
    (tmp_path / "America").mkdir()
    shutil.copy(PACKAGE / "zoneinfo" / "Pacific" / "Kiritimati", tmp_path / "America" / "Vancouver")
    return tmp_path


def test_hours_of_a_decision_follow_the_package_whatever_zones_the_machine_has(altered: Path) -> None:
    *expected, _ = hours(PYTHONTZPATH="")
    assert expected[0] == "2026-11-27T21:29:00-07:00"
    assert expected[1] == "2026-11-28T15:00:00+00:00"
    *ours, theirs = hours(PYTHONTZPATH=str(altered))
    assert theirs == "theirs 2026-11-28T18:29:00+14:00", "the altered zones are what a machine offers first"
    assert ours == expected


def test_a_pinned_process_reads_no_zones_of_the_machine_even_in_libraries(altered: Path) -> None:
    for offered in ("", str(altered)):
        assert hours("pinned", PYTHONTZPATH=offered)[-1] == "theirs 2026-11-27T21:29:00-07:00"


def test_the_clock_of_the_process_changes_no_hours_of_players() -> None:
    assert hours(TZ="Asia/Tokyo") == hours(TZ="America/Vancouver")


def test_a_pinned_process_forgets_zones_that_were_read_before(altered: Path) -> None:
    code = """
import zoneinfo
before = zoneinfo.ZoneInfo("America/Vancouver")
from features import zones
zones.pin()
from datetime import datetime, UTC
at = datetime(2026, 11, 28, 4, 29, tzinfo=UTC)
print(at.astimezone(before).hour, at.astimezone(zoneinfo.ZoneInfo("America/Vancouver")).hour)
"""
    assert process(code, PYTHONTZPATH=str(altered)).stdout.split() == ["18", "21"]


def test_the_version_that_decisions_record_is_that_of_the_data_which_are_read() -> None:
    assert zones.pin() == tzdata.IANA_VERSION


def test_since_1972_clocks_differ_from_utc_by_whole_minutes_and_are_set_at_whole_minutes() -> None:
    moments = range(int(datetime(1972, 1, 8, tzinfo=UTC).timestamp()), 2**31, 25 * 86_400)
    for name in sorted(zones.names()):
        zone = zones.zone(name)
        ahead = [datetime.fromtimestamp(at, zone).utcoffset() for at in moments]
        assert not any((offset or MINUTE) % MINUTE for offset in ahead), name
        changes = [span for span, (one, other) in zip(pairwise(moments), pairwise(ahead), strict=True) if one != other]
        assert not any(set_at(zone, *span) % 60 for span in changes), name


def set_at(zone: tzinfo, before: int, after: int) -> int:
    """The second at which a zone's clock is set, of two between which it is."""
    offset = datetime.fromtimestamp(before, zone).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        same = datetime.fromtimestamp(middle, zone).utcoffset() == offset
        before, after = (middle, after) if same else (before, middle)
    return after


# --- Where the package is not what was installed


def shadowed(folder: Path) -> Path:
    shutil.copytree(PACKAGE, folder / "tzdata", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "tzdata"


def started(folder: Path) -> subprocess.CompletedProcess[str]:
    return process("from pipelines.__main__ import main; main()", "rules", "page", PYTHONPATH=f"{folder}:{ROOT}")


def test_a_copy_of_the_package_with_the_same_files_serves(tmp_path: Path) -> None:
    shadowed(tmp_path)
    assert started(tmp_path).stdout.startswith("# Rules")


def test_no_process_starts_where_a_zone_is_not_the_one_installed(tmp_path: Path) -> None:
    zone = shadowed(tmp_path) / "zoneinfo" / "America" / "Vancouver"
    shutil.copy(PACKAGE / "zoneinfo" / "Pacific" / "Kiritimati", zone)
    done = started(tmp_path)
    assert done.returncode == 2
    said = "croupier: tzdata/zoneinfo/America/Vancouver of tzdata is not the file that was installed: install it anew\n"
    assert done.stderr == said


def test_no_process_starts_where_a_zone_is_missing(tmp_path: Path) -> None:
    (shadowed(tmp_path) / "zoneinfo" / "America" / "Vancouver").unlink()
    assert "America/Vancouver" in started(tmp_path).stderr


def test_no_process_starts_where_data_are_of_another_version_than_records_would_name(tmp_path: Path) -> None:
    told = shadowed(tmp_path) / "zoneinfo" / "tzdata.zi"
    told.write_text(told.read_text("utf8").replace(f"# version {tzdata.IANA_VERSION}", "# version 2025b", 1), "utf8")
    done = started(tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"croupier: tzdata says {tzdata.IANA_VERSION} and holds zones of 2025b: install it anew\n"


# --- Names


def test_every_zone_of_the_package_can_be_read_and_keeps_its_name() -> None:
    assert len(zones.names()) > 500
    assert all(str(zones.zone(name)) == name for name in zones.names())


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mars",
        "localtime",
        "posix/Europe/London",
        "right/UTC",
        "europe/london",
        "../tzdata.zi",
        "/etc/passwd",
        "a\0b",
    ],
)
def test_a_name_that_the_package_does_not_know_is_no_zone(name: str) -> None:
    assert zones.known(name) is None
    with pytest.raises(ZoneInfoNotFoundError):
        zones.zone(name)


# --- What our sources may do with zones

FOREIGN = {"zoneinfo", "dateutil", "pytz", "tzlocal"}
MOVERS = {"tz_convert", "tz_localize", "assume_timezone", "local_timestamp"}
"""Ways of pandas and pyarrow from zone to zone."""


def faults(source: str) -> Iterator[str]:
    """What a source does with zones other than UTC beside `features.zones`."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [one.name for one in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"{node.lineno}: imports {name}" for name in named if name.partition(".")[0] in FOREIGN)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (f"{node.lineno}: {part}" for part in statements(node.value))
        elif isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {part}" for part in moved(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = ast.unparse(node)
            if "duckdb.connect(" in body.replace("ibis.duckdb.connect(", "") and "SET TimeZone = 'UTC'" not in body:
                yield f"{node.lineno}: a session of DuckDB in the zone of the machine"


def statements(text: str) -> Iterator[str]:
    """SQL that leaves UTC."""
    folded = " ".join(text.lower().split()).replace('"', "'")
    for word in ("at time zone ", "timezone(", "set timezone = ", "set timezone to "):
        for rest in folded.split(word)[1:]:
            if not rest.startswith("'utc'"):
                yield f"{word}{rest[:20]}"


def moved(call: ast.Call) -> Iterator[str]:
    """A call that takes a column to another zone than UTC, or makes one there."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    zone = [*call.args[:1]] if name in MOVERS else []
    if name in {"timestamp", "DatetimeTZDtype", "Timestamp", "to_datetime", "date_range", "cast"}:
        zone += [one.value for one in call.keywords if one.arg in {"tz", "timezone"}]
    yield from (f"{name}({ast.unparse(one)})" for one in zone if ast.unparse(one) not in {"'UTC'", "UTC"})
    if name in MOVERS and not zone:
        yield f"{name}()"


def sources(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def test_zones_are_made_in_one_home_and_tables_are_computed_in_utc() -> None:
    found = {
        str(file.relative_to(ROOT)): list(faults(file.read_text("utf8")))
        for file in sources(*OURS)
        if file.name != "zones.py"
    }
    assert len(found) > 50
    assert {file: told for file, told in found.items() if told} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import zoneinfo",
        "from zoneinfo import ZoneInfo",
        "def read():\n    import dateutil.tz",
        "frame.tz_convert('Europe/Malta')",
        "frame.at.dt.tz_localize(zone)",
        "pc.assume_timezone(column, 'Europe/Malta')",
        "pc.local_timestamp(column)",
        "pa.timestamp('us', tz=zone)",
        "pd.Timestamp(1, tz='Europe/Malta')",
        "run('SELECT at AT TIME ZONE zone FROM events')",
        "run(\"SELECT timezone('Europe/Malta', at) FROM events\")",
        "run(\"SET TimeZone = 'Europe/Malta'\")",
        "def rows():\n    with duckdb.connect() as one:\n        return one.execute('select 1')",
    ],
)
def test_the_law_on_sources_notices(source: str) -> None:
    assert list(faults(source))


@pytest.mark.parametrize(
    "source",
    [
        "frame.tz_convert('UTC')",
        "pa.timestamp('us', tz='UTC')",
        "run(\"SELECT at AT TIME ZONE 'UTC' FROM events\")",
        "def rows():\n    with duckdb.connect() as one:\n        one.execute(\"SET TimeZone = 'UTC'\")",
        "ibis.duckdb.connect(threads=1)",
    ],
)
def test_the_law_on_sources_lets_utc_pass(source: str) -> None:
    assert not list(faults(source))


def test_tables_of_ibis_are_computed_in_utc_whatever_the_zone_of_the_machine() -> None:
    code = "import ibis; print(ibis.duckdb.connect().raw_sql(\"select current_setting('TimeZone')\").fetchone()[0])"
    assert process(code, TZ="America/New_York").stdout.strip() == "UTC"
