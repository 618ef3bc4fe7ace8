"""Pages for people: their commands, run as printed in one house; `python tests/support/pages.py PAGE` runs one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from support.application import ready
from support.architecture import ROOT
from support.cluster import free_ports
from support.deadlines import PATIENT

from features.store.connection import connect
from features.store.deployment import FORMAT, PARTITIONS, House, real_now_us
from features.store.keys import HOUSE
from features.store.server import start_server
from models.experiments.definition import GlobalHoldout
from pipelines.experiments.releases import hold_out

MADE: Final = frozenset({"architecture.md", "rules.md", "settings.md"})
"""Pages that are made from the code and print no commands."""
FIRST: Final = ("README.md", "docs/integrate.md", "docs/decide.md")
"""Pages that come first: those after them look at what was told and decided there."""
PAGES: Final = (
    *(ROOT / name for name in FIRST),
    # A model is trained before anything is imported, on what the one that serves was trained on.
    *sorted(
        (
            page
            for page in (*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "monitoring").glob("*.md"))
            if page.name not in MADE and str(page.relative_to(ROOT)) not in FIRST
        ),
        key=lambda page: (page.name != "scientist.md", page),
    ),
)
RUN: Final = frozenset({"sh", "python"})
"""Languages of blocks that a reader runs."""
SHOWN: Final = frozenset({"json", "yaml", "text", "promql"})
"""Languages of blocks that a reader reads."""
ELSEWHERE: Final = "# not run by the tests: "
"""Begins a block that a test cannot run, and says why."""
_FENCE: Final = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SECRET: Final = 9
"""Of the house; it fixes what is drawn, so that pages may show what comes about."""
_STARTING_SECONDS: Final = 240.0
_RUNNING_SECONDS: Final = 900.0
_VARYING: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}T|p\d{3}:|\d{3}-[a-z0-9]{20}|[0-9a-f]{12}|ck_|at |in |http://|whsec_|msg_|\(.* years?\)"
)
"""Texts that depend on the moment or the machine: of those a page shows the form."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: The page's file.
        line: Of its fence in the page.
        language: Of the fence.
        text: Between the fences.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def elsewhere(self) -> str | None:
        """Why no test runs it; None if one does."""
        first, _, _ = self.text.partition("\n")
        return first.removeprefix(ELSEWHERE) if first.startswith(ELSEWHERE) else None

    @property
    def runs(self) -> bool:
        """Whether a test runs it."""
        return self.language in RUN and self.elsewhere is None

    @property
    def name(self) -> str:
        """Place of the block."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[str]:
        """Its lines that are no comment, joined where one goes on."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def blocks(page: Path) -> list[Block]:
    """Fenced blocks of a page, in order."""
    text = page.read_text("utf8")
    found = []
    for fence in _FENCE.finditer(text):
        indent, language, body = fence.groups()
        plain = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        found.append(Block(page, text.count("\n", 0, fence.start()) + 1, language, plain))
    return found


@dataclass(frozen=True)
class Printed:
    """What a block printed when it was run."""

    block: Block
    out: str
    err: str


class PageFailed(AssertionError):
    """A page that does not do what it prints."""


