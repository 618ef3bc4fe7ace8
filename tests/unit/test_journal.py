"""The journal of releases: what serves, what a rollback returns to, and entries of the first build."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from models.releases.journal import Release, has_served, previous, serves, was_released


def entry(action: str, version: str, replaced: str | None, at: str = "2020-03-02T00:00:00+00:00") -> Release:
    return Release(
        kind="churn",
        id=f"{action}{version}{replaced}",
        action=action,
        version=version,
        replaced=replaced,
        by="ann",
        reason="a test",
        at=at,
    )


def promoted(versions: list[str], first: str | None = None) -> list[Release]:
    return [entry("promote", to, before) for before, to in zip([first, *versions], versions, strict=False)]


def walked_back(journal: list[Release]) -> list[str]:
    """What serves, then what serves after each of the rollbacks that are possible; they are entered."""
    walked = [serves(journal) or ""]
    while (back := previous(journal)) is not None:
        journal.append(entry("rollback", back, serves(journal)))
        walked.append(back)
        assert serves(journal) == back
    return walked


VERSIONS = st.lists(st.integers(1, 4).map(str), min_size=1, max_size=12)


def test_before_the_first_promotion_nothing_serves_and_nothing_comes_back() -> None:
    assert serves([]) is None
    assert previous([]) is None
    assert not was_released([])


@given(VERSIONS)
def test_rollbacks_walk_back_through_all_promotions_and_then_end(names: list[str]) -> None:
    versions = [one for one, before in zip(names, [None, *names], strict=False) if one != before]
    assert walked_back(promoted(versions)) == versions[::-1]


@given(st.lists(st.integers(1, 99).map(str), min_size=1, max_size=12, unique=True))
def test_what_the_files_served_before_the_first_promotion_comes_back_last(versions: list[str]) -> None:
    assert walked_back(promoted(versions, "files")) == [*versions[::-1], "files"]


@given(st.lists(st.integers(1, 99).map(str), min_size=2, max_size=12, unique=True))
def test_a_version_that_is_promoted_again_replaces_what_served_then(versions: list[str]) -> None:
    journal = promoted(versions)
    journal.append(entry("promote", versions[0], versions[-1]))
    assert previous(journal) == versions[-1]


@given(st.lists(st.tuples(st.sampled_from("pl"), st.integers(0, 99)), min_size=1, max_size=12))
def test_snapshots_that_followed_are_no_change_that_a_rollback_undoes(changes: list[tuple[str, int]]) -> None:
    """It returns to the last that served under the release before, whatever was learnt since."""
    journal: list[Release] = []
    ends: list[str] = []
    for at, (kind, number) in enumerate(changes):
        version = f"{at}-{number}"
        journal.append(entry("promote" if kind == "p" else "learn", version, serves(journal)))
        ends = [*ends, version] if kind == "p" or not ends else [*ends[:-1], version]
    assert walked_back(journal) == ends[::-1]
    assert was_released(journal) == any(kind == "p" for kind, _ in changes)


@given(st.lists(st.integers(1, 99).map(str), min_size=3, max_size=12, unique=True), st.data())
def test_a_rollback_to_a_named_version_goes_on_from_there(versions: list[str], data: st.DataObject) -> None:
    journal = promoted(versions)
    at = data.draw(st.integers(0, len(versions) - 2))
    journal.append(entry("rollback", versions[at], serves(journal)))
    assert walked_back(journal) == versions[at::-1]
    assert has_served(journal, versions[at])
    assert not has_served(journal, "another")


def test_a_way_forward_again_leaves_a_way_back() -> None:
    """What served before the last deliberate change, also where that returned to what an earlier one had left."""
    journal = [entry("promote", version, serves([])) for version in "1"]
    for action, version in (("promote", "2"), ("promote", "3"), ("promote", "4"), ("rollback", "2"), ("rollback", "4")):
        journal.append(entry(action, version, serves(journal)))
    assert previous(journal) == "2"
    journal.append(entry("rollback", "2", "4"))
    assert previous(journal) == "1"


def test_a_rollback_to_a_snapshot_of_no_release_has_nothing_before_it() -> None:
    made = [entry("learn", "1", None), entry("learn", "2", "1"), entry("rollback", "1", "2")]
    journal = [msgspec.structs.replace(one, kind="policy") for one in made]
    assert serves(journal) == "1"
    assert previous(journal) is None
    journal.append(entry("promote", "3", "1"))
    assert previous(journal) == "1"
