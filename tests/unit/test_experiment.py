"""The split of players: GrowthBook's public vectors, shares, independence, stability."""

from collections import Counter
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models.catalogue.experiment import bucket, fnv1a32, variant
from models.catalogue.offers import Variant

IDS = [f"player-{n}" for n in range(40_000)]
SHARES: dict[Variant, float] = {"holdout": 0.1, "business_rules": 0.45, "policy": 0.45}
NAMES: tuple[Variant, ...] = ("holdout", "business_rules", "policy")


@pytest.mark.parametrize(("text", "value"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)])
def test_the_standard_vectors_of_fnv_1a(text: str, value: int) -> None:
    assert fnv1a32(text) == value


@pytest.mark.parametrize(
    ("seed", "unit", "place"),
    [
        ("seed", "a", 0.0505),
        ("seed", "b", 0.2696),
        ("foo", "ab", 0.2575),
        ("foo", "def", 0.2019),
        ("89123klj", "8952klfjas09ujkasdf", 0.124),
        ("90850943850283058242805", "123", 0.7516),
    ],
)
def test_the_vectors_of_growthbooks_hash_version_2(seed: str, unit: str, place: float) -> None:
    assert bucket(seed, unit) == place


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=20), st.text(max_size=20))
def test_a_place_is_one_of_ten_thousand(seed: str, unit: str) -> None:
    place = bucket(seed, unit)
    assert 0 <= place < 1
    assert place == round(place * 10_000) / 10_000


def test_shares_are_respected_over_forty_thousand_ids() -> None:
    """Chi-square at 0.1 %, and each share within four standard errors."""
    counts = Counter(variant("policy_2026", unit, SHARES) for unit in IDS)
    observed = [counts[name] for name in SHARES]
    expected = [share * len(IDS) for share in SHARES.values()]
    assert stats.chisquare(observed, expected).pvalue > 0.001
    for name, share in SHARES.items():
        assert abs(counts[name] / len(IDS) - share) < 4 * np.sqrt(share * (1 - share) / len(IDS))


def test_buckets_are_even_over_forty_thousand_ids() -> None:
    observed, _ = np.histogram([bucket("policy_2026", unit) for unit in IDS], bins=100, range=(0, 1))
    assert stats.chisquare(observed).pvalue > 0.001


@pytest.mark.parametrize(("one", "other"), [("policy_2026", "policy_2027"), ("a", "b")])
def test_two_experiments_split_independently(one: str, other: str) -> None:
    """Chi-square of the cross table at 0.1 %; GrowthBook's version 1 fails this at 1e-27."""
    table = np.zeros((3, 3))
    for unit in IDS:
        table[NAMES.index(variant(one, unit, SHARES)), NAMES.index(variant(other, unit, SHARES))] += 1
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_variant_never_changes() -> None:
    """As written down when the experiment began; another answer would move players between variants."""
    begun = ["business_rules", "policy", "policy", "business_rules", "policy", "policy"]
    assert [variant("policy_2026", unit, SHARES) for unit in IDS[:6]] == begun


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(any), st.sampled_from(IDS))
def test_shares_lie_end_to_end_half_open_in_their_order(parts: list[int], unit: str) -> None:
    shares = {name: part / sum(parts) for name, part in zip(NAMES, parts, strict=True)}
    place, begin = bucket("key", unit), 0.0
    for name, end in zip(NAMES, accumulate(shares.values()), strict=True):
        if begin <= place < end:
            assert variant("key", unit, shares) == name
        begin = end


def test_a_unit_on_a_border_belongs_to_what_begins_there() -> None:
    place = bucket("seed", "b")
    two: dict[Variant, float] = {"holdout": place, "policy": 1 - place}
    assert variant("seed", "b", two) == "policy"
    assert variant("seed", "b", {"holdout": place + 0.0001, "policy": 0.9999 - place}) == "holdout"


def test_a_share_that_grows_at_its_end_moves_players_only_into_it() -> None:
    for unit in IDS[:2_000]:
        small = variant("key", unit, {"holdout": 0.1, "policy": 0.9})
        large = variant("key", unit, {"holdout": 0.3, "policy": 0.7})
        assert (small, large) in {("holdout", "holdout"), ("policy", "policy"), ("policy", "holdout")}


def test_an_empty_share_gets_nobody_and_a_whole_one_everybody() -> None:
    for unit in IDS[:1_000]:
        assert variant("key", unit, {"holdout": 0.0, "policy": 1.0}) == "policy"
        assert variant("key", unit, {"holdout": 1.0, "policy": 0.0}) == "holdout"


def test_shares_that_end_a_hair_below_one_still_place_everybody() -> None:
    short: dict[Variant, float] = {"holdout": 0.0, "policy": 0.0}
    assert variant("key", "anybody", short) == "policy"
