"""The journal of promotions: the serving version, and what a rollback restores."""

from hypothesis import given
from hypothesis import strategies as st

from models.releases.promotions import JournalEntry, champion, previous


def entry(action: str, version: str, replaced: str | None) -> JournalEntry:
    return JournalEntry(
        id=f"{action}{version}{replaced}",
        action=action,
        version=version,
        replaced=replaced,
        by="ann",
        at="2020-03-02T00:00:00+00:00",
        evidence={},
    )


def promoted(versions: list[str]) -> list[JournalEntry]:
    return [entry("promote", to, before) for before, to in zip([None, *versions], versions, strict=False)]


def test_before_the_first_promotion_nothing_serves_and_nothing_comes_back() -> None:
    assert champion([]) is None
    assert previous([]) is None


@given(st.lists(st.integers(1, 4).map(str), min_size=1, max_size=12))
def test_rollbacks_walk_back_through_all_promotions_and_then_end(names: list[str]) -> None:
    versions = [one for one, before in zip(names, [None, *names], strict=False) if one != before]
    journal, walked = promoted(versions), [versions[-1]]
    while (back := previous(journal)) is not None:
        journal.append(entry("rollback", back, champion(journal)))
        walked.append(back)
    assert walked == versions[::-1]
    assert champion(journal) == versions[0]


@given(st.lists(st.integers(1, 99).map(str), min_size=2, max_size=12, unique=True))
def test_a_version_that_is_promoted_again_replaces_what_served_then(versions: list[str]) -> None:
    journal = promoted(versions)
    journal.append(entry("promote", versions[0], versions[-1]))
    assert previous(journal) == versions[-1]
