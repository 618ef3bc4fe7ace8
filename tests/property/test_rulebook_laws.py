"""The compiled rulebook against the plain interpreter on random rulebooks, and laws that all must obey."""

import os
from random import Random
from typing import Any, get_args

import pytest
from msgspec.structs import replace
from support import random_rules
from support.interpreter import Reading

from features.moments import MINUTE_US
from models.catalogue.candidates import CandidateSpace
from models.catalogue.offers import Purpose
from service.decisions.eligibility import Asked, Standing, evaluate
from service.rules.compiler import CompiledRulebook, Verdict
from service.rules.inputs import Inputs

PLAYERS = 50
BOOKS = int(os.environ.get("CROUPIER_BOOKS", "125"))
SEEDS = range(8 if BOOKS >= 125 else 1)
"""8 x 125 x 50 = 50,000 cases of each law; mutation runs take fewer, `make rules` eight times as many."""


def allowed(law: CompiledRulebook, verdict: Verdict) -> int:
    left = law.layout.everything
    for bits in verdict.blocked.values():
        left &= ~bits
    return left


def judged(law: CompiledRulebook, player: Inputs) -> Verdict:
    """The mask of a player who may be sent anything that rules allow."""
    asked = Asked(purposes=frozenset(get_args(Purpose)))
    return evaluate(
        Standing(
            law=law,
            inputs=player,
            known=True,
            windows=random_rules.windows(player),
            stage="active",
            features=None,
            withheld={},
            asked=asked,
        )
    )


def places_of(law: CompiledRulebook, bits: int) -> set[int]:
    return {place for place in range(1, law.layout.catalogue.size) if bits & law.layout.bit(place)}


@pytest.mark.parametrize("seed", SEEDS)
def test_losing_an_input_or_more_harm_or_one_more_rule_never_allows_more(seed: int) -> None:
    chance = Random(f"laws {seed}")
    for number in range(BOOKS):
        rules = [random_rules.rule(chance, at) for at in range(6)]
        layout = CandidateSpace(random_rules.catalogue(chance))
        law, stricter = (
            CompiledRulebook(random_rules.book(chance, rules[:5]), layout),
            CompiledRulebook(random_rules.book(chance, rules), layout),
        )
        # Dates of packs are read in one zone, so that the two differ by the rule alone.
        law = CompiledRulebook(stricter.book.model_copy(update={"packs": (_less(stricter),)}), layout)
        for case in range(PLAYERS):
            player = random_rules.player(chance)
            before = allowed(law, judged(law, player))
            lost = chance.choice(random_rules.REMOVABLE)
            after = allowed(law, judged(law, random_rules.without(player, lost)))
            assert not after & ~before, (seed, number, case, lost)
            if player.harm is not None and player.harm < 3:
                harmed = random_rules.without(player, "harm")
                harmed.harm = player.harm + 1
                assert not allowed(law, judged(law, harmed)) & ~before, (seed, number, case, "harm")
            assert not allowed(stricter, judged(stricter, player)) & ~before, (seed, number, case, "rule")


def _less(law: CompiledRulebook) -> Any:
    pack = law.book.packs[0]
    return pack.model_copy(update={"rules": pack.rules[:-1]})


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_compiled_says_what_the_rules_say(seed: int) -> None:
    chance = Random(f"compiled {seed}")
    for number in range(BOOKS):
        kinds = [random_rules.TYPES[(number + at) % len(random_rules.TYPES)] for at in range(3)]
        rules = [random_rules.rule(chance, at, kind) for at, kind in enumerate(kinds)]
        layout = CandidateSpace(random_rules.catalogue(chance, 2))
        law = CompiledRulebook(random_rules.book(chance, rules), layout)
        for case in range(PLAYERS):
            player = random_rules.player(chance)
            fixed = chance.random() < 0.2
            windows = random_rules.windows(player)
            verdict = law.judge(player, windows, fixed=fixed)
            wanted, moments = Reading(law.book, layout.catalogue, player).blocked(windows, fixed=fixed)
            found = {reason: places_of(law, bits) for reason, bits in verdict.blocked.items()}
            assert found == wanted, (seed, number, case, [rule.type for rule in rules])
            sent = {place: at for at, bits in verdict.moments for place in places_of(law, bits)}
            assert sent == moments, (seed, number, case)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_found_in_a_minute_is_what_would_be_found_at_every_moment_of_it(seed: int) -> None:
    chance = Random(f"minutes {seed}")
    for number in range(max(1, BOOKS // 5)):
        rules = [random_rules.rule(chance, at, "time_window") for at in range(3)]
        layout, book = CandidateSpace(random_rules.catalogue(chance, 2)), random_rules.book(chance, rules)
        early, late = CompiledRulebook(book, layout), CompiledRulebook(book, layout)
        for case in range(PLAYERS):
            player, fixed = random_rules.player(chance), chance.random() < 0.2
            minute = player.now_us - player.now_us % MINUTE_US
            moments = [minute, minute + chance.randrange(MINUTE_US), minute + MINUTE_US - 1]
            # The first moment of each order is worked out, and the others are told by what was found then.
            found = [
                {at: said(law, replace(player, now_us=at), fixed=fixed) for at in order}
                for law, order in ((early, moments), (late, moments[::-1]))
            ]
            assert found[0] == found[1], (seed, number, case)


def said(law: CompiledRulebook, player: Inputs, *, fixed: bool) -> tuple[Any, ...]:
    verdict = law.judge(player, random_rules.windows(player), fixed=fixed)
    return verdict.blocked, list(verdict.moments), list(verdict.deferrals)
