"""What any build stored, every later one reads: frozen bytes open and give the frozen values, for ever.

That today's writer still makes the same bytes is asserted only of the version that it writes, the last column of
`FORMATS`: who raises one freezes cases of it beside the earlier ones, which go on being read.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pytest
from frozen.cases import Case, assert_gives, cases, every, shown, versions, written

from features.kept_schemas import TODAY, by_name, find
from features.read_plan import ReadPlan
from features.schema import VECTOR
from features.settings.mlflow_file import LearnerSettings
from features.store.deployment import House
from features.store.erasures import Erasure
from features.store.house_key import HouseKey, checked, read_key
from models.catalogue.offers import Catalogue
from models.churn.scorer import ChurnBundle, Scorer
from models.policy import learner as learner_module
from models.policy.context import READINGS
from models.policy.learned import LearnedPolicy, PolicyVersion
from models.policy.learner import Learner, NamedAction
from models.releases.journal import JournalEntry, PolicyChange, RulesChange
from pipelines.learning.training_log import Checkpoint
from pipelines.worker.lake import Reach
from service.contacts.entries import ContactResponse, Reservation
from service.decisions.personal import Personal, personal
from service.decisions.record import VERSION, Record, dump_record, load_record, unpack_floats, unpack_places
from service.players import facts, identity
from service.players.sealing import SealError, Seals
from service.rules.rulebook import Rulebook


class Format(NamedTuple):
    """A format of something stored: its reader, its writer, and the version that today's writer makes."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    version: int


def json_of(kind: Any) -> Format:
    """The format of a struct that is stored as JSON."""
    return Format(lambda raw: msgspec.json.decode(raw, type=kind), lambda held: msgspec.json.encode(held).decode(), 1)


def model_of(kind: Any) -> Format:
    """The format of a catalogue or rulebook as the store keeps it."""
    return Format(kind.model_validate_json, lambda held: held.model_dump_json(by_alias=True).encode(), 1)


def read_checkpoint(raw: bytes) -> Checkpoint:
    return msgspec.msgpack.decode(raw, type=Checkpoint)


def relearnt(held: Checkpoint) -> bytes:
    """A checkpoint with the learner in it taken up and written again."""
    learner = Learner.loads(held.learner, settings(held))
    return msgspec.msgpack.encode(msgspec.structs.replace(held, learner=learner.dumps()))


def settings(held: Checkpoint) -> LearnerSettings:
    """The settings that a checkpoint was written under."""
    return msgspec.msgpack.decode(held.learner, type=learner_module._State).settings


FORMATS: Final = {
    "answers": Format(ContactResponse.loads, lambda held: held.dumps(), 1),
    "catalogues": model_of(Catalogue),
    "checkpoints": Format(read_checkpoint, relearnt, learner_module.FORMAT),
    "churn_bundles": Format(ChurnBundle.loads, ChurnBundle.dumps, 1),
    "churn_promotions": json_of(JournalEntry),
    "contacts": Format(Reservation.loads, lambda held: held.dumps(), 1),
    "erasures": json_of(Erasure),
    "houses": json_of(House)._replace(version=3),
    "lake_positions": json_of(Reach),
    "policy_changes": json_of(PolicyChange),
    "read_plans": Format(ReadPlan.loads, ReadPlan.dumps, 1),
    "records": Format(load_record, dump_record, VERSION),
    "rulebook_changes": json_of(RulesChange),
    "rulebooks": model_of(Rulebook),
    "snapshots": Format(PolicyVersion.loads, PolicyVersion.dumps, 1),
}


def catalogue() -> Catalogue:
    (case,) = cases("catalogues", 1)
    return Catalogue.model_validate_json(case.raw)


# --- What is read shows these values


