"""Columns of a data set of decisions: type, unit, when each is known, what it means. The page is made from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, get_args

import pyarrow as pa

from features.schema import VECTOR, Use
from models.catalogue.limits import Response
from models.policy.context import READINGS

MOMENT: Final = pa.timestamp("us", tz="UTC")
_TEXT, _NUMBER, _FLAG = pa.string(), pa.float64(), pa.bool_()
RESPONSES: Final = ("confirmed", *get_args(Response))
"""Types of outcomes, each with a column of its own: when it first occurred."""
AT: Final = "at"
"""What is known when the decision was made, so what a model may be given that decides."""
OUTCOME: Final = "known_at"
"""What is known when the outcome is: `known_at` of the same type in `outcomes`."""
END: Final = "end"
"""What is known when the window is over, `reward_ends_at`."""


class Column(NamedTuple):
    """A column: its unit (empty for words and flags), when it is known (AT, OUTCOME or END), and what it means."""

    name: str
    type: pa.DataType
    unit: str
    known: str
    meaning: str


CANDIDATE: Final = pa.struct(
    [
        ("place", pa.int32()),
        *((name, _TEXT) for name in ("offer", "channel", "timing_slot")),
        *(("pmf", _NUMBER), ("score", _NUMBER)),
    ]
)
MEMBERSHIP: Final = pa.struct(
    [("key", _TEXT), ("version", _TEXT), ("phase", pa.int32()), ("variant", _TEXT), ("bucket", _NUMBER)]
)
JOURNEY: Final = pa.struct([("id", _TEXT), ("instance", _TEXT), ("node", _TEXT), ("visit", pa.int32())])
OBSERVED: Final = pa.struct([("type", _TEXT), ("occurred_at", MOMENT), ("known_at", MOMENT)])
PART: Final = pa.struct(
    [
        *(("table", _TEXT), ("position", _TEXT), ("type", _TEXT), ("occurred_at", MOMENT), ("known_at", MOMENT)),
        *(("worth_minor", _NUMBER), ("penalty", _TEXT), ("penalty_minor", _NUMBER)),
    ]
)

_DECISION: Final = (
    Column("decision_id", _TEXT, "", AT, "Names the decision, here and in the lake."),
    Column("player", _TEXT, "", AT, "Key of the player: a pseudonym; ids of callers are in no data set."),
    Column("brand", _TEXT, "", AT, "Brand that asked."),
    Column("decision_point", _TEXT, "", AT, "What the caller called the occasion."),
    Column("purposes", pa.list_(_TEXT), "", AT, "Purposes that were asked for."),
    Column("at", MOMENT, "UTC", AT, "Moment of the decision, by the house's clock."),
    Column("known_at", MOMENT, "UTC", AT, "When it was committed, by the same clock."),
    Column("sandbox", _FLAG, "", AT, "Whether the house was a sandbox."),
)
_ASSIGNMENT: Final = (
    Column("experiments", pa.list_(MEMBERSHIP), "bucket in [0, 1)", AT, "Every experiment that the player was in."),
    Column("use", _TEXT, "", AT, "What it served for: `train`, `eval`, `explore` or `control`."),
    Column("global_holdout", _FLAG, "", AT, "Whether the global holdout kept marketing from the player."),
    Column("journey", JOURNEY, "", AT, "The step of a journey that asked."),
    Column("role", _TEXT, "", AT, "`drawn`, `lost`, `holdout`, `objected`, `priority` or `fallback`."),
    Column(
        "learnt", _FLAG, "", AT, "Whether the learner learns from it: false for `eval`, and for what was not drawn."
    ),
)
_SEEN: Final = (
    Column("churn_score", _NUMBER, "probability", AT, "P(no approved deposit within the horizon); null: none allowed."),
    Column("harm_level", _TEXT, "", AT, "`none`, `low`, `moderate` or `strong`; for rules, no model may see it."),
    Column("stage", _TEXT, "", AT, "Stage of the player's life with the house."),
    Column("features_as_of", MOMENT, "UTC", AT, "The player's last activity among the features; null: none yet."),
    Column("features_age_seconds", _NUMBER, "seconds", AT, "How far the features lagged behind the log."),
    Column("degraded", pa.list_(_TEXT), "", AT, "What was missing or stale, such as `features_unavailable`."),
)
_ACTION: Final = (
    Column(
        "candidates",
        pa.list_(CANDIDATE),
        "pmf: probability; score: of the policy",
        AT,
        "What was eligible, in order of place: 0 is no contact. Names are null where the decision's catalogue was not"
        " given; scores are null where the policy kept none.",
    ),
    Column("place", pa.int32(), "", AT, "Place of the action among the catalogue's candidates."),
    Column("offer", _TEXT, "", AT, "The action's offer; null for no contact, as are the next six."),
    Column("channel", _TEXT, "", AT, "The action's channel."),
    Column("timing_slot", _TEXT, "", AT, "The action's window of the player's local time."),
    Column("purpose", _TEXT, "", AT, "Purpose of the offer."),
    Column("send_at", MOMENT, "UTC", AT, "When it was to be sent."),
    Column("valid_until", MOMENT, "UTC", AT, "When the lease ran out."),
    Column("activated", _FLAG, "", AT, "Whether it was confirmed at once."),
    Column("propensity", _NUMBER, "probability", AT, "Probability with which the place was drawn: the logging one."),
    Column("u", _NUMBER, "in [0, 1)", AT, "The uniform number of the draw."),
)
_VERSIONS: Final = (
    Column("policy_version", _TEXT, "", AT, "What gave the pmf."),
    Column("catalogue_version", _TEXT, "", AT, "Hash of the catalogue."),
    Column("rules_version", _TEXT, "", AT, "Hash of the rulebook."),
    Column("churn_version", _TEXT, "", AT, "The churn model; null: the schema's default score."),
    Column("experiments_version", _TEXT, "", AT, "Hash of what split the players; null in records of the first build."),
    Column("schema_version", _TEXT, "", AT, "Hash of the features' schema."),
    Column("build", _TEXT, "", AT, "What scores are reproduced on bit for bit."),
)
_REWARD: Final = (
    Column("reward_minor", _NUMBER, "minor units", END, "Worth less cost less penalty; null: see `reward_missing`."),
    Column(
        "reward_missing",
        _TEXT,
        "",
        END,
        "Why there is no reward: `window_open` (the lake ends before the window), `not_confirmed_yet` (the lease runs),"
        " `not_confirmed` (the contact was never sent, so nothing counts for it), `unpriced` (no cost is known).",
    ),
    Column("worth_minor", _NUMBER, "minor units", END, "Worth of the player's own events in the window."),
    Column("cost_minor", _NUMBER, "minor units", END, "The channel's cost, and the offer's if money moved."),
    Column("penalty_minor", _NUMBER, "minor units", END, "Penalties of the contact, each kind once."),
    Column("converted", _FLAG, "", END, "Whether the player's own money moved in the window."),
    Column("reward_begins_at", MOMENT, "UTC", OUTCOME, "The window begins: the decision, or the confirmed contact."),
    Column("reward_ends_at", MOMENT, "UTC", OUTCOME, "The window ends."),
    Column(
        "priced_by", _TEXT, "", END, "Hash of the catalogue whose costs were taken: the decision's if it was given."
    ),
    Column(
        "reward_events",
        pa.list_(PART),
        "minor units",
        OUTCOME,
        "What the reward is made of, in the order in which it became known: `table` and `position` are its place in"
        " the lake, `occurred_at` lies in the window. An open window has what came until the lake's end.",
    ),
)
_OUTCOMES: Final = (
    *(Column(f"{one}_at", MOMENT, "UTC", OUTCOME, f"When the contact was first `{one}`.") for one in RESPONSES),
    Column("outcomes", pa.list_(OBSERVED), "UTC", OUTCOME, "All outcomes of the contact, as they became known."),
)
_OF_POLICY: Final = {name.partition("=")[0] for name in READINGS}


def _features() -> Iterator[Column]:
    for reading in VECTOR:
        seen = "models, and the policy among them" if reading.name in _OF_POLICY else "models"
        for_whom = "rules alone" if reading.use is Use.MASK else seen
        kind = _TEXT if reading.unit == "product" else _NUMBER
        yield Column(reading.name, kind, "" if kind == _TEXT else reading.unit, AT, f"For {for_whom}.")


FEATURES: Final = tuple(_features())
"""Features as the decision saw them, brought forward to its moment; null: never happened, or not recorded then."""
GROUPS: Final = {
    "Decision": _DECISION,
    "Assignment": _ASSIGNMENT,
    "What was seen": _SEEN,
    "Candidates and action": _ACTION,
    "Versions": _VERSIONS,
    "Reward": _REWARD,
    "Outcomes": _OUTCOMES,
    "Features": FEATURES,
}
COLUMNS: Final = tuple(column for group in GROUPS.values() for column in group)
SCHEMA: Final = pa.schema(
    [
        pa.field(one.name, one.type, metadata={"unit": one.unit, "known": one.known, "meaning": one.meaning})
        for one in COLUMNS
    ]
)
"""Schema of a data set; unit, `known` and meaning of a column are in its metadata, in Parquet files too."""
