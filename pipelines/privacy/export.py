"""All that is held of one player, as JSON that a person can read: from the store, its log and the lake, unsealed.

    id --links--> ids --store--> facts, features, contacts   --log, lake--> events, outcomes, decisions   --> an object

Moments are ISO 8601, UTC, by the house's clock; money is in minor units of the house's currency.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

from features.errors import CroupierError
from features.lake.files import table_files, unmoved
from features.moments import moment
from features.schema import STORED
from features.store import erasures
from features.store.deployment import open_house, position, real_now_us
from features.store.keys import PlayerKeys, inbox_key, log_key, partition_of, send_key, tasks_key
from pipelines.worker.consumer import log_entry, serving_plan
from pipelines.worker.lake import SCHEMAS, table_row
from pipelines.worker.owners import owners_of
from service.contacts.entries import RESPONSE, ContactResponse, Reservation
from service.decisions.personal import Personal, personal
from service.decisions.record import load_record
from service.delivery.kept_messages import opened
from service.delivery.sends import Send
from service.errors import UnknownPlayerError
from service.events.accept import TOLD_AT
from service.players import identity, sealing
from service.players.facts import erased_us, registers
from service.players.sealing import seals_of
from service.privacy.held import held_keys

SCHEMA: Final = 1
"""Version of the object; fields are only ever added."""
_PAGE: Final = 1_000
_TABLES: Final = {"events": "event_id", "outcomes": "outcome_id", "decisions": "decision_id"}
_OURS: Final = frozenset({"chain", "record", "sealed"})
_MOMENTS: Final = ("occurred_at", "at", "send_at", "valid_until", "known_at", TOLD_AT)
_UNITS: Final = {one.name: one.unit for one in STORED}
_MICROS: Final = "unix microseconds"
_DESTROYED: Final = "sealed under a key that was destroyed"


class ExportTooLargeError(CroupierError):
    """More of a player than is answered over HTTP."""

    code = "export_too_large"
    sentence = (
        "there is more of this player than is answered: `croupier export` on a host of the house writes it to a file"
    )


def export(client: redis.Redis, lake: Path, home: Path, player_id: str, most: float = inf) -> dict[str, Any]:
    """Everything that is held of a player, by any of their ids.

    Args:
        client: The store.
        lake: The lake's folder.
        home: The home, which has the house key.
        player_id: As callers name them.
        most: Rows of log and lake that are read at most.

    Raises:
        HouseKeyError: The house key is not here.
        ExportTooLargeError: There are more rows.
        UnknownPlayerError: Nothing is held of this id.
    """
    house = open_house(client)
    seals, asked = seals_of(house, home), house.player_key(player_id)
    owner = owners_of(client, [asked])[asked]
    known = cast("dict[bytes, bytes]", client.hgetall(PlayerKeys(owner).facts))
    ids = [*identity.others(known), owner]
    keys = {one: seals.open(one, held) for one in ids if (held := _seal(client, one)) is not None}
    tables = _told(client, lake, keys, ids, most)
    plan = serving_plan(client)
    if not any(tables.values()) and not client.exists(*held_keys(PlayerKeys(owner, plan.key(owner) if plan else b""))):
        raise UnknownPlayerError
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
        "features": [one for name in ids for one in _features(client, name)],
        "contacts": [one for name in ids for one in _contacts(client, name)],
        "sends": [one for name in ids for one in _sends(client, name)],
        "kept_messages": [one for name, key in keys.items() for one in _kept(client, name, key)],
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


def _features(client: redis.Redis, player: str) -> Iterator[dict[str, Any]]:
    """Behaviour as it was kept, each with its unit; moments as such."""
    plan = serving_plan(client)
    if plan is None:
        return
    held = cast("dict[bytes, bytes]", client.hgetall(plan.key(player)))  # type: ignore[arg-type]
    row = plan.decode([held.get(name) for name in plan.fields])
    for one, value in zip(plan.features, row.values, strict=False):
        if value is not None:
            unit = _UNITS.get(one.name, "")
            told = moment(int(value)).isoformat() if unit == _MICROS else value
            yield {"of": player, "feature": one.name, "value": told, "unit": "moment" if unit == _MICROS else unit}


def _contacts(client: redis.Redis, player: str) -> Iterator[dict[str, Any]]:
    held = cast("dict[bytes, bytes]", client.hgetall(PlayerKeys(player).ledger))
    for raw, text in sorted(held.items()):
        name = raw.decode()
        if name == "v":
            continue
        if name.startswith(RESPONSE):
            yield _response(name, ContactResponse.loads(text.decode()))
            continue
        one = Reservation.loads(text.decode())
        told = {"state": one.state, "purpose": one.purpose, "offer": one.offer, "channel": one.channel}
        yield {"decision_id": name, "send_at": moment(one.send_us).isoformat(), "brand": one.brand, **told}


def _sends(client: redis.Redis, player: str) -> Iterator[dict[str, Any]]:
    """What became of contacts that the house sent itself."""
    keys = PlayerKeys(player)
    named = {name.decode() for name in cast("list[bytes]", client.hkeys(keys.ledger))}
    named |= {name.decode() for name in cast("list[bytes]", client.lrange(keys.recent, 0, -1))}
    for decision in sorted(named - {"v"}):
        if decision.startswith(RESPONSE):
            continue
        send = Send.loads(cast("dict[bytes, bytes]", client.hgetall(send_key(decision))))
        if send is not None:
            told = {"state": send.state, "since": moment(send.at_us).isoformat(), "attempts": send.tries}
            yield {"decision_id": decision, **told, "connector": send.connector, "why": send.why or None}


def _kept(client: redis.Redis, player: str, key: bytes) -> Iterator[dict[str, Any]]:
    """Messages that the house keeps for the player, or for who is to call them."""
    for place, name in (("inbox", inbox_key(player)), ("task", tasks_key(player))):
        for decision, value in sorted(cast("dict[bytes, bytes]", client.hgetall(name)).items()):
            one = opened(key, decision.decode(), value, 2)
            if one is not None:
                shown = msgspec.to_builtins(one) | {"kept_us": None, "valid_until_us": None}
                moments = {"kept_at": moment(one.kept_us).isoformat(), "until": moment(one.valid_until_us).isoformat()}
                yield {"place": place} | {name: held for name, held in shown.items() if held is not None} | moments


def _response(name: str, one: ContactResponse) -> dict[str, Any]:
    told = {"decision_id": name.rpartition("/")[2], "response": one.type, "responded_at": moment(one.at_us).isoformat()}
    return told | {"brand": one.brand, "purpose": one.purpose, "offer": one.offer, "channel": one.channel}


def _told(
    client: redis.Redis, lake: Path, keys: Mapping[str, bytes], ids: list[str], most: float
) -> dict[str, list[dict[str, Any]]]:
    """Events, outcomes and decisions of some ids, each once, whether log or lake has it."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in _TABLES}
    # The log first: what a flush moves meanwhile is then found in both, not in neither.
    for count, (table, row) in enumerate(chain(_log(client, ids), _lake(lake, ids))):
        if count >= most:
            raise ExportTooLargeError
        found[table][f"{row.get('type', '')} {row[_TABLES[table]]}"] = _shown(table, row, keys)
    return {name: sorted(rows.values(), key=lambda row: row["known_at"]) for name, rows in found.items()}