def show_record(record: Record) -> dict[str, Any]:
    """A record with its sets as places and its arrays as numbers."""
    told: dict[str, Any] = shown(record)
    if record.v == 1:
        (member,) = record.experiments
        told |= {"experiment": member.key, "variant": member.variant, "bucket": member.bucket}
    size, choice, seen = catalogue().size, record.choice, record.seen

    def places(bits: bytes) -> Any:
        return np.flatnonzero(unpack_places(bits, size)).tolist()

    told["choice"] |= {
        "mask": places(choice.mask),
        "excluded": {rule: places(bits) for rule, bits in choice.excluded.items()},
        "scores": shown(unpack_floats(choice.scores)),
        "pmf": shown(unpack_floats(choice.pmf)),
        "deferrals": [shown(one) | {"candidates": places(one.candidates)} for one in choice.deferrals],
    }
    told["seen"]["features"] = shown(unpack_floats(seen.features))
    told["seen"]["whole"] = None if seen.whole is None else shown(unpack_floats(seen.whole))
    return told


def show_personal(opened: Personal | None) -> Any:
    """The personal part of a record; what was not sealed is not there."""
    assert opened is not None
    told: dict[str, Any] = shown(opened)
    told["facts"] = {name.decode(): text.decode() for name, text in opened.facts.items()}
    told["inputs"] = msgspec.to_builtins(opened.inputs)
    told["contacts"] = [[*contact] for contact in opened.contacts or ()]
    return told


def show_snapshot(snapshot: PolicyVersion) -> dict[str, Any]:
    """A snapshot with its vectors as numbers, and how it scores one context."""
    told: dict[str, Any] = shown(snapshot)
    told |= {name: shown(unpack_floats(getattr(snapshot, name))) for name in ("mean", "sd", "value")}
    told["blocks"] = {name: shown(unpack_floats(block)) for name, block in snapshot.blocks.items()}
    rising = {name: (at % 7) / 2 for at, name in enumerate(snapshot.features)}
    context = np.array([rising.get(name, 0.0) for name in READINGS])
    policy = LearnedPolicy(snapshot, catalogue())
    scores = policy.scores(context)
    some = np.arange(len(scores)) % 3 == 0
    return told | {"scores": shown(scores), "pmf": shown(policy.pmf(scores, some)[some])}


def show_checkpoint(held: Checkpoint) -> dict[str, Any]:
    """A checkpoint: how far it read, what is open, and the snapshot after a few lessons more."""
    learner = Learner.loads(held.learner, settings(held))
    for at in range(2 * settings(held).batch):
        learner.zero(np.full(len(READINGS), at / 10), NamedAction("free_bet", "email", "evening"))
        learner.one(np.full(len(READINGS), at / 20), NamedAction("match_preview", "sms", "morning"), 100.0 + at)
    then = show_snapshot(learner.snapshot(held.lineage, held.at_us, held.cursor))
    books = shown(held.books)
    some = {name: books["touches"][name] for name in sorted(books["touches"])[:3]}
    return {
        "lineage": held.lineage,
        "cursor": shown(held.cursor),
        "at_us": held.at_us,
        "settings": shown(settings(held)),
        "books": books | {"touches": some, "open": len(books["touches"])},
        "newest": PolicyVersion.loads(held.newest).version if held.newest else None,
        "then": then,
    }


def show_bundle(bundle: ChurnBundle) -> dict[str, Any]:
    """A churn model with the scores that it gives to a few players."""
    told = {name: one for name, one in shown(bundle).items() if name != "model"}
    rows = np.array([[(at * 37 + number * 101) % 89 for at in range(len(bundle.features))] for number in range(9)]) / 8
    rows[-1] = np.nan
    matrix = np.full((len(rows), len(VECTOR)), np.nan)
    places = {reading.name: at for at, reading in enumerate(VECTOR)}
    matrix[:, [places[name] for name in bundle.features]] = rows
    return told | {"scores": shown(Scorer(bundle).score_many(matrix))}


def show_plan(plan: ReadPlan) -> dict[str, Any]:
    return {**shown(plan), "key": plan.key("{p017}00").hex()}


