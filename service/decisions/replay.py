"""Replay a decision: recompute its record from what it holds and the releases that it names, and say what differs.

    record, seal, releases --> u, draw, pmf, scores, churn score, mask, contact --> differences, what is not recomputed

Mask, probabilities and draw come out bit for bit anywhere; scores bit for bit on the build that made them, elsewhere
within a tolerance. Limits are taken from the record: the contacts of others that they counted do not stand in it. Pure.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any, Final, NamedTuple, cast

import msgspec
import numpy as np
import tzdata
from numpy.typing import NDArray

from features.aggregates import forward
from features.kept_schemas import Schema, SchemaError, by_name, lacking
from features.schema import CHURN_DEFAULT
from features.store.deployment import House
from features.store.keys import partition_of
from models.catalogue.candidates import Candidates, CandidateSpace
from models.catalogue.offers import NO_CONTACT, PROMOTIONAL, Purpose
from models.churn.scorer import Scorer
from models.experiments.assignment import LEFT_OUT, Assignment, Splits
from models.policy.context import context
from models.policy.learned import SnapshotError
from models.policy.policy import Policy, draw, uniform_number
from service.contacts import limits
from service.decisions.assess import Assessment, Behaviour, RecordedPlayer, assess
from service.decisions.compose import chosen_contact, deferred
from service.decisions.decide import requested_id
from service.decisions.differences import ERASED, OTHER_FEATURES, OTHER_ZONES, Replayed, numbers
from service.decisions.eligibility import Asked
from service.decisions.personal import Narrowed, Personal, personal
from service.decisions.record import Record, assignment, pack_floats, unpack_floats, unpack_places
from service.decisions.serving import Serving
from service.players import sealing
from service.players.facts import erased_us
from service.rules.inputs import InputRead
from service.rules.sending_hours import promised

_TROUBLES = frozenset({"features_unavailable", "features_stale"})
_UNREADABLE: Final = "rulebook_unreadable"
_MODEL_MISSING: Final = "churn_model_missing"
_KINDS: Final = {"business_rules": "business_rules", "uniform": "uniform", "priority": "priority"}
"""First word of a policy's version -> its kind; all others were learnt."""
_STAND_INS: Final = {
    "learnt": {"learnt", "uniform", "business_rules"},
    "uniform": {"uniform"},
    "business_rules": {"business_rules"},
}
"""Who may choose where an experiment asks for a policy: uniform before anything was learnt, business rules by law."""


class MadeWith(NamedTuple):
    """What a record names, as far as it is still kept.

    Attributes:
        house: Whose draws they are.
        layout: The catalogue.
        serving: The rulebook, compiled for that catalogue, with the churn model.
        policy: The policy over that catalogue.
        churn: The churn model; None too where none served.
        schema: Of its features.
        splits: How its experiments split players; None too where the record names none.
    """

    house: House
    layout: CandidateSpace | None
    serving: Serving | None
    policy: Policy | None
    churn: Scorer | None
    splits: Splits | None
    schema: Schema | None


# --- The player and the request, read back


def recorded_player(
    record: Record, opened: Personal, schema: Schema, vector: NDArray[np.float64] | None = None
) -> RecordedPlayer:
    """The player as a decision saw them.

    Args:
        record: The decision.
        opened: Its personal part.
        schema: Of its features (`versions.schema`); one that was not recorded is as of a new player.
        vector: Its `recorded_vector`, where that is at hand.
    """
    behaviour = _behaviour(record, schema, recorded_vector(record, schema) if vector is None else vector)
    return RecordedPlayer(opened.facts, behaviour, opened.contacts or (), record.stops or ())


def recorded_vector(record: Record, schema: Schema) -> NDArray[np.float64]:
    """The player's own features as a decision saw them, brought forward to its moment."""
    return forward(by_name(unpack_floats(record.seen.features), schema), record.at_us)


def _behaviour(record: Record, schema: Schema, vector: NDArray[np.float64]) -> Behaviour:
    seen, at_us = record.seen, record.at_us
    stored = by_name(unpack_floats(seen.features), schema)
    whole = stored if seen.whole is None else by_name(unpack_floats(seen.whole), schema)
    strictest = vector if seen.whole is None else forward(whole, at_us)
    trouble = next(iter(_TROUBLES.intersection(seen.degraded)), None)
    return Behaviour(stored, vector, whole, strictest, seen.as_of_us, seen.age_seconds, trouble)


def recorded_request(record: Record, opened: Personal) -> Asked:
    """What a decision was asked for; the first builds kept nothing of what narrowed it."""
    asked = opened.asked or Narrowed(None, None, activate=False)
    return Asked(
        record.brand,
        frozenset(cast("tuple[Purpose, ...]", record.purposes)),
        None if asked.channels is None else frozenset(asked.channels),
        None if asked.offers is None else frozenset(asked.offers),
        asked.activate,
    )


