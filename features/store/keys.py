"""Key names: what stands under each, its type, who writes it, and how long it stays.

Keys of a partition carry its hash tag, `{p017}`, so that they share a hash slot and one call of the store may change
them together. A player key, `{p017}` + 30 hex digits, brings the tag along; so does the id of a decision, `017-...`,
whose first three digits are the partition. What stays "35 days" does so by the house's clock.

The store's functions (`ledger.lua`, `consume.lua`) are handed their keys, with two exceptions: see `outbox_key` and
`stops_key`. The key of a player's features is Feast's own and is made by `ReadPlan.key`.
"""

from __future__ import annotations

from functools import cache


@cache
def tag(partition: int) -> str:
    """Hash tag of a partition, `{p017}`."""
    return f"{{p{partition:03d}}}"


def partition_of(player_key: str) -> int:
    """Partition number of a player key."""
    return int(player_key[2:5])


# --- Of one player


class PlayerKeys:
    """Keys of one player, all in the slot of the player's partition.

    Attributes:
        player: The player key.
        partition: Its partition.
        features: Hash of behaviour in Feast's format, with the last stream id applied under `_applied`; written by the
            worker and by materialising, stays.
        facts: Hash of field -> register `moment rank text`; `v` counts changes, `to` is the mark of an id that was
            merged; of a player who took others in `link:ID` tells since when, `~ID|field` what was told of each, and
            `name` is the player's own id, sealed, `erased` says since when all before was erased, that stream id,
            and `quiet` until anything is told or decided of the player anew. Written by events, outcomes, the worker,
            merges and erasures; stays.
        ledger: Hash of decision id -> contact and `~type/decision` -> response; `v` counts changes. Written by
            reservations, confirms, outcomes and revocations; entries leave when no limit can need them.
        seal: String, the key of personal fields, sealed under the house key; written once, replaced when the player is
            erased.
        recent: List of the last decision ids, the latest first; written by reservations, 35 days after the last.
        log: See `log_key`.
        lease: See `lease_key`.
        budget: See `budget_key`.
        expiry: See `expiry_key`.
        stops: See `stops_key`.
    """

    def __init__(self, player: str, features: bytes = b"") -> None:
        self.player = player
        self.partition = partition = partition_of(player)
        self.features = features or f"features:{player}".encode()
        self.facts = f"facts:{player}"
        self.ledger = f"ledger:{player}"
        self.seal = f"seal:{player}"
        self.recent = f"recent:{player}"
        self.log = log_key(partition)
        self.lease = lease_key(partition)
        self.budget = budget_key(partition)
        self.expiry = expiry_key(partition)
        self.stops = stops_key(partition)

    def decision(self, decision_id: str) -> str:
        """See `decision_key`; of whatever id, in the slot of the player."""
        return f"decision:{tag(self.partition)}{decision_id}"

    def seen(self, name: str) -> str:
        """String under an event's or outcome's id: its digest and place in the log; written as it is taken, 35 days."""
        return f"seen:{self.player} {name}"

    def features_of(self, linked: str) -> bytes:
        """Key of a linked id's features: player keys are of one length, and so are keys in Feast's format."""
        return self.features.replace(self.player.encode(), linked.encode())


def decision_key(decision_id: str) -> str:
    """String, what is kept of a decision, after its place in the log; written by its reservation, 35 days."""
    return f"decision:{tag(int(decision_id[:3]))}{decision_id}"


DECISIONS = "decision:*"
"""Pattern of those keys."""
SEALS = "seal:*"
"""Pattern of the players' seals."""


def send_key(decision_id: str) -> str:
    """Hash of sending a contact: `state`, `at`, `tries`, `connector`, `id` of the provider, `why`; 35 days.

    Of contacts that the house sends only; no address and no text is in it. Written by the reservation, by workers and
    by receipts. What reserves, confirms and revokes is handed the log and makes this key of its name.
    """
    return f"send:{tag(int(decision_id[:3]))}{decision_id}"


