"""Verify the log of decisions: follow the chain of every partition, recompute every decision, name the first fault.

    lake, flush by flush --> store's log --> decisions of a period --replay--> counts, faults

The chain is followed row by row; columns of the lake are made again from the record, records are held against those
that the store still has, and what the store has and nothing logs is missed. The worker may go on writing meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
import pyarrow as pa
import redis

from features.lake.anchor import read_anchor
from features.lake.files import day_of, unmoved
from features.lake.flushes import FlushReader, Part
from features.lake.records import beside, every_record
from features.moments import DAY_US, micros, moment
from features.store.deployment import PARTITIONS, order, position, real_now_us
from features.store.keys import DECISIONS, PlayerKeys, decision_key, log_key
from pipelines.audit import chain
from pipelines.audit.period import Period
from pipelines.audit.records import opening_key
from pipelines.audit.releases import Releases
from pipelines.worker.lake import SCHEMAS, Reach, decision_row, reach, standing_still
from service.decisions.differences import ERASED
from service.decisions.kept import KeptDecision, Stored, load_stored
from service.decisions.record import Record, load_record
from service.decisions.replay import replay
from service.players.facts import ERASED as REGISTER
from service.players.sealing import seals_of

_BATCH: Final = 500
_PAGE: Final = 1_000
_KEPT_US: Final = 34 * DAY_US
"""For so long the store surely has a decision: it keeps them for 35 days of the house's clock."""
_OF_THE_LOG: Final = frozenset({"known_at", "position", "chain"})
_LATER: Final = frozenset({"experiments", "global_holdout", "use", "journey", "experiments_version"})
"""Columns that the files of the first builds lack."""
_LONGEST: Final = 200
"""Letters of a fault's reason."""
_OTHERWISE: Final = "the row is not as it was written"
Entry = tuple[str, bytes, Mapping[str, Any] | None]
"""A decision as the log has it: position, record, and its row where that is in the lake."""


class Fault(msgspec.Struct, kw_only=True):
    """A fault: the partition, the stream id in it, the decision if that can be read, and what is wrong."""

    partition: int | None
    stream_id: str
    decision_id: str | None
    what: str


class Verified(msgspec.Struct, kw_only=True):
    """What a verification found.

    Attributes:
        checked: Decisions of the period.
        reproduced: Of them, those that came out exactly as they were logged.
        erased: Those of erased players; all that is not personal came out as logged.
        not_recomputable: Others of which something cannot be recomputed, by the first reason.
        differing: Those that came out otherwise.
        differences: How often each field came out otherwise.
        chain_ok: Whether the chain of every partition holds, and nothing was changed, put in or taken out.
        first_fault: The first fault in the order of the log, a differing decision included.
        faults: How many there are.
    """

    since: str
    until: str
    checked: int
    reproduced: int
    erased: int
    not_recomputable: dict[str, int]
    differing: int
    differences: dict[str, int]
    chain_ok: bool
    first_fault: Fault | None
    faults: int
    seconds: float
    decisions_per_second: float


class _Logged(NamedTuple):
    """A decision that waits to be recomputed: its number in the walk, and the fault of its row if the chain broke."""

    number: int
    place: str
    body: bytes
    record: Record
    row: Mapping[str, Any] | None
    broken: Fault | None


def verify(
    client: redis.Redis, lake: Path, home: Path | None, period: Period, say: Callable[[int], object]
) -> Verified:
    """Verify the decisions of a period.

    Args:
        client: The store.
        lake: The lake's folder.
        home: The house's home, for churn models that the store lacks.
        period: Decisions of these moments are recomputed; the chain is followed over the whole days around it.
        say: Told how many decisions were recomputed.
    """
    begun = time.perf_counter()
    findings = _Findings()
    with unmoved(lake):
        _Walk(client, lake, _Judge(client, Releases(client, home), findings, say, home), period, findings).run()
    seconds = time.perf_counter() - begun
    return findings.result(period, seconds)


