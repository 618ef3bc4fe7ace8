"""Findings of `croupier doctor`: readings in, findings out. Pure.

A fault keeps the house from serving or breaks a promise of it; a warning may become one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from features.moments import moment
from features.settings.environment import Unknown
from features.store.deployment import PARTITIONS, House
from features.store.memory import NEARLY_FULL
from features.store.restored import Restored
from features.store.server import Lock
from pipelines.extras import EXTRAS
from service.contacts.kill_switch import StopReach

Grade = Literal["ok", "warning", "fault"]
_MIB: Final = 1 << 20
_FULL: Final = 100 * _MIB
_INODES: Final = 1_000
_OLDEST_SERVER: Final = 7
_SECOND_US: Final = 1_000_000
_CLOCK_SECONDS: Final = 2.0
_CLOCK_FAULT_SECONDS: Final = 60.0
_LAG_SECONDS: Final = 60.0
_SET_CLOCK = "set the clocks right and keep them so (chrony or ntpd); until then waits, leases and windows are wrong"


class Finding(NamedTuple):
    """One finding: check, severity, what was seen, what to do."""

    check: str
    grade: Grade
    seen: str
    do: str = ""


class ServerReading(NamedTuple):
    """Answers of one server of the store.

    Attributes:
        name: What it is called in a sentence.
        place: Where it listens, without a password.
        trouble: Why it did not answer: `absent`, `silent` or its own words; empty if it did.
        info: Its INFO.
        settings: What of its CONFIG may be read.
        libraries: Its libraries of functions, name -> code.
        ahead_seconds: By how much its clock is before this machine's.
        embedded: Whether it is the home's own.
    """

    name: str
    place: str
    trouble: str = ""
    info: Mapping[str, Any] = {}
    settings: Mapping[str, str] = {}
    libraries: Mapping[str, str] = {}
    ahead_seconds: float = 0.0
    embedded: bool = False


def or_ok(check: str, seen: str, found: Iterable[Finding]) -> list[Finding]:
    """Findings of a check, or one that says all is well."""
    return list(found) or [Finding(check, "ok", seen)]


# --- The home


def lock(found: Lock, answers: bool, socket: str) -> list[Finding]:  # noqa: FBT001 - what was seen
    """Findings on the lock of the store's files; `socket` is where this home's server would listen."""
    if found.taken and found.alive:
        return [Finding("lock", "ok", f"held for the server, process {found.pid}")]
    if found.taken:
        seen = f"held, though process {found.pid}, which is noted as the server, has ended"
        return [
            Finding("lock", "warning", seen, "a store that starts, or still writes, holds it: look again in a minute")
        ]
    if answers:
        do = "end that server and start `croupier up`: until then nothing keeps a second one off the same files"
        return [Finding("lock", "warning", "free, while a server answers: one of an earlier build, or by hand", do)]
    if found.socket and found.socket != socket:
        seen = f"noted for {found.socket}: this home was copied or moved from there"
        runs = f", whose server runs as process {found.pid}," if found.alive else ""
        do = f"end the house there{runs} before this one is started: two of them contact the same players"
        return [Finding("lock", "warning", seen, do)]
    if found.pid:
        return [
            Finding("lock", "ok", f"free; process {found.pid}, which is noted, ended without a word: nothing to mend")
        ]
    return [Finding("lock", "ok", "free")]


def disk(place: str, free: int, free_inodes: int | None, store: int) -> list[Finding]:
    """Findings on free space: bytes free, free inodes (None: no bound), size of the store in bytes."""
    found = []
    do = (
        f"free space under {place} or move it to a larger disk; the log of the store is written anew beside the old one"
    )
    if free < _FULL:
        found.append(Finding("disk", "fault", f"{place} has {_mib(free)} left", do))
    elif free < store:
        found.append(
            Finding("disk", "warning", f"{place} has {_mib(free)} left, the store's files take {_mib(store)}", do)
        )
    if free_inodes is not None and free_inodes < _INODES:
        do = f"remove small files from the disk of {place}: no new ones can be made, whatever space is left"
        found.append(Finding("disk", "fault", f"the disk of {place} takes {free_inodes} more files", do))
    return or_ok("disk", f"{place} has {_mib(free)} left, the store's files take {_mib(store)}", found)


def _mib(size: int) -> str:
    return f"{size / _MIB:,.0f} MiB"


# --- The store


def answer(server: ServerReading, process: int = 0, stopped: bool = False) -> list[Finding]:  # noqa: FBT001, FBT002 - what was seen
    """Findings on whether a server answers and accepts writes; `process` is the home's server, if known."""
    name = server.name if server.embedded else f"the store at {server.place}"
    number = f" (process {process})" if process else ""
    if server.trouble == "absent":
        do = "start the house: `croupier up`" if server.embedded else "start that server, or mend CROUPIER_STORE"
        return [Finding("store", "fault", f"nobody listens at {server.place}", do)]
    if server.trouble == "silent":
        do = f"let it go on: `kill -CONT {process}`" if stopped else "see what keeps it: its log, its disk, `top`"
        was = "was stopped" if stopped else "is busy"
        return [Finding("store", "fault", f"{name}{number} {was} and does not answer", do)]
    if server.trouble:
        denied = any(word in server.trouble.lower() for word in ("address", "auth", "password", "permission"))
        do = "mend CROUPIER_STORE: its form, user and password" if denied else "see its log"
        return [Finding("store", "fault", f"{name} refuses: {server.trouble}", do)]
    if server.info.get("loading"):
        share = f"{float(server.info.get('loading_loaded_perc', 0)):.0f} %"
        do = f"wait, about {server.info.get('loading_eta_seconds', '?')} s more: nothing is lost"
        return [Finding("store", "fault", f"{name}{number} is loading its file, {share} of it", do)]
    version = server.info.get("valkey_version") or server.info.get("redis_version", "0")
    seen = f"{server.info.get('server_name', 'redis')} {version} answers at {server.place}{number}"
    return or_ok("store", seen, _refusals(server, str(version)))


