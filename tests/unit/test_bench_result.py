"""Results of the bench: counts of answers, refusals, peers and ratios as they are printed."""

import io
import json

import pytest
from rich.console import Console

from benchmarks import result
from benchmarks.callers import CallerAnswer
from benchmarks.result import BenchResult, KeptBytes
from benchmarks.sides import Cost, Turn

IDLE = Cost(server=4_000.0, store=6_000.0, store_others=0.0, seconds=2.0)


def answer(action: object = "NO_CONTACT", **more: object) -> CallerAnswer:
    shown = {"action": action, "recorded": True, "propensity": 1.0, "experiment": {"variant": "policy"}}
    return CallerAnswer(200, json.dumps(shown | {"degraded": [], "exclusions": []} | more).encode())


CONTACT = answer({"channel": "email"})


def turns(*costs: float, answers: list[CallerAnswer] | None = None) -> list[Turn]:
    return [Turn(Cost(cost, cost / 2, 1.0, 1.0), 100.0, answers or [CONTACT]) for cost in costs]


def measured(answers: list[CallerAnswer] | None = None, **more: list[Turn]) -> BenchResult:
    return BenchResult(0.5, 20_000, 100, {"decision": IDLE}, {"decision": turns(400, 300, answers=answers)} | more)


@pytest.mark.parametrize(
    ("answered", "kind"),
    [
        (CONTACT, "contact"),
        (CallerAnswer(503, b""), "503"),
        (CallerAnswer(0, b""), "no answer"),
        (answer(recorded=False, degraded=["store_unavailable"]), "NO_CONTACT, not recorded (store_unavailable)"),
        (answer(experiment={"variant": "holdout"}), "NO_CONTACT, holdout"),
        (answer(lost="too dear"), "NO_CONTACT, budget lost"),
        (answer(propensity=0.2), "NO_CONTACT, drawn"),
        (answer(), "NO_CONTACT, nothing else was allowed"),
    ],
)
def test_every_answer_counts_as_what_it_was(answered: CallerAnswer, kind: str) -> None:
    assert result.mix([answered]) == {kind: 1.0}


def test_rules_are_counted_over_what_was_left_alone_outside_the_holdout() -> None:
    rules = [{"rule": "consent"}]
    answers = [CONTACT, answer(exclusions=rules), answer(), answer(exclusions=rules, experiment={"variant": "holdout"})]
    assert result.exclusions(answers) == {"consent": 0.5}


def test_fewer_than_three_contacts_in_ten_answers_are_refused() -> None:
    shown = result.trouble(measured([CONTACT] * 29 + [answer()] * 71))
    assert shown is not None
    assert "29.0%" in shown
    assert result.trouble(measured([CONTACT] * 30 + [answer()] * 70)) is None


def test_answers_that_failed_are_no_contacts() -> None:
    assert result.trouble(measured([CONTACT] * 29 + [CallerAnswer(503, b"")] * 71)) is not None


def test_a_peer_that_is_not_installed_is_null_for_machines_and_named_for_people() -> None:
    shown = result.for_machines(measured(echo=turns(100, 100)))
    assert shown["ratio_to_echo"] == 3.5
    assert shown["ratio_to_feast_serve"] is None
    assert shown["cpu_us"]["off_the_shelf"] is None
    assert "ratio_to_commit" not in shown
    page = io.StringIO()
    result.show(measured(echo=turns(100, 100)), Console(file=page, width=120))
    assert "make install-bench" in page.getvalue()


def test_another_commit_has_a_ratio_with_its_interval() -> None:
    both = {"decision": turns(*[300] * 6), "commit": turns(*[200] * 6)}
    whole = BenchResult(0.5, 9, 9, {"decision": IDLE}, both, {"decision": KeptBytes(9, 443.5, 608.0)})
    assert result.for_machines(whole)["kept_bytes"] == {"decision": {"decisions": 9, "mean": 443.5, "p99": 608.0}}
    shown = result.for_machines(whole)
    assert shown["ratio_to_commit"] == {"estimate": 1.5, "low": 1.5, "high": 1.5}
    assert shown["cpu_us"]["commit"] == 200


def test_what_is_spent_while_nobody_asks_is_taken_off() -> None:
    # In 3 s an idle server spends 6,000 us and its store 9,000; 100 requests bear the rest.
    spent = Cost(server=106_000.0, store=59_000.0, store_others=500.0, seconds=3.0)
    assert spent.less(IDLE, 100) == Cost(server=1_000.0, store=500.0, store_others=5.0, seconds=3.0)
