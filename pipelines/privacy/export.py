"""All that is held of one player, as JSON that a person can read: from the store, its log and the lake, unsealed.

    id --links--> ids --store--> facts, features, contacts   --log, lake--> events, outcomes, decisions   --> an object

Moments are ISO 8601, UTC, by the house's clock; money is in minor units of the house's currency.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

from features.moments import moment
from features.store import erasures
from features.store.deployment import open_house, real_now_us
from features.store.keys import PlayerKeys, log_key, partition_of
from pipelines.worker.consumer import log_entry, serving_plan
from pipelines.worker.owners import owners_of
from service.contacts.entries import RESPONSE, Reservation
from service.decisions.personal import personal
from service.decisions.record import load_record
from service.players import identity, sealing
from service.players.facts import erased_us, registers
from service.players.sealing import seals_of

SCHEMA: Final = 1
"""Version of the object; fields are only ever added."""
_PAGE: Final = 1_000
_TABLES: Final = {"events": "event_id", "outcomes": "outcome_id", "decisions": "decision_id"}
_OURS: Final = frozenset({"chain", "record", "sealed"})
_MOMENTS: Final = ("occurred_at", "at", "send_at", "valid_until", "known_at")


def export(client: redis.Redis, lake: Path, home: Path, player_id: str) -> dict[str, Any]:
    """Everything that is held of a player, by any of their ids.

    Args:
        client: The store.
        lake: The lake's folder.
        home: The home, which has the house key.
        player_id: As callers name them.

    Raises:
        HouseKeyError: The house key is not here.
    """
    house = open_house(client)
    seals, asked = seals_of(house, home), house.player_key(player_id)
    owner = owners_of(client, [asked])[asked]
    known = cast("dict[bytes, bytes]", client.hgetall(PlayerKeys(owner).facts))
    ids = [*identity.others(known), owner]
    keys = {one: seals.open(one, held) for one in ids if (held := _seal(client, one)) is not None}
    tables = _told(client, lake, keys, ids)
    erased = erased_us(known)
    return {
        "schema": SCHEMA,
        "made_at": moment(house.now_us(real_now_us(client))).isoformat(),
        "asked_for": player_id,
        "money": "minor units of the house's currency",
        "pseudonym": owner,
        "linked_pseudonyms": ids[:-1],
        "erased_at": None if erased is None else moment(erased).isoformat(),
        "erasures": [_erasure(one) for one in erasures.journal(client) if owner in one.ids],
        "facts": [_fact(one.field, one.moment_us, one.text) for one in registers(known)],
        "features": {one: _features(client, one) for one in ids},
        "contacts": [one for name in ids for one in _contacts(client, name)],
        **tables,
    }


def _seal(client: redis.Redis, player: str) -> bytes | None:
    return cast("bytes | None", client.get(PlayerKeys(player).seal))


def _erasure(one: erasures.Erasure) -> dict[str, Any]:
    done = None if one.erased_us is None else moment(one.erased_us).isoformat()
    return {"asked_at": moment(one.begun_us).isoformat(), "erased_at": done, "by": one.by, "reason": one.reason}


def _fact(field: str, moment_us: int, text: str) -> dict[str, Any]:
    """A fact with its moment; of some, the moment is no time but a part of what they say."""
    linked, _, name = field.rpartition("|")
    apart = name.partition(":")[0] in {"birth_date", "opened"}
    return {
        "fact": name,
        "of_linked_id": linked.removeprefix("~") or None,
        "says": moment(int(text)).isoformat() if name == "opened" else text,
        "since": None if apart else moment(moment_us).isoformat(),
    }


def _features(client: redis.Redis, player: str) -> dict[str, Any]:
    plan = serving_plan(client)
    if plan is None:
        return {}
    held = cast("dict[bytes, bytes]", client.hgetall(plan.key(player)))  # type: ignore[arg-type]
    row = plan.decode([held.get(name) for name in plan.fields])
    return {one.name: value for one, value in zip(plan.features, row.values, strict=False) if value is not None}


def _contacts(client: redis.Redis, player: str) -> Iterator[dict[str, Any]]:
    held = cast("dict[bytes, bytes]", client.hgetall(PlayerKeys(player).ledger))
    for raw, text in sorted(held.items()):
        name = raw.decode()
        if name == "v":
            continue
        if name.startswith(RESPONSE):
            yield {"response": name.removeprefix(RESPONSE), "text": text.decode()}
            continue
        one = Reservation.loads(text.decode())
        told = {"state": one.state, "purpose": one.purpose, "offer": one.offer, "channel": one.channel}
        yield {"decision_id": name, "send_at": moment(one.send_us).isoformat(), "brand": one.brand, **told}


def _told(
    client: redis.Redis, lake: Path, keys: Mapping[str, bytes], ids: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Events, outcomes and decisions of some ids, each once, whether lake or log has it."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in _TABLES}
    for table, name in _TABLES.items():
        for row in _rows(lake, table, ids):
            found[table][str(row[name])] = _shown(table, row, keys)
    for table, row in _log(client, ids):
        found[table].setdefault(str(row[_TABLES[table]]), _shown(table, row, keys))
    return {name: list(rows.values()) for name, rows in found.items()}


def _rows(lake: Path, table: str, ids: list[str]) -> Iterator[dict[str, Any]]:
    for file in sorted(lake.glob(f"{table}/*/*.parquet")):
        reader = pq.ParquetFile(file)
        mask = pc.is_in(reader.read(["player"])["player"], value_set=pa.array(ids, pa.string()))
        if pc.any(mask).as_py():
            yield from reader.read().filter(mask).to_pylist()


def _log(client: redis.Redis, ids: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for partition in sorted({partition_of(one) for one in ids}):
        after = "-"
        while entries := cast("list[Any]", client.xrange(log_key(partition), after, count=_PAGE)):
            for stream_id, fields in entries:
                entry = log_entry(stream_id, fields)
                if entry.kind == "decision":
                    record = load_record(entry.body)
                    if record.player in ids:
                        row = {"decision_id": record.decision_id, "at": record.at_us, "player": record.player}
                        yield "decisions", row | {"record": entry.body}
                    continue
                row = msgspec.msgpack.decode(entry.body)
                if row.get("player") in ids:
                    yield ("events" if entry.kind in {"event", "facts"} else "outcomes"), row
            after = f"({entries[-1][0].decode()}"


def _shown(table: str, row: Mapping[str, Any], keys: Mapping[str, bytes]) -> dict[str, Any]:
    """A row for people: moments as such, sealed fields opened if their key is there, ours left out."""
    shown = {name: _plain(name, value) for name, value in row.items() if name not in _OURS and value is not None}
    if table == "decisions":
        return shown | _opened(row, keys)
    if row.get("sealed") is not None:
        told = (sealing.unseal(key, row["sealed"], row["event_id"]) for key in keys.values())
        shown["personal"] = next((one for one in told if one is not None), "sealed under a key that was destroyed")
    return shown


def _opened(row: Mapping[str, Any], keys: Mapping[str, bytes]) -> dict[str, Any]:
    record = load_record(row["record"])
    told = personal(keys.get(record.player), record)
    sent = None if record.action is None else msgspec.to_builtins(record.action)
    chosen = {"action": sent, "propensity": record.choice.propensity, "harm_level": record.seen.harm_level}
    if told is None:
        return chosen | {"personal": "sealed under a key that was destroyed"}
    part = {"player_id": told.player_id, "request_id": told.request_id, "context": dict(told.context)}
    facts = {name.decode(): text.decode() for name, text in told.facts.items()}
    return chosen | {"personal": part | {"facts": facts, "inputs": msgspec.to_builtins(told.inputs)}}


def _plain(name: str, value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return moment(value).isoformat() if name in _MOMENTS and isinstance(value, int) else value