def _refusals(server: ServerReading, version: str) -> Iterable[Finding]:
    """Reasons why an answering server would refuse writes."""
    if int(version.partition(".")[0]) < _OLDEST_SERVER:
        yield Finding("store", "fault", f"{server.name} is of version {version}", "use Valkey, or Redis 7 or later")
    if server.info.get("role") == "slave":
        do = "let CROUPIER_STORE name the primary, or promote this one: `REPLICAOF NO ONE`"
        yield Finding("store", "fault", f"{server.name} is a replica and takes no writes", do)
    needed, there = int(server.settings.get("min-replicas-to-write", 0)), int(server.info.get("connected_slaves", 0))
    if there < needed:
        seen = f"{server.name} has {there} of the {needed} replicas without which it takes no writes"
        yield Finding("store", "fault", seen, "bring the replicas back, or lower min-replicas-to-write")


def durability(server: ServerReading) -> list[Finding]:
    """Findings on whether acknowledged writes survive a crash."""
    info, sync = server.info, server.settings.get("appendfsync")
    found = []
    if not info.get("aof_enabled"):
        do = "`CONFIG SET appendonly yes` at once, and in its file: a restart forgets what was acknowledged"
        found.append(Finding("durability", "fault", f"{server.name} keeps no log (appendonly no)", do))
    if sync not in {None, "always"} and (server.embedded or sync == "no"):
        seen = f"{server.name} syncs its log {'every second' if sync == 'everysec' else 'when the system likes'}"
        do = "`CONFIG SET appendfsync always`, or start the house again: a power cut loses what was acknowledged"
        found.append(Finding("durability", "fault", f"{seen} (appendfsync {sync})", do))
    elif sync == "everysec":
        do = "`CONFIG SET appendfsync always` where a power cut may lose nothing"
        found.append(Finding("durability", "warning", f"{server.name} syncs its log every second", do))
    if info.get("aof_last_write_status") == "err":
        do = "free the disk of the store, see its log; it takes writes again by itself"
        found.append(Finding("durability", "fault", f"the last write of {server.name} to its log failed", do))
    if info.get("aof_last_bgrewrite_status") == "err":
        do = "free disk and memory, see its log, then `BGREWRITEAOF`: until then the log only grows"
        found.append(Finding("durability", "warning", f"{server.name} could not write its log anew", do))
    return or_ok("durability", f"{server.name} keeps every write (appendfsync {sync or 'not told'})", found)


