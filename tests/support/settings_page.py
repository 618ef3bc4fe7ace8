"""docs/settings.md from the declarations of `features.settings`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from features.settings.environment import OF_TESTS, VARIABLES
from features.settings.listing import declared
from features.settings.mlflow_file import shipped

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
TEXT = """\
# Settings

This page is made from `features/settings/` by `make map`; a test holds the two together. `croupier settings` shows
what a house is set to and where that comes from, secrets masked.

## Variables

Read when a process starts. What looks like one of ours and is none is warned of by `up`, `serve`, `worker`, `learn` and
`croupier doctor`, never refused; names that an orchestrator sets for services, such as `CROUPIER_SERVICE_HOST` or
`CROUPIER_PORT_8000_TCP`, are passed over. Secrets of webhooks stand in variables that the file of the webhooks names.

{variables}
Croupier's own tests read these:

{tests}
## mlflow.yaml

The file that comes with Croupier says what stands below. `CROUPIER_HOME/mlflow.yaml`, if there is one, wins section by
section: a section that it has takes the place of the shipped one, whole; sections that it lacks are as shipped. So
`schedules: {{}}` switches retraining off, and `gates` that change one number name the others too. A key that nothing
reads is refused with file, line and the nearest known one. Worker, learner and commands read the file when they start,
each in its own home; the API reads none of it.

{sections}"""


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    names = head.split("|")
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def of_variables() -> Iterator[list[str]]:
    for one in VARIABLES:
        default = f"`{one.default}`" if one.default not in (None, (), False) else ""
        yield [f"`{one.name}`", one.kind, default, one.meaning]


def of_sections() -> Iterator[list[str]]:
    values = shipped()
    for one in declared():
        yield [f"`{'.'.join(one.path)}`", one.kind, f"`{one.of(values)}`", one.meaning]


def page() -> str:
    """The page as the code has it."""
    return TEXT.format(
        variables=table("name|type|default|meaning", of_variables()),
        tests=table("name|meaning", ([f"`{name}`", meaning] for name, meaning in OF_TESTS.items())),
        sections=table("key|type|shipped|meaning", of_sections()),
    )


if __name__ == "__main__":
    PAGE.write_text(page(), "utf8")