def inbox_key(player: str) -> str:
    """Hash of decision id -> what the house shows the player, after `purpose channel`, sealed under the player's key.

    Written by workers; what is over leaves as the inbox is read, and a revocation takes back what is promotional.
    """
    return f"inbox:{player}"


def tasks_key(player: str) -> str:
    """Hash of decision id -> what agents are to do about the player, as in the inbox."""
    return f"tasks:{player}"


def household_key(household: str) -> str:
    """Hash like a ledger: contacts of all members of a household by decision and attempt; stays.

    `household` is a player key made of the household's id, so it stands in a slot of its own.
    """
    return f"household:{household}"


def address_key(address: str) -> str:
    """Set of the keys of players who told an address, those who told another since included; stays.

    `address` is a player key made of the address, so it stands in a slot of its own. Written before facts name it.
    """
    return f"shared:{address}"


# --- Of one partition


@cache
def log_key(partition: int) -> str:
    """Stream of events, outcomes, decisions, exposures and revocations: fields `k`, `t`, `z`, `b`.

    Written by every call that changes a player; trimmed when both lake and features have an entry.
    """
    return f"log:{tag(partition)}"


def partition_of_log(key: str | bytes) -> int:
    """Partition number of a log by its key."""
    return int(key[6:9])


@cache
def lease_key(partition: int) -> str:
    """Hash of the partition's consumer: `owner`, `until`, `epoch`, `cursor`, `watermark`; written by workers, stays."""
    return f"lease:{tag(partition)}"


@cache
def budget_key(partition: int) -> str:
    """Hash of `budget/day` -> what is left of the partition's share, minor units; `dry budget/day`: all is given out.

    Written by reservations and by what gives charges back; a day leaves when it is over.
    """
    return f"budget:{tag(partition)}"


@cache
def expiry_key(partition: int) -> str:
    """Sorted set of `ledger decision` by the last moment of a lease that charges budgets.

    Written by reservations; the worker takes a member out when its lease ran out.
    """
    return f"expiry:{tag(partition)}"


@cache
def stops_key(partition: int) -> str:
    """Hash of stop id -> `Stop` as JSON, and `v`, the store's clock at the last change; gone while nothing is stopped.

    Written by `croupier stop` and the worker. The calls that reserve and confirm are handed the log and make this key
    of its name, as the outbox's is made.
    """
    return f"stops:{tag(partition)}"


def sends_key(partition: int) -> str:
    """Sorted set of ids of decisions whose contacts the house has to send, by when to look at them, house microseconds.

    Written by the reservation, which makes this key of the log's name, by workers, and by what takes messages back.
    """
    return f"sends:{tag(partition)}"


def outbox_key(partition: int) -> str:
    """Stream of revocations that webhook endpoints have to be told of; an entry leaves when all were.

    Written by the call that revokes. That call is handed the log and makes this key of its name, `log` replaced by
    `outbox`: another key among its arguments would break processes of other builds that share the store.
    """
    return f"outbox:{tag(partition)}"


def outbox_state_key(partition: int) -> str:
    """Hash of `entry endpoint` -> failed attempts and when the next is due, or `done`; written by the dispatcher."""
    return f"outbox_state:{tag(partition)}"


def undelivered_key(partition: int) -> str:
    """Stream of entries that an endpoint was never told of, with the last error; by the dispatcher, the last 10,000."""
    return f"undelivered:{tag(partition)}"


def history_key(partition: int) -> str:
    """Stream of events too old to be taken at once: `p` player key, `s` the event, sealed under the player's key.

    Written by `POST /v1/events` of callers who may tell history; an entry leaves when the import has taken it in.
    """
    return f"history:{tag(partition)}"


HISTORY_LEASE = "lease:history"
"""Hash like `lease_key`, of the one worker that has history taken in."""


def probe_key(partition: int) -> str:
    """String that a process which is about to serve writes, to see whether it can; 60 seconds."""
    return f"croupier:probe:{tag(partition)}"