@dataclass(frozen=True)
class Place:
    """Where pages are run: a checkout with a house that runs.

    Attributes:
        folder: Holds links to all of the repository, and a `var` of its own.
        ports: Ports by those that pages print.
    """

    folder: Path
    ports: dict[str, int]

    def environment(self) -> dict[str, str]:
        """The environment of a reader who has just put `croupier` on the path."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("CROUPIER_") and name != "PORT"}
        binaries = ROOT / ".venv" / "bin"
        shell = {"PATH": f"{binaries}:{os.environ['PATH']}", "PORT": str(self.ports["8000"]), "COLUMNS": "120"}
        return own | PATIENT | shell | {"PYTHONWARNINGS": "ignore"}

    def here(self, text: str) -> str:
        """A text of a page with the ports of this place."""
        for printed, port in self.ports.items():
            text = text.replace(f"127.0.0.1:{printed}", f"127.0.0.1:{port}").replace(
                f"--port {printed}", f"--port {port}"
            )
        return text

    def run(self, page: Path) -> list[Printed]:
        """Run the blocks of a page in one shell; raises PageFailed at the first that fails."""
        run = [block for block in blocks(page) if block.runs]
        with tempfile.TemporaryDirectory() as kept:
            script = Path(kept) / "page.sh"
            script.write_text(
                self.here("set -euo pipefail\n" + "".join(_step(Path(kept), *one) for one in enumerate(run)))
            )
            shell = ["bash", str(script)]
            done = subprocess.run(
                shell,
                cwd=self.folder,
                env=self.environment(),
                timeout=_RUNNING_SECONDS,
                check=False,
                capture_output=True,
            )
            printed = list(_printed(Path(kept), run))
        if done.returncode or len(printed) < len(run):
            last = printed[-1] if printed else Printed(run[0], "", done.stderr.decode())
            raise PageFailed(f"{last.block.name} ended with {done.returncode}: {last.out[-2_000:]}{last.err[-3_000:]}")
        return printed


def _step(kept: Path, number: int, block: Block) -> str:
    """A block as a step of its page's shell, with what it prints in files."""
    text = block.text
    if block.language == "python":
        (kept / f"{number}.py").write_text(text)
        text = f"python {kept / f'{number}.py'}\n"
    return f"{{\n{text}}} >{kept}/{number}.out 2>{kept}/{number}.err </dev/null\n"


def _printed(kept: Path, run: Sequence[Block]) -> Iterator[Printed]:
    for number, block in enumerate(run):
        if (out := kept / f"{number}.out").exists():
            yield Printed(block, out.read_text("utf8"), (kept / f"{number}.err").read_text("utf8"))


def wrong(page: Path, printed: Sequence[Printed]) -> list[str]:
    """Where a page shows other answers than its commands gave."""
    given = {one.block: one.out for one in printed}
    found: list[str] = []
    answers: list[Any] = []
    before: Block | None = None
    for block in [*blocks(page), Block(page, 0, "sh", "")]:
        if block.language == "json" and before is not None:
            answers += documents(block.text)
        elif block.language in RUN:
            if before is not None:
                found += _compared(before, answers, documents(given[before]))
            answers, before = [], block if block in given else None
    return found


def _compared(block: Block, shown: list[Any], given: list[Any]) -> Iterator[str]:
    problems = [one for one in given if isinstance(one, dict) and {"status", "code", "detail"} <= one.keys()]
    if not shown:
        yield from (f"{block.name}: not shown: {one}" for one in problems)
    elif given and len(shown) == 2 * len(given):  # either of two, as the hour decides
        either = [list(_compared(block, half, given)) for half in (shown[: len(given)], shown[len(given) :])]
        yield from () if [] in either else either[0]
    elif len(shown) != len(given):
        yield f"{block.name}: {len(given)} answers, {len(shown)} shown: {json.dumps(given)[:3_000]}"
    else:
        for one, other in zip(shown, given, strict=True):
            yield from (f"{block.name}{said}" for said in unlike(one, other))