# --- Recomputing


def replay(record: Record, seal: bytes | None, made: MadeWith) -> Replayed:
    """Recompute a record.

    Args:
        record: As it was logged.
        seal: The key of the player's personal fields; None once the player was erased.
        made: What it was made with.
    """
    found = Replayed()
    _named(record, made.house, found)
    opened = _opened(record, seal, found)
    _drawn(record, made, found)
    vector = _scored(record, made, found)
    if opened is not None:
        assigned = _assigned(record, _owner(record, seal, opened, made.house, found), made, found)
        assessed = Replayed()
        _assessed(record, opened, assigned, made, vector, assessed)
        found.add(assessed, _made_elsewhere(record, made))
    return found


def _made_elsewhere(record: Record, made: MadeWith) -> str | None:
    """Why an assessment may come out otherwise though nothing was changed, None if it may not."""
    if made.schema is not None and lacking(made.schema):
        return OTHER_FEATURES
    return OTHER_ZONES if record.versions.time_zones != tzdata.IANA_VERSION else None


def _named(record: Record, house: House, found: Replayed) -> None:
    """What the record says of itself."""
    found.same("decision_id", record.decision_id[:4], f"{partition_of(record.player):03d}-")
    found.same("sandbox", record.sandbox, house.sandbox)
    u = uniform_number(house.digest("draw", record.decision_id, str(record.attempt)))
    found.same("choice.u", record.choice.u, u)


def _opened(record: Record, seal: bytes | None, found: Replayed) -> Personal | None:
    """The personal part; None with the reason why it cannot be read."""
    if seal is None:
        found.lacks(ERASED, "player", "experiments", "action", "choice.excluded", "choice.role", "seen")
        return None
    opened = personal(seal, record)
    if opened is None:
        found.differs("sealed", "personal fields", "the player's key does not open them")
    return opened


def _drawn(record: Record, made: MadeWith, found: Replayed) -> None:
    """Probabilities from scores and mask, the draw from them."""
    choice, layout = record.choice, made.layout
    mask = unpack_places(choice.mask, 8 * len(choice.mask) if layout is None else layout.catalogue.size)
    scores, pmf = unpack_floats(choice.scores), unpack_floats(choice.pmf)
    if not mask[NO_CONTACT] or not mask.sum() == len(scores) == len(pmf):
        found.differs("choice.mask", f"{mask.sum()} eligible", f"{len(scores)} scores, {len(pmf)} probabilities")
        return
    drawn = draw(_spread(pmf, mask), choice.u)
    found.same("choice.place", choice.place, drawn.place)
    found.same("choice.propensity", choice.propensity, drawn.propensity)
    if layout is None:
        found.lacks("catalogue_not_kept", "choice.mask")
        return
    if made.policy is None:
        found.lacks("policy_not_kept", "choice.pmf")
    else:
        _probable(made.policy, scores, mask, pmf, found)
    excluded = reduce(or_, (layout.loads(bits) for bits in choice.excluded.values()), 0)
    left = layout.bit(NO_CONTACT) | layout.everything & ~excluded
    if choice.mask != layout.dumps(left):
        found.differs("choice.mask", f"{mask.sum()} eligible", f"{left.bit_count()} that nothing excludes")


def _probable(
    policy: Policy, scores: NDArray[np.float64], mask: NDArray[np.bool_], pmf: NDArray[np.float64], found: Replayed
) -> None:
    try:
        again = policy.pmf(_spread(scores, mask), mask)[mask]
    except SnapshotError as error:
        found.differs("choice.scores", numbers(scores), error)
        return
    if pack_floats(again) != pack_floats(pmf):
        found.differs("choice.pmf", numbers(pmf), numbers(again))


