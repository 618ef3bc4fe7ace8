"""The files of docs/monitoring as data: every expression that dashboard and alerts ask Prometheus"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

FOLDER: Final = Path(__file__).parents[2] / "docs" / "monitoring"


class Expression(NamedTuple):
    """An expression, and where it stands."""

    place: str
    text: str
    legend: str = ""


def alerts() -> list[dict[str, Any]]:
    content = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    content = json.loads((FOLDER / "dashboard.json").read_text("utf8"))
    return [panel for panel in content["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[Expression]:
    for alert in alerts():
        yield Expression(alert["alert"], alert["expr"])
    for panel in panels():
        for target in panel["targets"]:
            yield Expression(f"{panel['title']} {target['refId']}", target["expr"], target["legendFormat"])
