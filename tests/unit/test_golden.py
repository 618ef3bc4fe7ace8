"""Golden cases: each rule allows on one side of its boundary and denies on the other. The cases are data."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.rule_cases import BOOK, GOLDEN, ruled

FILES = sorted(file for file in GOLDEN.glob("*.yaml") if file.name != "base.yaml")
CASES = [
    pytest.param(case, id=f"{file.stem}-{case['rule']}-{number}")
    for file in FILES
    for number, case in enumerate(yaml.safe_load(file.read_text("utf8"))["cases"])
]
RULES = {rule.id: pack.pack for pack in BOOK.packs for rule in pack.rules}


@pytest.mark.parametrize("case", CASES)
def test_a_rule_allows_on_one_side_of_its_boundary_and_denies_on_the_other(case: dict[str, Any]) -> None:
    assert case["rule"] in RULES, "no pack holds this rule"
    allowed = ruled(case, "allow")[0] - set(case.get("aside", []))
    assert not allowed, f"the allowed side is denied by {sorted(allowed)}"
    denied, _ = ruled(case, "deny")
    assert case["rule"] in denied, f"the denied side is denied by {sorted(denied)} only"
    assert set(case.get("told", [])) <= denied


@pytest.mark.parametrize("pack", sorted({*RULES.values()}))
def test_every_rule_of_a_pack_has_its_case(pack: str) -> None:
    file = Path(GOLDEN / f"{pack}.yaml")
    told = {case["rule"] for case in yaml.safe_load(file.read_text("utf8"))["cases"]}
    assert {rule for rule, home in RULES.items() if home == pack} <= told