def documents(text: str) -> list[Any]:
    """JSON documents of a text, one after another; whatever else stands in it is passed over."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := min((i for i in (text.find(c, at) for c in "{[") if i >= 0), default=-1)) >= 0:
        try:
            one, at = decoder.raw_decode(text, at)
        except ValueError:
            at += 1
        else:
            found.append(one)
    return found


def unlike(shown: Any, given: Any, where: str = "") -> Iterator[str]:
    """Where an answer is not as a page shows it: what it leaves out may be there, what it shows must be."""
    if isinstance(shown, dict) and isinstance(given, dict):
        for key in shown:
            if key in given:
                yield from unlike(shown[key], given[key], f"{where}/{key}")
            else:
                yield f"{where}/{key}: not answered; {sorted(given)} are"
    elif isinstance(shown, list) and isinstance(given, list):
        if len(given) < len(shown):
            yield f"{where}: {len(given)} elements, not {len(shown)}"
        for one, other in zip(shown, given, strict=False):
            yield from unlike(one, other, where)
    elif isinstance(shown, int | float) and isinstance(given, int | float):
        if isinstance(shown, bool) and shown != given:
            yield f"{where}: {given!r}, not {shown!r}"
    elif type(shown) is not type(given) or not (
        shown == given
        or where.endswith("/timing_slot")  # as the hour is
        or (_VARYING.search(str(shown)) and _VARYING.search(str(given)))
    ):
        yield f"{where}: {given!r}, not {shown!r}"


def flushed(place: Place) -> None:
    """Wait until the lake has decisions."""
    until = time.monotonic() + _STARTING_SECONDS
    while not any((place.folder / "var" / "lake" / "decisions").rglob("*.parquet")):
        assert time.monotonic() < until, "no decision came to the lake"
        time.sleep(0.2)


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """A checkout with a running house, as `make up` leaves it."""
    api, screen, hooks = free_ports(3)
    here = Place(folder, {"8000": api, "8001": screen, "9000": hooks})
    for found in ROOT.iterdir():
        if found.name != "var":
            (folder / found.name).symlink_to(found)
    _furnish(folder / "var")
    (folder / "webhooks.yaml").write_text(here.here(_WEBHOOKS))
    secret = {"CROUPIER_WEBHOOKS": "webhooks.yaml", "CRM_SECRET": WEBHOOK_SECRET}
    command = [sys.executable, "-m", "pipelines", "up", "--port", str(api), "--no-screen"]
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(command, cwd=folder, env=here.environment() | secret, stdout=log, stderr=log)
        try:
            _await(up, f"http://127.0.0.1:{api}", folder / "up.log")
            yield here
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(120)


WEBHOOK_SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - the one that the pages print
_WEBHOOKS: Final = """endpoints:
  - {id: crm, url: "http://127.0.0.1:9000/hooks", secret_env: CRM_SECRET}
allow_private: [127.0.0.1/32]
"""


def _furnish(home: Path) -> None:
    """Create the house that `up` will find, with a fixed secret and the holdout of every new house."""
    home.mkdir(mode=0o700)
    server = start_server(home)
    client = connect(server.url)
    try:
        now = real_now_us(client)
        house = House(
            format=FORMAT,
            partitions=PARTITIONS,
            sandbox=True,
            real_us=now,
            house_us=now,
            rate=1.0,
            secret=f"{_SECRET:064x}",
        )
        client.set(HOUSE, msgspec.json.encode(house))
        hold_out(server.url, GlobalHoldout().share, "the house was created")
    finally:
        client.close()
        server.stop()


def _await(up: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + _STARTING_SECONDS
    while not (ready(address) and "Try:" in log.read_text("utf8")):
        assert up.poll() is None, log.read_text("utf8")
        assert time.monotonic() < until, log.read_text("utf8")
        time.sleep(0.2)


def main(names: Sequence[str]) -> None:
    """Run pages, and print what each block printed."""
    with tempfile.TemporaryDirectory() as folder, place(Path(folder)) as here:
        for page in [Path(name).resolve() for name in names] or PAGES:
            if str(page.relative_to(ROOT)) not in FIRST:
                flushed(here)
            begun = time.monotonic()
            try:
                printed = here.run(page)
            except PageFailed as failure:
                print(failure)
                continue
            for one in printed:
                print(f"--- {one.block.name}\n{one.out}", one.err[-1_000:], sep="")
            print(
                f"=== {page.name}: {len(printed)} blocks, {time.monotonic() - begun:.1f} s",
                *wrong(page, printed),
                sep="\n",
            )


if __name__ == "__main__":
    main(sys.argv[1:])
