"""Facts of linked ids: the strictest of what came before the link, the latest of what came after."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from service.players import facts, identity
from service.players.facts import Assertion

SETTINGS = settings(max_examples=300, deadline=None, derandomize=True)
FIELDS = {
    "exclusion:*": (("on", 1), ("ended", 0)),
    "consent:main:sms": (("granted", 0), ("withdrawn", 1)),
    "account": (("open", 0), ("closing", 1), ("closed", 2)),
    "objection": (("none", 0), ("objects", 1)),
    "register:rofus": (("clear", 0), ("listed", 1)),
}
LINKED = {"{p001}device": 500, "{p002}tablet": 800}
TELLINGS = st.lists(
    st.builds(
        lambda who, field, at, which: (who, Assertion(field, at, *reversed(FIELDS[field][which % len(FIELDS[field])]))),
        st.sampled_from(["", *LINKED]),
        st.sampled_from(sorted(FIELDS)),
        st.integers(1, 1_000),
        st.integers(0, 5),
    ),
    max_size=16,
)


def store(told: list[tuple[str, Assertion]]) -> dict[bytes, bytes]:
    """The hash that the store makes of what is told: of each register the greatest."""
    held: dict[str, tuple[int, int, str]] = {}
    for who, one in told:
        for kept in identity.under(who, [one]) if who else [one]:
            held[kept.field] = max(held.get(kept.field, (-1, 0, "")), kept[1:])
    return {name.encode(): f"{at} {rank} {text}".encode() for name, (at, rank, text) in held.items()} | {b"v": b"7"}


def registers(raw: dict[bytes, bytes]) -> dict[str, tuple[int, int, str]]:
    merged = identity.together(raw)
    return {one.field: one[1:] for one in facts.registers(merged)}


def link(linked: str, at_us: int) -> Assertion:
    """What the store writes when a player takes an id in."""
    return Assertion(f"{identity.LINK}{linked}", at_us, 0, "linked")


ALL_LINKS = [("", link(linked, at)) for linked, at in LINKED.items()]


@SETTINGS
@given(TELLINGS, st.randoms(use_true_random=False))
def test_order_does_not_matter(told: list[tuple[str, Assertion]], chance: random.Random) -> None:
    everything = [*told, *ALL_LINKS]
    shuffled = chance.sample(everything, len(everything))
    assert identity.together(store(everything)) == identity.together(store(shuffled))


@SETTINGS
@given(TELLINGS)
def test_before_a_link_the_strictest_holds_and_after_it_the_latest(told: list[tuple[str, Assertion]]) -> None:
    found = registers(store([*told, *ALL_LINKS[:1]]))
    (device, linked_us) = next(iter(LINKED.items()))
    for field in FIELDS:
        each = [
            max((one[1:] for who, one in told if who == name and one.field == field), default=None)
            for name in ("", device)
        ]
        held = [one for one in each if one is not None]
        if not held:
            continue
        after = [one for one in held if one[0] >= linked_us]
        wanted = max(after) if after else max(held, key=lambda one: (one[1], one[0]))
        if "{p002}tablet" not in {who for who, one in told if one.field == field}:
            assert found[field] == wanted


@SETTINGS
@given(TELLINGS)
def test_of_what_was_told_before_the_links_nothing_strict_gets_lost(told: list[tuple[str, Assertion]]) -> None:
    before = [(who, one) for who, one in told if one.moment_us < min(LINKED.values())]
    found = registers(store([*before, *ALL_LINKS]))
    for who in ("", *LINKED):
        for field in FIELDS:
            alone = [one[1:] for name, one in before if (name, one.field) == (who, field)]
            if alone:
                assert found[field][1] >= max(alone)[1]


@SETTINGS
@given(TELLINGS)
def test_who_has_one_id_is_read_as_ever(told: list[tuple[str, Assertion]]) -> None:
    raw = store([(who, one) for who, one in told if not who])
    assert identity.together(raw) is raw


@SETTINGS
@given(TELLINGS)
def test_a_player_who_is_linked_further_brings_what_stands_of_all_linked_ids(told: list[tuple[str, Assertion]]) -> None:
    raw = store([*told, *ALL_LINKS]) | {b"name": b"sealed", b"to": b"{p003}other pending x"}
    moved = identity.adopted_facts("{p000}player", raw, "{p003}other")
    ids = identity.adopted_ids("{p000}player", raw, "{p003}other")
    assert ids == ["{p000}player", *sorted(LINKED)]
    again = registers(store([("", one) for one in moved] + [("", link(one, 2_000)) for one in ids]))
    assert {name: one for name, one in again.items() if not name.startswith("link:")} == {
        name: one for name, one in registers(raw).items() if not name.startswith("link:")
    }


@SETTINGS
@given(TELLINGS)
def test_what_an_id_was_told_of_its_owner_comes_home(told: list[tuple[str, Assertion]]) -> None:
    """Two ids were linked to each other at once, and the one that had been taken in turned out the player."""
    tablet = "{p002}tablet"
    moved = identity.adopted_facts("{p000}player", store([*told, *ALL_LINKS]), tablet)
    own = {one.field: one[1:] for one in moved if not one.field.startswith("~")}
    assert own == registers(store([("", one) for who, one in told if who == tablet]))
    assert not [one for one in moved if one.field.startswith((f"~{tablet}", "link:"))]


def test_a_player_told_to_live_in_two_places_is_bound_by_both() -> None:
    told = [("", Assertion("jurisdiction", 10, 0, "MT")), ("{p001}device", Assertion("jurisdiction", 20, 0, "NL"))]
    known = facts.read(identity.together(store([*told, *ALL_LINKS])), "main")
    assert set(known.elsewhere) == {"MT", "NL"}
    later = facts.read(
        identity.together(store([*told, *ALL_LINKS, ("", Assertion("jurisdiction", 900, 0, "ES"))])), "main"
    )
    assert (later.jurisdiction, later.elsewhere) == ("ES", ())


def test_of_two_birth_dates_the_younger_and_of_two_breaks_the_longer_holds() -> None:
    for field in ("birth_date", "time_out:main", "opened"):
        told = [("", Assertion(field, 10, 0, "10")), ("{p001}device", Assertion(field, 20, 0, "20"))]
        assert registers(store([*told, *ALL_LINKS]))[field] == (20, 0, "20")