def memory(server: ServerReading) -> list[Finding]:
    """Findings on a server's memory and its eviction policy."""
    used, policy = int(server.info.get("used_memory", 0)), server.info.get("maxmemory_policy", "noeviction")
    bound = int(server.info.get("maxmemory", 0))
    most = bound or int(server.info.get("total_system_memory", 0))
    seen = f"{server.name} uses {_mib(used)} of {_mib(most)}"
    found = []
    if policy != "noeviction":
        do = "`CONFIG SET maxmemory-policy noeviction`, and in its file: it may drop exclusions"
        found.append(Finding("memory", "fault", f"{server.name} drops keys when it is full ({policy})", do))
    if bound and used >= bound:
        do = "raise maxmemory (`CONFIG SET maxmemory`), or give it a larger machine: it refuses writes"
        found.append(Finding("memory", "fault", seen, do))
    elif most and used > NEARLY_FULL * most:
        do = "raise maxmemory or give it a larger machine before it refuses writes"
        found.append(Finding("memory", "warning", seen, do))
    return or_ok("memory", seen, found)


def functions(server: ServerReading, ours: Mapping[str, str]) -> list[Finding]:
    """Findings on whether a server has this build's functions; `ours` is name -> code."""
    do = "run `croupier up` of this build once: it loads its own"
    missing = sorted(ours.keys() - server.libraries.keys())
    if missing:
        return [Finding("functions", "fault", f"{server.name} lacks {', '.join(missing)}", do)]
    if others := sorted(name for name, code in ours.items() if server.libraries[name] != code):
        return [Finding("functions", "warning", f"{server.name} has {', '.join(others)} of another build", do)]
    return [Finding("functions", "ok", f"{server.name} has those of this build")]


# --- The house


def restored(told: Restored | None) -> list[Finding]:
    """Findings on a restored house: that it sends nothing, or who let it."""
    if told is None:
        return []
    seen = f"restored on {told.at} by {told.by} from {told.backup}, taken {told.taken_at}"
    if told.accepted is None:
        do = "once the former house is down for good: `croupier restore --accept --reason TEXT`"
        return [Finding("restored", "warning", f"{seen}; it sends nothing", do)]
    accepted = told.accepted
    return [Finding("restored", "ok", f"{seen}; {accepted.by} let it send on {accepted.at}: {accepted.reason}")]


def stops(found: Iterable[StopReach]) -> list[Finding]:
    """Findings on what the house has stopped: it may be forgotten, or not hold everywhere."""
    told = []
    for stop, unreached in found:
        if stop.stands:
            seen = f"{stop.what} is stopped since {stop.at} by {stop.by}: {stop.reason}"
            told.append(
                Finding("stops", "warning", seen, f"to send it again: `croupier stop lift {stop.id} --reason TEXT`")
            )
        if unreached:
            grade: Grade = "fault" if stop.stands else "warning"
            seen = f"stop {stop.id} {'does not hold' if stop.stands else 'still holds'} in {len(unreached)} partitions"
            told.append(Finding("stops", grade, seen, "see that workers run: they mend it within seconds"))
    return or_ok("stops", "nothing is stopped", told)


