"""The decision bench on a small scale: whole decisions of real processes beside an echo server."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = ("--rounds", "1", "--requests", "24", "--players", "60", "--peers", "echo", "--json")
KEYS = {
    "cpu_us",
    "ratio_to_echo",
    "ratio_to_feast_serve",
    "ratio_to_off_the_shelf",
    "decisions_per_second",
    "contact_share",
    "store_cpu_us",
}


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", "bench", "decide", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def words(commandline: Path) -> str:
    try:
        return commandline.read_text("utf8", "replace")
    except OSError:  # it has ended meanwhile
        return ""


def test_a_small_bench_measures_whole_decisions_and_stops_all_it_started(tmp_path: Path) -> None:
    done = bench(*SMALL, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown.keys() >= KEYS
    assert shown["cpu_us"].keys() >= {"decision", "echo", "feast_serve", "off_the_shelf"}
    assert shown["contact_share"] == shown["mix"]["contact"] >= 0.3
    assert shown["ratio_to_echo"] > 1
    assert shown["ratio_to_feast_serve"] is None
    assert shown["store_cpu_us"] > 0
    assert shown["errors"] == {"decision": 0, "echo": 0}
    assert not list(tmp_path.glob("croupier-bench-*"))
    assert not [process for process in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path) in words(process)]


def test_an_unknown_peer_or_commit_is_one_sentence() -> None:
    for arguments in (("--peers", "ours"), ("--peers", "none", "--against", "no-such-commit")):
        done = bench(*arguments)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("croupier: there is no ")


def test_without_a_checkout_the_bench_says_where_it_works(tmp_path: Path) -> None:
    for package in ("features", "models", "service", "pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package)
    done = bench("--rounds", "1", PYTHONPATH=str(tmp_path), PYTHONSAFEPATH="1")
    assert done.returncode == 2
    assert "works from a checkout" in done.stderr
    assert len(done.stderr.splitlines()) == 1