def show_catalogue(held: Catalogue) -> dict[str, Any]:
    some = {place: held.action(place) for place in range(1, held.size, 7)}
    places = {place: [one.offer.id, one.channel, one.timing_slot] for place, one in some.items()}
    told = {"hash": held.hash, "size": held.size, "places": shown(places)}
    return told | {"offers": shown(held.offers), "experiment": shown(held.experiment)}


def show_rulebook(book: Rulebook) -> dict[str, Any]:
    bound = {one.rule.id: [*one.places, one.begins_us, one.ends_us] for one in book.bound()}
    return {"hash": book.hash, "bound": bound, "registers": shown(book.registers)}


SHOWN: Final[dict[str, Callable[[Any], Any]]] = {
    "catalogues": show_catalogue,
    "checkpoints": show_checkpoint,
    "churn_bundles": show_bundle,
    "read_plans": show_plan,
    "records": show_record,
    "rulebooks": show_rulebook,
    "snapshots": show_snapshot,
}


def gives(kind: str, raw: Any) -> Any:
    """What today's reader makes of something stored, as frozen values show it."""
    return SHOWN.get(kind, shown)(FORMATS[kind].read(raw))


@every(*FORMATS)
def test_what_was_stored_gives_the_frozen_values(case: Case) -> None:
    assert_gives(gives(case.kind, case.raw), case.gives)


@written({kind: one.version for kind, one in FORMATS.items()})
def test_todays_writer_makes_the_bytes_of_the_version_that_it_writes(case: Case) -> None:
    one = FORMATS[case.kind]
    assert one.write(one.read(case.raw)) == case.raw


@every("records")
def test_the_personal_part_of_a_record_opens_with_its_key_alone(case: Case) -> None:
    record, key = load_record(case.raw), bytes.fromhex(case.more["seal"])
    assert_gives(show_personal(personal(key, record)), case.more["personal"])
    assert personal(bytes(32), record) is None
    assert personal(key, msgspec.structs.replace(record, decision_id="another")) is None


@every("seals")
def test_a_seal_opens_to_the_key_of_its_player_under_its_house_key_alone(case: Case) -> None:
    stored, player = bytes.fromhex(case.raw), case.more["player"]
    house_key = HouseKey(read_key(case.more["house_key"].encode()))
    assert Seals(house_key).open(player, stored).hex() == case.gives
    if case.version > 1:  # earlier ones were the key as it is
        for seals, whose in ((Seals(HouseKey(bytes(32))), player), (Seals(house_key), "another"), (Seals(), player)):
            with pytest.raises(SealError):
                seals.open(whose, stored)


def test_a_frozen_house_names_the_key_that_its_seals_are_under() -> None:
    (sealed,), (held,) = cases("seals", 2), cases("houses", 3)
    house = msgspec.json.decode(held.raw, type=House)
    key = HouseKey(read_key(sealed.more["house_key"].encode()))
    assert checked(house, key) is key
    made = Seals(key).wrap(sealed.more["player"], bytes.fromhex(sealed.gives))
    assert len(made) == len(bytes.fromhex(sealed.raw))
    assert made[:1] == bytes.fromhex(sealed.raw)[:1], "who writes another version freezes a seal of it"


@every("records")
def test_the_features_of_a_record_have_names(case: Case) -> None:
    record = load_record(case.raw)
    schema = find(record.versions.schema)
    told = dict(zip(schema.definitions, case.gives["seen"]["features"], strict=True))
    found = dict(zip(TODAY.definitions, shown(by_name(unpack_floats(record.seen.features), schema)), strict=True))
    assert found == {name: told[name] if schema.has(name, TODAY) else None for name in TODAY.definitions}


@every("facts")
def test_facts_as_they_were_stored_say_the_same(case: Case) -> None:
    raw = {name.encode(): text.encode() for name, text in case.raw.items()}
    assert_gives(shown(facts.read(identity.together(raw), "main")), case.gives)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_frozen_in_the_version_that_is_written(kind: str) -> None:
    assert FORMATS[kind].version in versions(kind)