def clocks(servers: Sequence[ServerReading], house: House, store_us: int, newest_ms: int) -> list[Finding]:
    """Findings on this machine's clock, the store's, and the newest entry of the log.

    Args:
        servers: What answered.
        house: The house.
        store_us: The store's clock, unix microseconds.
        newest_ms: Unix milliseconds of the last entry in any partition's log; 0 for none.
    """
    found = []
    for server in servers:
        if (apart := abs(server.ahead_seconds)) > _CLOCK_SECONDS:
            grade: Grade = "fault" if apart > _CLOCK_FAULT_SECONDS else "warning"
            way = "ahead of" if server.ahead_seconds > 0 else "behind"
            seen = f"the clock of {server.name} is {apart:,.0f} s {way} this machine's"
            found.append(Finding("clock", grade, seen, _SET_CLOCK))
    if store_us < house.real_us:
        seen = f"the store's clock shows {_day(store_us)}, before the house was created ({_day(house.real_us)})"
        found.append(Finding("clock", "fault", seen, _SET_CLOCK))
    behind = newest_ms / 1_000 - store_us / _SECOND_US
    if behind > _CLOCK_SECONDS:
        seen = f"the store's clock was set back: the log's last entry is {behind:,.0f} s ahead of it"
        found.append(Finding("clock", "fault", seen, _SET_CLOCK))
    return or_ok("clock", f"the store's clock is this machine's; the house shows {_day(house.now_us(store_us))}", found)


def _day(us: int) -> str:
    return moment(us).isoformat(timespec="seconds")


def watermarks(leases: Sequence[tuple[int, int]], now_us: int) -> list[Finding]:
    """Findings on the workers' leases of partitions, and the lag of features.

    Args:
        leases: Of each partition that answered, until when it is leased and its watermark, unix microseconds of the
            store's clock, 0 for never.
        now_us: The store's clock.
    """
    free = sum(until <= now_us for until, _ in leases)
    if free:
        do = "start `croupier worker` (`croupier up` does) and see its log: features and lake stand still"
        return [Finding("worker", "fault", f"no worker holds {free} of {PARTITIONS} partitions", do)]
    lag = max(((now_us - mark) / _SECOND_US for _, mark in leases), default=0.0)
    if lag > _LAG_SECONDS:
        seen = (
            "features were never up to date"
            if not min(mark for _, mark in leases)
            else f"features are {lag:,.0f} s old"
        )
        do = "see the worker's log; more workers share the partitions among them"
        return [Finding("worker", "warning", seen, do)]
    return [Finding("worker", "ok", f"all {len(leases)} partitions are held, features are {max(lag, 0):.0f} s old")]


def lake(flushed_ms: int, now_us: int) -> list[Finding]:
    """Findings on the lag of the lake: flushed stream milliseconds against the store's clock."""
    lag = now_us / _SECOND_US - flushed_ms / 1_000
    if not flushed_ms or lag > _LAG_SECONDS:
        seen = f"the lake is {lag:,.0f} s behind" if flushed_ms else "nothing has come into the lake"
        do = "see the worker's log: its disk, its rights, a node of the store that is away"
        return [Finding("lake", "warning", f"{seen}; the log keeps what it misses", do)]
    return [Finding("lake", "ok", f"{max(lag, 0):.0f} s behind")]


# --- What is installed and set


def packages(asked: Iterable[str], version: Mapping[str, str]) -> list[Finding]:
    """Findings on installed against required packages; `version` is by canonical name."""
    wanted = {one.name: one for one in map(Requirement, asked) if _is_of_house(one)}
    found = []
    for one in wanted.values():
        there = version.get(canonicalize_name(one.name))
        if there is None or not one.specifier.contains(there, prereleases=True):
            seen = f"{one.name} is {there or 'missing'}, asked for is {one.specifier}"
            found.append(
                Finding("packages", "fault", seen, "install anew: `make install`, or pip with requirements.lock")
            )
    return or_ok("packages", f"all {len(wanted)} as asked for", found)


def _is_of_house(asked: Requirement) -> bool:
    """Whether a command needs a package on this machine; those of development are not asked for."""
    if asked.name == "croupier":  # an extra that consists of others
        return False
    extras = {"", *EXTRAS.values()} - {"dev"}
    return asked.marker is None or any(asked.marker.evaluate({"extra": extra}) for extra in extras)


def variables(unknown: Iterable[Unknown]) -> list[Finding]:
    """Findings on CROUPIER variables of the environment that nothing reads."""
    return [
        Finding("settings", "warning", f"nothing reads {name}", f"{near} may be meant" if near else "remove it")
        for name, near in unknown
    ]
