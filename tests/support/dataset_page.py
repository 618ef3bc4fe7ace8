"""docs/dataset.md from the columns of `pipelines.datasets`."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from support.settings_page import table

from pipelines.datasets.columns import AT, END, FEATURES, GROUPS, OUTCOME, Column
from pipelines.datasets.decisions import PER_FILE
from pipelines.datasets.log import MEMORY_MB

PAGE = Path(__file__).parents[2] / "docs" / "dataset.md"
KNOWN = {AT: "at the decision", OUTCOME: "with each outcome", END: "when the window is over"}
TEXT = """\
# Data sets of decisions

`croupier dataset` writes one row for each logged decision: what the decision saw, what it could choose from, what it
did with which probability, what became of that, and what it was worth to the house. This page is made from
`pipelines/datasets/columns.py` by `make map`; a test holds the two together. Unit, `known` and meaning of a column
are in the metadata of the Parquet files too.

```sh
croupier dataset --since 30d --out decisions.parquet
croupier dataset --since 2026-10-01 --until 2026-11-01 --window-days 7 --out october/ --json
```

The same in Python, as a pyarrow table in memory:

```python
from pipelines.datasets.decisions import dataset

rows = dataset("var/lake", since="30d")
print(rows.to_pandas().groupby("offer", dropna=False)["reward_minor"].agg(["size", "mean"]))
```

## How to read it
- **Nothing was known too early.** What is known `at the decision` is what its record holds: features are never
  computed again, only brought forward to the decision's moment, as the decision did. Features of records of another
  build are found by name; one that was not recorded then, or never happened, is null. What is known later says when:
  cut by `known_at` of `outcomes` and `reward_events`.
- **The reward is the learner's**, of the same attribution ([decision 7](decisions/0007-reward.md)), less what the
  contact cost: worth of the player's own events after the decision (a contact: after it was confirmed) and within the
  window, less the channel's cost, less the offer's if money moved, less penalties. Where a window is not over by the
  lake's last entry, the reward is null, and `reward_missing` says so. Leaving alone has a reward too; the policy
  learns the difference to it.
- **Costs and names of candidates** come from catalogues: `--catalogue FILE`, several if several served; by default
  the file in force. A decision made under none of them has candidates by `place` alone, and is priced by the last
  one, by ids: `priced_by` says which.
- **Every decision is there**, those that the learner leaves out as well: `learnt` tells them apart. For off-policy
  evaluation take `role = 'drawn'`, and weigh by `propensity`, or by `pmf` of the `candidates`.
- **No caller's id and no personal field** is in it: `player` is the player key.
- Rows come in the lake's order. A folder gets files of {per_file:,} rows. Records are streamed; DuckDB sorts on disk
  beyond {memory:,} MB, within which what is known of each decision must find room (some hundred bytes): a span that
  needs more is refused, and is to be asked for in parts, which have the same rows.

## Columns
{groups}"""
LEAD = {
    "Features": "As the decision saw them, known at the decision. Sums and counts fade: `..._7d` has half of its weight"
    " after 7 days. What is for rules alone may explain a decision; a model must not be given it.\n\n"
}


def kind(type_: pa.DataType) -> str:
    """A type as people write it."""
    if pa.types.is_list(type_):
        return f"list of {kind(type_.value_type)}"
    if pa.types.is_struct(type_):
        return f"({', '.join(f'{one.name} {kind(one.type)}' for one in type_)})"
    return "moment" if pa.types.is_timestamp(type_) else str(type_)


def of(columns: tuple[Column, ...]) -> str:
    rows = ([f"`{one.name}`", kind(one.type), one.unit, KNOWN[one.known], one.meaning] for one in columns)
    return table("column|type|unit|known|meaning", rows)


def of_features() -> str:
    return table("column|type|unit|meaning", ([f"`{o.name}`", kind(o.type), o.unit, o.meaning] for o in FEATURES))


def groups() -> Iterator[str]:
    for name, columns in GROUPS.items():
        yield f"\n### {name}\n\n{LEAD.get(name, '')}{of_features() if columns is FEATURES else of(columns)}"


def page() -> str:
    """The page as the code has it."""
    return TEXT.format(groups="".join(groups()), per_file=PER_FILE, memory=MEMORY_MB)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf8")