def _spread(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values of eligible places over all places, 0 elsewhere."""
    found = np.zeros(len(mask))
    found[mask] = values
    return found


def _scored(record: Record, made: MadeWith, found: Replayed) -> NDArray[np.float64] | None:
    """Churn score and scores from the features; the vector at the decision's moment, None if nothing names them."""
    if made.schema is None:
        found.lacks(OTHER_FEATURES, "seen", "choice.scores", "choice.excluded")
        return None
    seen, build = record.seen, record.versions.build
    try:
        vector = recorded_vector(record, made.schema)
    except SchemaError as error:
        found.differs("seen.features", numbers(unpack_floats(seen.features)), error)
        return None
    lacks = lacking(made.schema)
    if seen.churn_score is not None:
        _churn(record, made, vector, found)
    if made.layout is None or made.policy is None:
        return vector
    if lacks.intersection(name.partition("=")[0] for name in made.policy.readings):
        found.lacks(OTHER_FEATURES, "choice.scores")
    else:
        mask = unpack_places(record.choice.mask, made.layout.catalogue.size)
        read = context(vector, CHURN_DEFAULT if seen.churn_score is None else seen.churn_score)
        found.near("choice.scores", unpack_floats(record.choice.scores), made.policy.scores(read)[mask], build)
    return vector


def _churn(record: Record, made: MadeWith, vector: NDArray[np.float64], found: Replayed) -> None:
    """The churn score, which is the default while no model served."""
    seen, scorer = record.seen, made.churn
    if record.versions.churn is not None and scorer is None:
        found.lacks("churn_model_not_kept", "seen.churn_score")
    elif scorer is not None and made.schema is not None and lacking(made.schema).intersection(scorer.bundle.features):
        found.lacks(OTHER_FEATURES, "seen.churn_score")
    else:
        again = CHURN_DEFAULT if scorer is None else scorer.score(vector)
        found.near("seen.churn_score", seen.churn_score, again, record.versions.build)


def _owner(record: Record, seal: bytes | None, opened: Personal, house: House, found: Replayed) -> str:
    """Whose decision it is, and its id where the caller's request made it; the id by which the player is split."""
    asked = house.player_key(opened.player_id)
    if erased_us(opened.facts) is not None:
        return record.player
    name = opened.facts.get(b"name") if asked != record.player else None
    told = None if name is None else sealing.unseal(seal, base64.b64decode(name), sealing.NAME)
    own = opened.player_id if told is None else str(told["player_id"])
    found.same("player", record.player, house.player_key(own))
    if opened.request_id is not None:
        again = requested_id(house, record.player, asked, opened.request_id)
        found.same("decision_id", record.decision_id, again)
    return own


def _assigned(record: Record, own: str, made: MadeWith, found: Replayed) -> Assignment | None:
    """What experiments made of the player, by the release that the record names; None where that is not known."""
    if made.splits is None:
        if record.versions.experiments is not None:
            found.lacks("experiments_not_kept", "experiments", "use")
        return None
    again = made.splits.assign(own)
    found.same("experiments", record.experiments, again.memberships)
    found.same("use", record.use, again.use)
    return again


def _recorded_assignment(record: Record, layout: CandidateSpace) -> Assignment:
    """What the record says of it: a holdout keeps everything from the player, what a variant leaves out is taken."""
    said = assignment(record)
    kept = {name: bits if name == LEFT_OUT else layout.everything for name, bits in said.withheld.items()}
    return said._replace(withheld=kept)


def _assessed(
    record: Record,
    opened: Personal,
    assigned: Assignment | None,
    made: MadeWith,
    vector: NDArray[np.float64] | None,
    found: Replayed,
) -> None:
    """Everything that the player's assessment says."""
    if made.layout is None or made.serving is None:
        reason = "catalogue_not_kept" if made.layout is None else "rulebook_not_kept"
        found.lacks(reason, "action", "choice.excluded", "choice.role", "seen")
        return
    if vector is None or made.schema is None:
        return
    serving = made.serving
    if _UNREADABLE in record.choice.excluded:
        serving = replace(serving, lawful=False)
    player, asked = recorded_player(record, opened, made.schema, vector), recorded_request(record, opened)
    member = assigned or _recorded_assignment(record, made.layout)
    assessed = assess(player, asked, member, record.at_us, serving)
    _excluded(record, assessed, found)
    _seen(record, opened, assessed, found)
    _chosen(record, asked, assessed, found)
    if made.policy is not None:
        _serves(record, assessed, serving, made.policy, found, split=assigned is not None)
    found.same("versions.packs", record.versions.packs, serving.law.packs(assessed.inputs.places))


def _excluded(record: Record, assessed: Assessment, found: Replayed) -> None:
    """What rules, house and request exclude and put off; limits and experiments as they stand in the record."""
    layout = assessed.space
    recorded = {name: layout.loads(bits) for name, bits in record.choice.excluded.items() if not is_limit(name)}
    again: Mapping[str, Candidates] = assessed.verdict.blocked
    for name in sorted(recorded.keys() | again.keys()):
        if recorded.get(name) != again.get(name):
            was, now = (one.get(name, 0).bit_count() for one in (recorded, again))
            found.differs(f"choice.excluded.{name}", f"{was} actions", f"{now} actions{_moved(was, now)}")
    # Earlier builds recorded what hours put off of contacts, too, that something else excluded.
    held, put_off = record.choice.deferrals, assessed.verdict.deferrals
    every = deferred(put_off, layout)
    if held != every:
        excluded = {name: layout.loads(bits) for name, bits in record.choice.excluded.items()}
        every = deferred(promised(put_off, excluded), layout)
    found.same("choice.deferrals", held, every)


def _moved(was: int, now: int) -> str:
    return ", others" if was == now else ""


def is_limit(reason: str) -> bool:
    """Whether a reason of an exclusion is a limit's, which no record can recompute."""
    kind, divided, _ = reason.partition(":")
    return bool(divided) and kind in limits.KINDS


def _seen(record: Record, opened: Personal, assessed: Assessment, found: Replayed) -> None:
    """What was known of the player."""
    seen, build = record.seen, record.versions.build
    stored = assessed.behaviour.stored
    as_of = None if np.isnan(stored[0]) else int(stored[0])
    found.same("seen.as_of_us", seen.as_of_us, as_of)
    found.same("seen.harm_level", seen.harm_level, assessed.harm.level)
    found.same("seen.harm_sources", seen.harm_sources, assessed.harm.sources)
    found.same("seen.markers", sorted(seen.markers), sorted(assessed.harm.markers))
    if seen.markers.keys() == assessed.harm.markers.keys():
        again = [assessed.harm.markers[name] for name in seen.markers]
        found.near("seen.markers", list(seen.markers.values()), again, build)
    found.same("seen.stage", seen.stage, assessed.stage)
    found.same("seen.assumed", seen.assumed, assessed.facts.assumed)
    trouble = [] if assessed.behaviour.trouble is None else [assessed.behaviour.trouble]
    missing = [_MODEL_MISSING] if record.versions.churn is None else []
    found.same("seen.degraded", seen.degraded, tuple(trouble + missing))
    found.same("seen.churn_score", seen.churn_score is None, assessed.objected)
    if opened.inputs is not None:
        again_inputs = assessed.inputs.in_words(assessed.standing.law.needs(assessed.inputs.places))
        if opened.inputs != again_inputs:
            _inputs(opened.inputs, again_inputs, found)


def _inputs(recorded: Mapping[str, InputRead], again: Mapping[str, InputRead], found: Replayed) -> None:
    """What rules looked at, as it was sealed: texts, in which a list and a tuple are the same."""
    was, now = (msgspec.json.decode(msgspec.json.encode(one)) for one in (recorded, again))
    for name in sorted(was.keys() | now.keys()):
        found.same(f"sealed.inputs.{name}", was.get(name), now.get(name))


def _chosen(record: Record, asked: Asked, assessed: Assessment, found: Replayed) -> None:
    """Role and contact."""
    choice, layout = record.choice, assessed.space
    role = _role(record, assessed)
    if choice.role != role and (role != "drawn" or choice.role not in {"lost", "fallback"}):
        found.differs("choice.role", choice.role, role)
    if choice.place >= layout.catalogue.size:
        found.differs("choice.place", choice.place, f"at most {layout.catalogue.size - 1}")
        return
    again = chosen_contact(choice.place, assessed)
    lost = again is not None and record.action is None and (choice.role == "lost" or role != "drawn")
    if lost or (choice.role == "lost" and record.action is not None):
        again = None
    _contact(record, again, found)
    found.same("activated", record.activated, asked.at_once and record.action is not None)


def _role(record: Record, assessed: Assessment) -> str:
    if not PROMOTIONAL.issuperset(record.purposes):
        return "priority"
    if assessed.objected:
        return "objected"
    return "holdout" if assessed.assignment.held_out else "drawn"


def _serves(
    record: Record, assessed: Assessment, serving: Serving, policy: Policy, found: Replayed, *, split: bool
) -> None:
    """Whether the policy that chose was one that may, and the one that the player's experiments ask for."""
    role, kind = record.choice.role, _KINDS.get(policy.version.partition("-")[0], "learnt")
    if role in {"priority", "objected"}:
        found.same("choice.policy_version", policy.version, "priority")
    elif serving.law.bars(serving.seen_by(policy), assessed.inputs):
        found.differs("choice.policy_version", policy.version, "a law forbids what it chooses by")
    elif split and role != "fallback":
        asked = "learnt" if assessed.assignment.held_out else assessed.assignment.policy
        if kind not in _STAND_INS.get(asked, {kind}):
            found.differs("choice.policy_version", policy.version, asked)


def _contact(record: Record, again: Any, found: Replayed) -> None:  # noqa: ANN401 - a contact or none
    if record.action is None or again is None:
        found.same("action", _told(record.action), _told(again))
        return
    for name in record.action.__struct_fields__:
        found.same(f"action.{name}", getattr(record.action, name), getattr(again, name))


def _told(sent: Any) -> str:  # noqa: ANN401 - a contact or none
    return "NO_CONTACT" if sent is None else f"{sent.offer}/{sent.channel}/{sent.timing_slot}"