# --- Of the whole store

HOUSE = "croupier:house"
"""String, what is fixed when the house is created, as JSON; written once, stays."""
SEEDED = "croupier:seeded"
"""String, how many players `croupier up` filled a new house with; written once, stays."""
SEALED = "croupier:sealed"
"""String, fingerprint of the house key that every seal is made under; written by `croupier up` and `create`, stays."""
ERASURES = "croupier:erasures"
"""Hash of `player moment` -> an erasure as JSON, by pseudonym; written by erasures and by workers, stays."""
ERASURES_OPEN = "croupier:erasures:open"
"""Sorted set of names of erasures that a worker has still something to do for, by the unix second from which it looks
at them; written with the journal."""
EXPORTS = "{croupier:exports}"
"""Hash of id -> an export that was asked for, as JSON; written by who asks and by workers, gone some hours after."""
EXPORTS_WAITING = f"{EXPORTS}:waiting"
"""List of ids of exports that are still to be made, the first one first; written with the hash."""
EXPORTS_LEASE = "lease:exports"
"""Hash like `lease_key`, of the one worker that makes exports."""


SENDS = "croupier:sends"
"""Channel on which reservations say in which partition, as `017`, a message waits now; nothing is kept of it."""
SENDS_COUNTED = "croupier:sends:counted"
"""Hash of `state/connector` -> messages that came into the state, and `unproved`: attempts that never had an answer and
count as sent; written by workers every second, stays."""
TASKS = "croupier:tasks"
"""Sorted set of `player decision` by when the task was opened, house microseconds; written by workers and by the API
after the tasks themselves, gone as they are listed without one."""
CAUGHT = "croupier:caught"
"""List of messages that a house sent to itself alone, the latest first, each sealed under its player's key after
`player decision moment`; written by workers, the last 1,000."""


def export_key(export_id: str) -> str:
    """String, what was made of an export, sealed under the player's key; written by workers, an hour."""
    return f"{EXPORTS}:{export_id}"


RESTORED = "croupier:restored"
"""String, from which backup the house was restored and who let it send again, as JSON; by `croupier restore`, stays."""
STOPS = "croupier:stops"
"""Hash, the journal of stops: id -> `Stop` as JSON, `lifted ID` -> `Lifted` as JSON, `stands WHAT` -> id; stays.

Written by `croupier stop` before the partitions are, and by the worker, of a stop that reached partitions only.
"""
BACKED_UP = "croupier:backed_up"
"""String, when the newest backup was taken, unix microseconds by the store's clock; by `croupier backup`, stays."""
LEARNER_LEASE = "lease:learner"
"""Hash like `lease_key`, of the one process that learns; its `watermark` says up to when it has learnt."""
LAKE_LEASE = "lease:lake"
"""Hash like `lease_key`, of the one worker that writes the lake; its `watermark` says how far that reaches."""

LAKE_KEEPING_LEASE = "lease:lake_keeping"
"""Hash like `lease_key`, of the one worker that has whole days of the lake made one file."""


def budget_given_key(account: str) -> str:
    """String, what all partitions together have drawn of a `budget/day`, minor units; 35 days."""
    return f"croupier:budget:{account}"


# --- What serves


def pointer_key(kind: str) -> str:
    """String, the hash of the bundle of a kind (`plan`, `churn`) that serves; written by promotions, stays."""
    return f"croupier:serving:{kind}"


def bundle_key(digest: str) -> str:
    """String, a bundle by the hash of its content; written as it is kept, stays.

    Of catalogues, rules and schemas of features that served, under the hash that records name.
    """
    return f"croupier:bundle:{digest}"


