"""docs/lake.md from the columns of the lake."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa
from support.settings_page import table

from pipelines.worker.lake import SCHEMAS

PAGE = Path(__file__).parents[2] / "docs" / "lake.md"
KNOWN: Final = {
    "known_at": "when the store took it, by the house's clock",
    "position": "its place in the log, `p017:1583107200000-0`",
}
PLACED: Final = {
    "time_zone": "zone of the player at that moment",
    "timing_slot": "slot of the player's local time",
    "night": "whether it was night there",
}
MEANINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "events": {
        "player": "player key, a pseudonym: never a caller's id",
        "event_id": "the caller's; unique per player, and an event counts once",
        "type": "[the kind of event](events.md)",
        "occurred_at": "when it happened",
        "brand": "brand of the house",
        "amount_minor": "money, minor units of the house's currency",
        "currency": "in which it was told, where that is another",
        "said_minor": "the amount as it was told, minor units of that currency",
        "rate": "the rate by which it was exchanged",
        "rate_source": "version of the rulebook that the rate is of",
        "counts_at": "the moment for which its money counts, where that is another: of a bet that was cancelled, say",
        "status": "`approved` or `declined` of a deposit; the change of a limit",
        "method": "way of payment",
        "target": "`account` or `wallet` of a deposit",
        "product": "casino, sports, ...",
        "channel": "of a consent",
        "detail": "all other fields, as JSON",
        "sealed": "personal fields, sealed under the player's key",
        **PLACED,
        **KNOWN,
    },
    "outcomes": {
        "player": "player key",
        "outcome_id": "the caller's; `confirmed` has the decision's id",
        "decision_id": "the decision; empty for one that names a player",
        "type": "[the outcome](decide.md#outcomes), or `confirmed`",
        "occurred_at": "when it happened",
        "brand": "brand of the contact",
        "channel": "channel of the contact",
        "offer": "offer of the contact",
        **PLACED,
        **KNOWN,
    },
    "decisions": {
        "player": "player key",
        "decision_id": "as it was answered",
        "at": "when it was decided, by the house's clock",
        "brand": "brand that asked",
        "decision_point": "where in the caller's flow",
        "experiment": "key of the first experiment",
        "variant": "the player's variant in it",
        "role": "`drawn`, `lost`, `holdout`, `objected`, `priority` or `fallback`",
        "policy_version": "what gave the probabilities",
        "offer": "what was chosen; null for no contact, as are the next six",
        "channel": "its channel",
        "timing_slot": "its slot",
        "purpose": "purpose of the offer",
        "send_at": "when it is to be sent",
        "valid_until": "end of the lease",
        "activated": "whether it was confirmed at once",
        "propensity": "probability with which it was drawn",
        "u": "the uniform number of the draw, in [0, 1)",
        "place": "place of the action among the catalogue's candidates; 0 is no contact",
        "eligible": "how many candidates were left",
        "churn_score": "P(no approved deposit within the horizon)",
        "churn_version": "model of the score",
        "harm_level": "`none`, `low`, `moderate` or `strong`",
        "stage": "stage of the player's life with the house",
        "catalogue_version": "hash of the catalogue",
        "rules_version": "hash of the rulebook",
        "record": "the whole record, which replays it; for machines",
        "chain": "SHA-256 of the link before it and the record",
        **KNOWN,
        "experiments": "every experiment that the player was in",
        "global_holdout": "whether the global holdout kept marketing from the player",
        "use": "`train`, `eval`, `explore` or `control`",
        "journey": "the step of a journey that asked",
        "experiments_version": "hash of the release of experiments",
    },
}
NEEDED: Final = {
    "events": {"player", "event_id", "type", "occurred_at"},
    "outcomes": {"player", "decision_id", "type", "occurred_at"},
    "decisions": {"player", "decision_id", "at", "experiment", "variant", "role"},
}
"""Columns without which files of somebody else's give no report."""
TEXT = """\
# The lake

All that was told and decided, as Parquet files that anything can read. This page is made from the code by `make map`.

```text
var/lake/events/day=2026-11-29/1583107200000-1583107215000.parquet
```

- A folder each for `events`, `decisions` and `outcomes`; `day=` is the day on which it became known, UTC, by the
  house's clock.
- `lake.keep_days` of [mlflow.yaml](settings.md) says after how many days whole days of a table are deleted; null, its
  default, keeps them for good. `_anchor.json` then holds the chains' last links of what was deleted, from which
  `croupier verify` goes on.
- A file is complete when it has its name. No row is ever changed; only a backup's restore and an erasure's
  destroyed key alter what can be read of it.
- A day that is over becomes one file a table, an hour after midnight: the same rows in the order of the log, named
  by the first and last boundary of what it took in. The files before are removed at once, or when whoever of
  Croupier reads them has ended. A file whose range lies within another's of its folder holds nothing more and is
  to be passed over: where both are there, `position` is in both.
- Money is in minor units, moments are in UTC, `player` is a key made of the player's id and the house's secret.
- Files of earlier builds lack later columns: read them by name (`union_by_name` of DuckDB).
- `_schemas` holds the names of the features of records, `_position.json` how far the lake reaches and the heads of
  its chains.

For the reports of Croupier, files of somebody else's need the columns marked * only; what else is missing counts as
null. Moments need a zone.

"""


def rows(name: str, schema: pa.Schema) -> Iterator[list[str]]:
    assert MEANINGS[name].keys() == set(schema.names), f"columns of {name}"
    for field in schema:
        mark = " *" if field.name in NEEDED[name] else ""
        yield [f"`{field.name}`{mark}", kind(field.type), MEANINGS[name][field.name]]


def kind(given: pa.DataType) -> str:
    """A type in words."""
    if pa.types.is_timestamp(given):
        return "moment"
    if pa.types.is_list(given):
        return f"list of {kind(given.value_type)}"
    if pa.types.is_struct(given):
        return f"({', '.join(field.name for field in given)})"
    return str(given)


def page() -> str:
    """The page as the code has it."""
    parts = [f"## {name}\n\n{table('column|type|meaning', rows(name, schema))}" for name, schema in SCHEMAS.items()]
    return TEXT + "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf8")