def _lake(lake: Path, ids: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    with unmoved(lake):
        for table in _TABLES:
            for file in table_files(lake, table):
                yield from ((table, row) for row in _rows_of(file, ids))


def _rows_of(file: Path, ids: list[str]) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(file) as opened:
        for group in range(opened.num_row_groups):
            mask = pc.is_in(opened.read_row_group(group, ["player"])["player"], value_set=pa.array(ids, pa.string()))
            if pc.any(mask).as_py():
                yield from opened.read_row_group(group).filter(mask).to_pylist()


def _log(client: redis.Redis, ids: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of the log as the lake will have them."""
    for partition in sorted({partition_of(one) for one in ids}):
        after = "-"
        while entries := cast("list[Any]", client.xrange(log_key(partition), after, count=_PAGE)):
            for stream_id, fields in entries:
                entry = log_entry(stream_id, fields)
                table, row = table_row(entry)
                if row.get("player") in ids:
                    known = {"known_at": entry.known_us, "position": position(partition, entry.stream_id)}
                    yield table, {name: row[name] for name in (*SCHEMAS[table].names, TOLD_AT) if name in row} | known
            after = f"({entries[-1][0].decode()}"


def _shown(table: str, row: Mapping[str, Any], keys: Mapping[str, bytes]) -> dict[str, Any]:
    """A row for people: moments as such, sealed fields opened if their key is there, ours left out."""
    told = {name: value for name, value in row.items() if name not in _OURS and value is not None and value != ""}
    shown = {name: _plain(name, value) for name, value in told.items()}
    if table == "decisions":
        return shown | _opened(row, keys)
    if row.get("sealed") is not None:
        opened = (sealing.unseal(key, row["sealed"], row["event_id"]) for key in keys.values())
        shown["personal"] = next((one for one in opened if one is not None), _DESTROYED)
    return shown


def _opened(row: Mapping[str, Any], keys: Mapping[str, bytes]) -> dict[str, Any]:
    record = load_record(row["record"])
    told, sent = personal(keys.get(record.player), record), record.action
    shown = None if sent is None else {"name": sent.name, "template": sent.template, "parameters": sent.parameters}
    excluded = {"excluded_by": sorted(record.choice.excluded)}
    return excluded | {"shown": shown, "personal": _DESTROYED if told is None else _personal(told)}


def _personal(told: Personal) -> dict[str, Any]:
    """The personal part of a decision: whom it was asked about, and what was seen of them."""
    facts = [_fact(one.field, one.moment_us, one.text) for one in registers(told.facts)]
    inputs = None if told.inputs is None else {name: msgspec.to_builtins(one) for name, one in told.inputs.items()}
    contacts = [
        {"send_at": moment(at).isoformat(), "offer": offer, "channel": channel}
        for at, offer, channel in told.contacts or ()
    ]
    asked = None if told.asked is None else told.asked._asdict()
    part = {"player_id": told.player_id, "request_id": told.request_id, "context": dict(told.context)}
    return part | {"facts": facts, "inputs": inputs, "contacts": contacts, "asked": asked}


def _plain(name: str, value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return moment(value).isoformat() if name in _MOMENTS and isinstance(value, int) else value
