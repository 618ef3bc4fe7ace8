"""The store after a small story that is told to a real one: the same keys, fields and remembered digests, for ever.

What no function names (keys spelt inside the store's functions, or where they are used) is named here.
"""

import re
from asyncio import run
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import redis
from conftest import Stored
from support.first_build import FROZEN, HOUSE, frozen_catalogue, replaced

from features.events import EVENT, moment
from features.store.bundles import keep, publish
from features.store.connection import Store, connect, load_library
from features.store.deployment import House, real_now_us
from features.store.keys import PlayerKeys
from models.catalogue.offers import Catalogue
from pipelines.imports import bulk
from pipelines.worker.outbox import Outbox, Progress
from pipelines.worker.schedule import Scheduler
from service.contacts.entries import Reservation
from service.contacts.ledger import Booking, RedisLedger
from service.decisions import outcomes
from service.decisions.decide import requested_id
from service.decisions.kept import load_stored
from service.decisions.outcomes import Contact, Outcome
from service.decisions.record import FirstRecord, dump_record
from service.events.accept import accept
from service.players.facts import Assertion

SLOW: Final[House] = msgspec.structs.replace(HOUSE, rate=0.001)
"""The frozen house with a clock under which its days last for years."""
PLAYER, OTHER, DEVICE = (HOUSE.player_key(name) for name in ("player-1", "player-2", "device-1"))
CONTACT, SECOND = (requested_id(HOUSE, PLAYER, PLAYER, name) for name in ("r1", "r2"))
_CHANGING: Final = re.compile(r"#[0-9a-f]{8}$|^\d{13}-\d+ ")
"""The number of an attempt, and the place of an entry."""
HOUR_US: Final = 3_600_000_000
PAUSING: Final = Catalogue.model_validate(
    replaced(
        frozen_catalogue(),
        {"pauses": [{"id": "rest", "type": "clicked", "responses": 1, "days": 1, "pause_days": 1}]},
    )
)


def booking(name: str, channel: str, seal: bytes, now_us: int) -> Booking:
    """A bonus on a channel that charges a budget, to be sent at once."""
    charged = (("bonus_day/2020-03-02", 100),)
    held = Reservation(
        now_us, now_us + HOUR_US, "reserved", "bonus", "welcome_bonus", channel, "morning", charges=charged
    )
    record = msgspec.json.decode((FROZEN / "record.json").read_bytes(), type=FirstRecord).read()
    data = dump_record(msgspec.structs.replace(record, decision_id=name, player=PLAYER))
    return Booking(name, data, b"", "", "", seal, held, (), {charged[0][0]: 1_000}, ())


async def story(url: str) -> None:
    """A player of a household with two contacts, one of them clicked; an id is linked, then the player leaves."""
    store = Store(url, 2)
    ledger = RedisLedger(store, SLOW)
    now_us = await ledger.now_us()
    at = "2020-03-01T00:00:00Z"
    telling = {"player_id": "player-1", "occurred_at": at}

    async def tell(name: str, **fields: Any) -> None:
        await accept(EVENT.validate_python({**telling, "event_id": name, **fields}, strict=False), SLOW, ledger)

    await tell("e1", type="registered", jurisdiction="MT", time_zone="Europe/Malta", birth_date="1980-05-17")
    await tell("e2", type="consent_changed", channel="email", granted=True)
    await tell("e3", type="login", player_id="device-1")
    seal = bytes(await ledger.store.call("croupier_seal", [PlayerKeys(PLAYER).seal], [bytes(32)]))
    for name, channel in ((CONTACT, "email"), (SECOND, "sms")):
        status, _ = await ledger.reserve(PlayerKeys(PLAYER), booking(name, channel, seal, now_us))
        assert status == "reserved"
    clicked = {"outcome_id": "o1", "decision_id": CONTACT, "type": "clicked", "occurred_at": at}
    about = Contact.of(load_stored(await ledger.decision(CONTACT) or b"").kept)
    # The first build took it of a contact that was not confirmed, too.
    await ledger.append(PlayerKeys(PLAYER), outcomes.entry(Outcome.model_validate(clicked), about, PLAYER, PAUSING))
    await tell("e4", type="household_changed", household_id="home-1")
    await tell("e5", type="alias", previous_id="device-1")
    await tell("e6", type="login", player_id="device-1")
    await tell("e7", type="self_excluded")
    await store.close()


def sandbox(client: redis.Redis, folder: Path) -> None:
    """What the worker and the command line write: assumed facts, bundles, a schedule, progress with an endpoint."""
    assumed = [Assertion("jurisdiction", 0, 0, "MT"), Assertion("kyc", 0, 0, "verified")]
    bulk.append(client, SLOW, [bulk.Items(client, SLOW).assumed("player-2", assumed)])
    assert keep(client, b"a bundle", "kalman-1-0123456789ab") == publish(client, "policy", b"a bundle")
    clock, noon = Scheduler(client, SLOW, {}, folder, ""), moment(SLOW.house_us)
    assert not clock._take("retrain", "0 4 * * *", noon)
    assert clock._take("retrain", "0 4 * * *", noon + timedelta(days=1))
    outbox = Outbox(client)
    entry = outbox.look([int(CONTACT[:3])]).entries[0]
    entry.owed.add("crm")
    outbox.note(entry, {"crm": Progress(1, real_now_us(client))}, [])


def held(client: Any) -> dict[str, Any]:
    """Every key with what does not change with the clock: fields, members, remembered digests."""
    found: dict[str, Any] = {}
    for key in sorted(client.scan_iter()):
        match client.type(key):
            case b"hash":
                found[key.decode()] = sorted(_CHANGING.sub("", field.decode()) for field in client.hkeys(key))
            case b"zset" | b"list" as kind:
                members = client.zrange(key, 0, -1) if kind == b"zset" else client.lrange(key, 0, -1)
                found[key.decode()] = sorted(member.decode() for member in members)
            case b"stream":
                found[key.decode()] = [fields[b"k"].decode() for _, fields in client.xrange(key)]
            case _:
                remembered = key.startswith(b"seen:")
                found[key.decode()] = client.get(key)[:8].hex() if remembered else "text"
    return found


def test_a_story_leaves_the_names_that_it_left_in_the_first_build(server: Stored, tmp_path: Path) -> None:
    client = connect(server.url)
    client.flushall()
    load_library(client, "service.contacts", "ledger.lua")
    run(story(server.url))
    sandbox(client, tmp_path)
    then = msgspec.json.decode((FROZEN / "store_names.json").read_bytes())
    assert held(client) == then
    client.close()