class _Findings:
    """Counts and faults.

    Attributes:
        counts: Decisions by the verdict of their replay.
        differences: Fields that came out otherwise.
        number: Entries of the log that were walked over.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.differences: Counter[str] = Counter()
        self.number = 0
        self._faults: list[tuple[int, Fault]] = []
        self._chained = True

    def fault(self, place: str, decision_id: str | None, what: str, number: int | None = None) -> Fault:
        """Note a fault at a position, or of a flush; by default of the entry under way."""
        named, divided, rest = place.partition(":")
        partition, stream_id = (int(named[1:]), rest) if divided else (None, place)
        found = Fault(partition=partition, stream_id=stream_id, decision_id=decision_id, what=what[:_LONGEST])
        self._faults.append((self.number if number is None else number, found))
        return found

    def tampered(self, place: str, decision_id: str | None, what: str, number: int | None = None) -> Fault:
        """Note a fault of the log itself."""
        self._chained = False
        return self.fault(place, decision_id, what, number)

    def result(self, period: Period, seconds: float) -> Verified:
        """What was found."""
        told = {"reproduced", ERASED, "differs"}
        faults = sorted(self._faults, key=lambda one: one[0])
        return Verified(
            since=moment(period.since_us).isoformat(),
            until=moment(period.until_us).isoformat(),
            checked=self.counts.total(),
            reproduced=self.counts["reproduced"],
            erased=self.counts[ERASED],
            not_recomputable={name: n for name, n in sorted(self.counts.items()) if name not in told},
            differing=self.counts["differs"],
            differences=dict(self.differences.most_common()),
            chain_ok=self._chained,
            first_fault=faults[0][1] if faults else None,
            faults=len(faults),
            seconds=round(seconds, 3),
            decisions_per_second=round(self.counts.total() / seconds, 1),
        )


class _Walk:
    """The way over lake and log, in which every row of the chain is followed."""

    def __init__(self, client: redis.Redis, lake: Path, judge: _Judge, period: Period, findings: _Findings) -> None:
        self._client, self._lake, self._judge, self._period = client, lake, judge, period
        self._found = findings
        self._heads = defaultdict[int, chain.Head](chain.Head)
        self._reader = FlushReader()
        self._done: set[str] = set()
        self._seen: set[str] = set()
        self._broken: dict[str, tuple[Fault, str]] = {}

    def run(self) -> None:
        """Walk to the end of the log as it is when the lake is reached."""
        kept = {name.decode()[-28:] for name in self._client.scan_iter(DECISIONS, count=_PAGE)}
        self._begin()
        while self._flushed():
            pass
        with standing_still(self._lake) as reached:
            self._flushed()
            entries = list(self._log(reached))
            self._strays(reached)
        self._ends(reached)
        self._take(entries)
        self._judge.settle()
        self._missed(kept)

    def _new(self) -> list[tuple[str, Sequence[Part]]]:
        """Flushes that were not walked over yet; one that died half is none."""
        reached = reach(self._lake).flushed
        found = chain.flushes(self._lake)
        ended = {name: parts for name, parts in found.items() if parts[0].boundary <= reached}
        return [(name, parts) for name, parts in ended.items() if name not in self._done]

    def _covered(self, flush: Sequence[Part]) -> bool:
        return any(self._period.near(date.fromisoformat(day_of(part.file))) for part in flush)

    def _begin(self) -> None:
        """Take the chain of each partition up where the period begins, from the last flushes before it."""
        new = self._new()
        first = next((at for at, (_, files) in enumerate(new) if self._covered(files)), len(new))
        for name, files in reversed(new[:first]):
            self._done.add(name)
            if len(self._heads) == PARTITIONS:
                continue
            ends: dict[int, chain.Head] = {}
            with suppress(OSError, pa.ArrowException):  # what lies before the period is no matter here
                for row in chain.rows(self._reader, files, ["position", "chain"]):
                    ends[int(row["position"][1:4])] = chain.Head(row["chain"], row["position"])
            self._heads |= {partition: head for partition, head in ends.items() if partition not in self._heads}
        anchored = chain.anchored(self._lake)
        self._heads |= {partition: head for partition, head in anchored.items() if partition not in self._heads}

    def _flushed(self) -> bool:
        """Walk over the flushes that are new; whether there were any."""
        new = self._new()
        for name, files in new:
            self._done.add(name)
            if self._covered(files):
                self._take(self._rows(name, files))
            else:
                self._pass(name, files)
        return bool(new)

    def _pass(self, name: str, files: Sequence[Part]) -> None:
        """Follow the chain over a flush of other days, so that what is of the period hangs on the lake's last links."""
        try:
            for row in chain.rows(self._reader, files, ["position", "record", "chain", "decision_id"]):
                self._found.number += 1
                self._followed(row["position"], row["record"] or b"", row)
                self._seen.add(row["decision_id"])
        except (OSError, pa.ArrowException) as error:
            self._found.tampered(name, None, f"{files[0].file.name} of the lake cannot be read: {error}")

    def _rows(self, name: str, files: Sequence[Part]) -> Iterator[Entry]:
        try:
            found = list(chain.rows(self._reader, files))
        except (OSError, pa.ArrowException) as error:
            self._found.tampered(name, None, f"{files[0].file.name} of the lake cannot be read: {error}")
            return
        if any(part.ends is not None for part in files) and all(map(_is_early, found)):
            # A flush of an earlier build, whose day became one file with flushes of a later one.
            found = [{name: value for name, value in row.items() if name not in _LATER} for row in found]
        beside = self._beside(files)
        for row in found:
            yield row["position"], row["record"], row
            if beside is not None and beside.pop(row["position"], None) != row["record"]:
                what = "the file of records has another record, or none"
                self._found.tampered(row["position"], row["decision_id"], what)
        for place in beside or ():
            self._gone(None, place, "the file of records has it, and its row is gone from the table")

    def _beside(self, files: Sequence[Part]) -> dict[str, bytes] | None:
        """Records of the files beside those of a flush, by position; None where an earlier build wrote none."""
        held: dict[str, bytes] = {}
        for part in files:
            file = beside(part.file)
            if not file.exists():
                return None
            try:
                for at, stream_id, body in every_record(file, part.begins, part.to):
                    place = position(at, stream_id)
                    if held.setdefault(place, body) is not body:
                        self._found.tampered(place, None, f"{file.name} of the lake has it twice")
            except (OSError, ValueError) as error:
                self._found.tampered(file.stem, None, f"{file.name} of the lake cannot be read: {error}")
                return None
        return held

    def _log(self, reached: Reach) -> Iterator[Entry]:
        """Decisions that the store's log has and the lake has not; and what was taken out of the log by hand."""
        for partition in range(PARTITIONS):
            key, after = log_key(partition), f"({reached.flushed}-0"
            with suppress(redis.ResponseError):  # a partition without a log
                told = cast("dict[str, Any]", self._client.xinfo_stream(key))
                gone = told.get("max-deleted-entry-id", b"0-0").decode()
                if order(gone) > (reached.flushed, 0):
                    self._found.tampered(position(partition, gone), None, "an entry was taken out of the log")
            while entries := cast("list[Any]", self._client.xrange(key, after, count=_PAGE)):
                for stream_id, fields in entries:
                    if fields.get(b"k") == b"decision":
                        yield position(partition, stream_id.decode()), fields.get(b"b", b""), None
                after = f"({entries[-1][0].decode()}"

    def _strays(self, reached: Reach) -> None:
        """Name files that no flush left where they lie: they would be read as if one had."""
        until = read_anchor(self._lake).until  # what is left of days up to it is being deleted
        found = sorted(file for file in self._lake.glob("decisions/*/*") if not "" < day_of(file) <= until)
        lawful = {beside(file) for file in found if chain.is_of_a_flush(file)}
        for file in found:
            if file.name.startswith("."):
                continue  # unfinished, and passed over by everybody
            if not chain.is_of_a_flush(file) and file not in lawful:
                self._found.tampered(file.stem, None, f"{file.name} of the lake is no file of a flush")
        for name in chain.flushes(self._lake):
            beyond = int(name.rpartition("-")[2]) > reached.flushed
            if beyond and name != f"{reached.flushed}-{reached.pending}":
                self._found.tampered(name, None, "a flush lies beyond where the lake says that it reaches")

    def _ends(self, reached: Reach) -> None:
        """See that the chain ends where the lake's position says."""
        for partition in range(PARTITIONS):
            head = self._heads.get(partition, chain.Head())
            if head.link.hex() != reached.heads.get(str(partition), ""):
                place = head.place or position(partition, "0-0")
                what = "the lake ends here, and its position says elsewhere: rows after this one are gone"
                self._found.tampered(place, None, what)

    def _take(self, entries: Iterable[Entry]) -> None:
        """Follow the chain over entries, and hand on those of the period."""
        for place, body, row in entries:
            self._found.number += 1
            broken = None if row is None else self._followed(place, body, row)
            try:
                record = load_record(body)
                decision_key(record.decision_id), PlayerKeys(record.player)
            except (ValueError, TypeError, IndexError) as error:
                self._found.tampered(place, None, f"the record cannot be read: {error}")
                continue
            if record.decision_id in self._seen:
                self._found.tampered(place, record.decision_id, "the decision stands in the log twice")
            self._seen.add(record.decision_id)
            if self._period.holds(record.at_us):
                self._judge.take(_Logged(self._found.number, place, body, record, row, broken))

    def _followed(self, place: str, body: bytes, row: Mapping[str, Any]) -> Fault | None:
        broken = self._heads[int(place[1:4])].follow(place, body, row["chain"] or b"")
        if broken is None:
            return None
        if broken.place in self._broken:
            self._broken[broken.place][0].what = broken.what  # what was put in is known by the row after it
            return None
        decision_id = row["decision_id"] if broken.place == place else None
        fault = self._found.tampered(broken.place, decision_id, broken.what)
        self._broken[broken.place] = fault, broken.after
        return fault

    def _missed(self, names: set[str]) -> None:
        """Name decisions that the store has and that neither lake nor log has."""
        missing = sorted(names - self._seen)
        for begin in range(0, len(missing), _PAGE):
            page, pipe = missing[begin : begin + _PAGE], self._client.pipeline(transaction=False)
            for name in page:
                pipe.get(decision_key(name))
            for name, stored in zip(page, pipe.execute(), strict=True):
                held = None if stored is None else load_stored(stored)
                if held is not None and self._period.holds(held.kept.at_us):
                    place = position(int(name[:3]), "" if held.place is None else held.place.stream_id)
                    self._gone(name, place, "the store has the decision, and its row is gone from the log")

    def _gone(self, name: str | None, place: str, what: str) -> None:
        """Name a decision without a row, where the chain breaks for it if it does."""
        for broken, (fault, after) in self._broken.items():
            lies_there = broken[:4] == place[:4] and _order(after) < _order(place) < _order(broken)
            if lies_there and fault.what != chain.INSERTED:
                fault.stream_id, fault.decision_id, fault.what = place[5:], name, what
                return
            if fault.stream_id == place[5:] and broken[:4] == place[:4]:
                return  # it was named before
        self._found.tampered(place, name, what)


