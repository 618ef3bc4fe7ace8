"""Keys of the store, ids, registers of facts: the names under which things stand are the same for ever."""

import os
from collections.abc import Callable
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from feast import Field
from feast.types import Float64
from support.first_build import FROZEN, HOUSE, PLAYER, differences, frozen_names

from features import read_plan
from features.definitions import _key_parts, _planned
from features.events import EVENT
from features.read_plan import ReadPlan
from features.store import keys
from features.store.deployment import order, position
from features.store.keys import (
    BUNDLES,
    LIVE,
    PlayerKeys,
    bundle_key,
    decision_key,
    household_key,
    partition_of,
    pointer_key,
    tag,
)
from features.store.server import socket_path
from models.catalogue.limits import Budget
from pipelines.imports.mapping import EventMapping, MappedRows, row_hash
from pipelines.imports.rows import Source
from pipelines.worker import webhooks
from service.contacts.entries import RESPONSE
from service.contacts.limits import account
from service.contacts.snapshot import NO_DECISION
from service.decisions.decide import requested_id
from service.events import accept
from service.players import facts, identity
from service.players.facts import Assertion


def player_keys(player_id: str) -> str:
    return HOUSE.player_key(player_id)


def house_digests(parts: list[str]) -> str:
    return HOUSE.digest(*parts).hex()


_NAMES: Final[dict[str, Callable[..., Any]]] = {
    "facts": lambda player: PlayerKeys(player).facts,
    "features": lambda player: PlayerKeys(player).features.decode(),
    "features_of": lambda player, linked: PlayerKeys(player).features_of(linked).decode(),
    "ledger": lambda player: PlayerKeys(player).ledger,
    "seal": lambda player: PlayerKeys(player).seal,
    "recent": lambda player: PlayerKeys(player).recent,
    "log": lambda player: PlayerKeys(player).log,
    "lease": lambda player: PlayerKeys(player).lease,
    "budget": lambda player: PlayerKeys(player).budget,
    "expiry": lambda player: PlayerKeys(player).expiry,
    "seen": lambda player, name: PlayerKeys(player).seen(name),
    "decision": lambda player, name: PlayerKeys(player).decision(name),
    "decision_key": decision_key,
    "household_key": household_key,
    "partition": partition_of,
    "tag": tag,
    "position": position,
    "order": lambda stream_id: list(order(stream_id)),
    "pointer": pointer_key,
    "bundle": bundle_key,
    "report": keys.report_key,
    "outbox": keys.outbox_key,
    "outbox_state": keys.outbox_state_key,
    "undelivered": keys.undelivered_key,
    "account": lambda budget, at_us: account(Budget.model_validate(budget), at_us),
    "live": lambda: LIVE,
    "bundles": lambda: BUNDLES,
    "reports": lambda: keys.REPORTS,
    "answer": lambda: RESPONSE,
    "no_decision": lambda: NO_DECISION,
    "webhooks_gone": lambda: keys.WEBHOOKS_GONE,
    "promotions": lambda: [keys.CHURN_PROMOTIONS, keys.CHURN_RECORDED, keys.RULES_PROMOTIONS],
    "policy": lambda: [keys.POLICY_HISTORY, keys.POLICY_HELD, keys.POLICY_WAITING],
}


def store_keys(asked: list[Any]) -> Any:
    name, *arguments = asked
    return _NAMES[name](*arguments)


def feature_keys(entity: str) -> str:
    return ReadPlan.loads((FROZEN / "plan.json").read_bytes()).key(entity).hex()


def feature_fields(asked: list[str]) -> str:
    """Hash field of a feature, by its view and name."""
    view, name = asked
    return _planned(view, view, Field(name=name, dtype=Float64)).field.hex()


def feature_key_parts(project: str) -> list[str]:
    return [part.hex() for part in _key_parts(project)]


def feature_values(asked: list[Any]) -> str:
    """A value as Feast holds it, by its type, and back; `Moment` is the event time of a view."""
    dtype, value = asked
    wires: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]]
    wires = {**read_plan._WIRES, "Moment": (read_plan._read_moment, read_plan._write_moment)}
    read, write = wires[dtype]
    value = bytes.fromhex(value) if dtype == "Bytes" else float.fromhex(value) if "Float" in dtype else value
    data = write(value)
    assert read(data) == value
    return data.hex()


def socket_names(home: str) -> str:
    """The end of the private folder's name; a path that fits stays inside its home."""
    path = socket_path(Path(home))
    return str(path) if path.parent.name == "store" else path.parent.name.removeprefix(f"croupier-{os.getuid()}-")


def decision_ids(asked: list[str]) -> str:
    player_id, request_id = asked
    key = HOUSE.player_key(player_id)
    return requested_id(HOUSE, key, key, request_id)


def linked_decision_ids(asked: list[str]) -> str:
    player_id, linked_id, request_id = asked
    return requested_id(HOUSE, HOUSE.player_key(player_id), HOUSE.player_key(linked_id), request_id)


def seen_events(asked: dict[str, Any]) -> list[str]:
    """Name that an event of a player, or of an id linked to one, is remembered under, and the store's key for it."""
    linked = HOUSE.player_key(asked["linked"]) if "linked" in asked else ""
    taken = accept.entry(PLAYER, EVENT.validate_python(asked["event"], strict=False), asked=linked)
    return [taken.seen, PlayerKeys(PLAYER).seen(taken.seen)]


def event_facts(body: str) -> list[Any]:
    return [list(one) for one in facts.assertions(EVENT.validate_json(body))]


def linked_facts(asked: list[Any]) -> list[Any]:
    linked, told = asked
    return [list(one) for one in identity.under(linked, [Assertion(*one) for one in told])]


def row_ids(cells: list[str]) -> str:
    return row_hash(cells)


def webhooks_told(asked: dict[str, Any]) -> list[Any]:
    told = webhooks.Notice(**asked["notice"])
    message, text = webhooks.webhook_id(told, asked["endpoint"]), webhooks.body(told)
    headers = webhooks.headers(asked["secrets"], message, datetime.fromisoformat(asked["at"]), text)
    return [message, text, headers["webhook-signature"]]


def import_ids(asked: dict[str, Any], folder: Path) -> list[str]:
    """Event ids of the rows of a file that carries none."""
    mapping = EventMapping.model_validate(asked["mapping"])
    folder.mkdir()
    file = folder / "rows"
    file.write_text(asked["file"], "utf8")
    with Source(file, mapping) as source:
        rows = MappedRows(mapping, source.header, source.hashed)
        return [rows.event(row.cells).event_id for chunk in source.chunks(100) for row in chunk]


FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    one.__name__: one
    for one in (
        player_keys,
        house_digests,
        store_keys,
        feature_keys,
        feature_fields,
        feature_key_parts,
        feature_values,
        socket_names,
        decision_ids,
        linked_decision_ids,
        seen_events,
        event_facts,
        linked_facts,
        row_ids,
        webhooks_told,
    )
}
OF_FILES: Final[dict[str, Callable[..., Any]]] = {one.__name__: one for one in (import_ids,)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_what_the_first_build_gave(name: str) -> None:
    assert differences("names", name, FUNCTIONS[name]) == []


@pytest.mark.parametrize("name", OF_FILES)
def test_a_function_of_files_gives_what_the_first_build_gave(name: str, tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in count())
    assert differences("names", name, lambda given: OF_FILES[name](given, next(folders))) == []


def test_every_file_has_its_function() -> None:
    assert frozen_names("names") == FUNCTIONS.keys() | OF_FILES.keys()