SHA256_BUNDLES = f"croupier:bundle:{'[0-9a-f]' * 64}"
"""Pattern of the keys of bundles under the hash of their bytes."""
POINTERS = "croupier:serving:*"
"""Pattern of the keys of pointers."""
COLLECTING = "croupier:collecting"
"""Hash of the digest of a bundle that nothing names -> since when, and `looked`, unix microseconds of the
store's clock; written by who collects them, a field gone with its bundle or when something names that again."""
COLLECTING_LOOKED = "looked"
"""Field of that hash: when it was last looked for such bundles."""
COLLECTING_LEASE = "lease:collecting"
"""Hash like `lease_key`, of the one worker that has bundles collected."""
BUNDLES = "croupier:bundles"
"""Hash of version name -> digest: explanations of old decisions find the bundle that a record names; stays."""
LIVE = "croupier:live"
"""Set of the keys in which serving processes report what they serve; whoever reads it removes those that ended."""


def live_key(process: str) -> str:
    """String, what one serving process serves: kind -> digest as JSON; written by that process, a few seconds."""
    return f"{LIVE}:{process}"


def lock_key(name: str) -> str:
    """String, the lock of commands that must not run at once; written by the one that runs, two minutes at most."""
    return f"croupier:{name}"


CHURN_PROMOTIONS = "croupier:promotions:churn"
"""List, the journal of what served, the latest last; written by promotions and rollbacks, stays."""
CHURN_RECORDED = "croupier:promotions:churn:recorded"
"""String, how many entries of that journal MLflow has; written by `settle`, stays."""
RULES_PROMOTIONS = "croupier:promotions:rules"
"""List, the journal of rulebooks, as that of the churn model."""
EXPERIMENT_RELEASES = "croupier:promotions:experiments"
"""List, the journal of experiments, as that of the churn model."""
TEMPLATE_RELEASES = "croupier:promotions:templates"
"""List, the journal of the messages' templates, as that of the churn model."""
CATALOGUE_PROMOTIONS = "croupier:promotions:catalogue"
"""List, the journal of catalogues, as that of the churn model."""
POLICY_HISTORY = "croupier:policy:history"
"""List, changes of the policy that serves, the latest last; written by the learner and commands, the last 10,000."""
POLICY_RECORDED = "croupier:policy:history:recorded"
"""String, how many promotions and rollbacks among them MLflow has; written by `settle`, stays."""
POLICY_HELD = "croupier:policy:held"
"""String, the version that a rollback holds; while it is there no later one follows."""
POLICY_WAITING = "croupier:policy:waiting"
"""String, the newest version that was not followed meanwhile; written by the learner."""

# --- Who may ask

API_KEYS = "croupier:keys"
"""Hash of the id of an API key -> `service.access.keys.Key` as JSON, no secret but its hash; written by commands and
the API, stays when the key is revoked."""
API_KEYS_USED = "croupier:keys:used"
"""Hash of the id of an API key -> unix seconds of its last use; written by serving processes, once a minute each."""

# --- Schedules, reports, webhooks


def schedule_key(name: str) -> str:
    """String, until when moments of a schedule were looked at, unix microseconds; written by workers, stays."""
    return f"croupier:schedule:{name}"


def schedule_claim_key(name: str, at_us: int) -> str:
    """String, the process of the one worker that runs what was due at a moment; a day."""
    return f"{schedule_key(name)}:{at_us}"


REPORTS = "croupier:reports"
"""Hash of name -> `Summary` as JSON; written by `croupier report`, stays."""


def report_key(name: str) -> str:
    """Hash of a report: `html`, `csv`, `json`, `at`, `health`; written by `croupier report`, stays."""
    return f"croupier:report:{name}"


def report_history_key(name: str) -> str:
    """List of `Publication` as JSON, the latest last; written by `croupier report`, the last 500 stay."""
    return f"{report_key(name)}:history"


def report_looks_key(name: str) -> str:
    """List of `Look` as JSON, the latest last; written by the API where a report is read, the last 1,000 stay."""
    return f"{report_key(name)}:looks"


WEBHOOKS_GONE = "croupier:webhooks:gone"
"""Hash of endpoint -> the URL that answered 410: not called again until the URL changes or somebody enables it."""