class _Judge:
    """Recomputes decisions, many at a time."""

    def __init__(
        self,
        client: redis.Redis,
        releases: Releases,
        findings: _Findings,
        say: Callable[[int], object],
        home: Path | None,
    ) -> None:
        self._client, self._releases, self._found, self._say = client, releases, findings, say
        self._seals = seals_of(releases.house, home)
        self._waiting: list[_Logged] = []
        self._recent_us = releases.house.now_us(real_now_us(client)) - _KEPT_US

    def take(self, one: _Logged) -> None:
        """Recompute a decision, now or soon."""
        self._waiting.append(one)
        if len(self._waiting) >= _BATCH:
            self.settle()

    def settle(self) -> None:
        """Recompute all that wait."""
        waiting, self._waiting = self._waiting, []
        players = list({one.record.player for one in waiting})
        pipe = self._client.pipeline(transaction=False)
        for player in players:
            pipe.get(PlayerKeys(player).seal)
            pipe.hget(PlayerKeys(player).facts, REGISTER)
        for one in waiting:
            pipe.get(decision_key(one.record.decision_id))
        held = pipe.execute()
        ends = 2 * len(players)
        told = dict(zip(players, zip(held[:ends:2], held[1:ends:2], strict=True), strict=True))
        for one, stored in zip(waiting, held[ends:], strict=True):
            self._judged(one, opening_key(one.record, *told[one.record.player], self._seals), stored)
        self._say(self._found.counts.total())

    def _judged(self, one: _Logged, seal: bytes | None, stored: bytes | None) -> None:
        record, number = one.record, one.number
        found = replay(record, seal, self._releases.made_with(record))
        self._found.counts[found.verdict] += 1
        if found.differences:
            names = list(dict.fromkeys(each.field for each in found.differences))
            self._found.differences.update(names)
            # What is sealed under a player's key opens unless a byte of it was changed.
            note = self._found.tampered if "sealed" in names else self._found.fault
            note(one.place, record.decision_id, f"comes out otherwise: {', '.join(names)}", number)
        held = None if stored is None else load_stored(stored)
        agrees = held is None or _agrees(one, held)
        if one.broken is not None and one.broken.what == chain.CHANGED and (found.differences or not agrees):
            one.broken.what = _OTHERWISE
        if not agrees:
            self._found.tampered(one.place, record.decision_id, "it is not the decision that the store has", number)
        elif what := self._strange(one, held):
            self._found.tampered(one.place, record.decision_id, what, number)

    def _strange(self, one: _Logged, held: Stored | None) -> str | None:
        """What is wrong with a decision that stands where none should, or its columns beside its record."""
        if held is None and one.row is None and one.record.at_us > self._recent_us:
            return "the store has no such decision: it was put in"
        if one.row is not None and (others := _columns(one.record, one.body, one.row, held)):
            return f"columns of the lake are not those of its record: {', '.join(others)}"
        return None


def _agrees(one: _Logged, held: Stored) -> bool:
    """Whether a logged decision is the one of which the store keeps something, at the place that it names."""
    if held.place is not None and position(held.place.partition, held.place.stream_id) != one.place:
        return False
    return held.record == one.record if held.record is not None else held.kept == KeptDecision.of(one.record)


def _order(place: str) -> tuple[int, int]:
    return order(place[5:] or "0-0")


def _columns(record: Record, body: bytes, row: Mapping[str, Any], held: Stored | None) -> list[str]:
    """Columns of a row that are not what its record says, or what the store says of when it became known."""
    made = decision_row(record, body)
    if held is not None and held.place is not None:
        made["known_at"] = held.place.known_us
    compared = [name for name in SCHEMAS["decisions"].names if name not in _OF_THE_LOG or name in made]
    absent = [name for name in compared if name not in row and name not in _LATER]
    return absent + [name for name in compared if name in row and made.get(name) != _plain(row[name])]


def _is_early(row: Mapping[str, Any]) -> bool:
    return all(row.get(name) is None for name in _LATER)


def _plain(value: Any) -> Any:  # noqa: ANN401 - a cell
    return micros(value) if hasattr(value, "astimezone") else value
