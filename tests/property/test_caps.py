"""Caps against brute force: no window of a cap's length holds more contacts than it allows."""

import random
from pathlib import Path
from typing import Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.schema import CHANNELS
from models.catalogue.candidates import Candidates, CandidateSpace
from models.catalogue.limits import Cap
from models.catalogue.offers import PROMOTIONAL, SLOTS, Catalogue, Offer, Window, load_catalogue
from service.contacts.entries import Reservation
from service.contacts.limits import Held, LimitQuery, evaluate, fits, outdated

SETTINGS = settings(max_examples=100, deadline=None, derandomize=True)
HOUSE = load_catalogue(Path(__file__).parents[2] / "service" / "catalogue.yaml")
HOUR = 3_600_000_000
NOW = 500 * HOUR
TIMES = st.lists(st.integers(0, 30), max_size=12)
PURPOSES = ("marketing", "bonus", "service", "rg_intervention", "regulatory")


def within(moments: list[int], begin: int, length: int) -> int:
    return sum(begin <= one < begin + length for one in moments)


def has_room(taken: list[int], send: int, contacts: int, window: int) -> bool:
    """By trying every half-open window that contains the moment of sending."""
    return all(within([*taken, send], begin, window) <= contacts for begin in range(send - window + 1, send + 1))


@settings(SETTINGS, max_examples=600)
@given(TIMES, st.integers(-5, 35), st.integers(0, 5), st.integers(1, 15))
def test_a_contact_fits_if_and_only_if_every_window_around_it_has_room(
    taken: list[int], send: int, contacts: int, window: int
) -> None:
    assert fits(sorted(taken), send, contacts, window) == has_room(taken, send, contacts, window)


@SETTINGS
@given(TIMES, st.integers(1, 4), st.integers(1, 15))
def test_whatever_order_contacts_are_asked_for_no_window_overflows(
    asked: list[int], contacts: int, window: int
) -> None:
    taken: list[int] = []
    for send in asked:
        if fits(sorted(taken), send, contacts, window):
            taken.append(send)
    assert all(within(taken, begin, window) <= contacts for begin in range(-window, 31))
    refused = list(asked)
    for one in taken:
        refused.remove(one)
    assert not any(fits(sorted(taken), send, contacts, window) for send in refused)


@SETTINGS
@given(TIMES, st.integers(-5, 35), st.integers(0, 5), st.integers(1, 15), st.integers(-(10**6), 10**6))
def test_only_distances_matter(taken: list[int], send: int, contacts: int, window: int, shift: int) -> None:
    later = [one + shift for one in sorted(taken)]
    mirrored = sorted(-one for one in taken)
    answer = fits(sorted(taken), send, contacts, window)
    assert fits(later, send + shift, contacts, window) == answer
    assert fits(mirrored, -send, contacts, window) == answer


@SETTINGS
@given(TIMES, st.integers(-5, 35), st.integers(0, 5), st.integers(1, 15), st.data())
def test_fewer_contacts_a_larger_cap_or_a_shorter_window_never_take_room(
    taken: list[int], send: int, contacts: int, window: int, data: st.DataObject
) -> None:
    if fits(sorted(taken), send, contacts, window):
        fewer = [one for one in sorted(taken) if data.draw(st.booleans())]
        assert fits(fewer, send, contacts, window)
        assert fits(sorted(taken), send, contacts + 1, window)
        assert fits(sorted(taken), send, contacts, max(1, window - 1))


def offer(name: str, purpose: str) -> Offer:
    worthless = {} if purpose == "bonus" else {"kind": "message", "value_minor": 0}
    return Offer.model_validate(HOUSE.offers[0].model_dump() | {"id": name, "purpose": purpose} | worthless)


OFFERS = tuple(offer(f"for_{purpose}", purpose) for purpose in PURPOSES)
CAPS = st.lists(
    st.builds(
        lambda contacts, hours, channel, name: Cap(id="x", contacts=contacts, hours=hours, channel=channel, offer=name),
        st.integers(0, 3),
        st.sampled_from([1, 5, 24, 48]),
        st.sampled_from([None, None, "sms", "email"]),
        st.sampled_from([None, None, "for_bonus", "for_marketing"]),
    ),
    max_size=4,
).map(lambda caps: tuple(cap.model_copy(update={"id": f"cap_{n}"}) for n, cap in enumerate(caps)))
HELD = st.lists(
    st.builds(
        lambda send, valid, state, what, channel, slot: Reservation(
            NOW + send * HOUR, NOW + valid, state, what, f"for_{what}", channel, slot
        ),
        st.integers(-60, 40),
        st.integers(-2, 2),
        st.sampled_from(["reserved", "reserved", "confirmed", "released"]),
        st.sampled_from(["marketing", "bonus", "bonus", "service", "rg_intervention"]),
        st.sampled_from(["sms", "sms", "email", "push"]),
        st.sampled_from(SLOTS),
    ),
    max_size=10,
)
WINDOWS = st.lists(st.integers(0, 30), min_size=len(SLOTS), max_size=len(SLOTS)).map(
    lambda hours: tuple(Window(NOW + one * HOUR, NOW + (one + 4) * HOUR) for one in hours)
)


def catalogue(caps: tuple[Cap, ...]) -> Catalogue:
    return HOUSE.model_copy(update={"offers": OFFERS, "caps": caps})


def moments(layout: CandidateSpace, windows: tuple[Window, ...]) -> list[tuple[int, Candidates]]:
    """When contacts would be sent: those of a slot as its window begins."""
    return [(window.send_us, bits) for window, bits in zip(windows, layout.slots, strict=True)]


ASKING = LimitQuery("main", "Europe/Malta", NOW)


def holding(contacts: list[Reservation]) -> Held:
    """A player with these contacts."""
    return Held({f"d{n}": one for n, one in enumerate(contacts)})


def blocked(house: Catalogue, held: list[Reservation], windows: tuple[Window, ...]) -> dict[str, NDArray[np.bool_]]:
    """What each cap denies, by offer, channel and timing slot."""
    layout = CandidateSpace(house)
    found = evaluate(layout, holding(held), moments(layout, windows), ASKING)
    return {name: layout.array(one)[1:].reshape(house.shape) for name, one in found.items()}


@SETTINGS
@given(CAPS, HELD, WINDOWS)
def test_a_cap_blocks_exactly_the_promotional_actions_that_would_overflow_it(
    caps: tuple[Cap, ...], held: list[Reservation], windows: tuple[Window, ...]
) -> None:
    house = catalogue(caps)
    found = blocked(house, held, windows)
    assert found.keys() <= {f"cap:{cap.id}" for cap in caps}
    for cap in caps:
        counted = [
            one.send_us // HOUR
            for one in held
            if one.purpose in PROMOTIONAL
            and cap.channel in (None, one.channel)
            and cap.offer in (None, one.offer)
            and (one.state == "confirmed" or (one.state == "reserved" and one.valid_until_us >= NOW))
        ]
        wanted = np.zeros(house.shape, dtype=np.bool_)
        for place in np.ndindex(wanted.shape):
            what, channel, window = OFFERS[place[0]], CHANNELS[place[1]], windows[place[2]]
            if what.promotional and cap.channel in (None, channel) and cap.offer in (None, what.id):
                wanted[place] = not has_room(counted, window.send_us // HOUR, cap.contacts, int(cap.hours or 0))
        np.testing.assert_array_equal(found.get(f"cap:{cap.id}", np.zeros(house.shape, dtype=np.bool_)), wanted)
        assert (f"cap:{cap.id}" in found) == wanted.any()


@SETTINGS
@given(CAPS, HELD, st.lists(st.integers(0, 30), min_size=6, max_size=6), st.randoms(use_true_random=False))
def test_contacts_of_one_slot_may_be_sent_at_several_moments_and_each_is_counted_at_its_own(
    caps: tuple[Cap, ...], held: list[Reservation], hours: list[int], chance: random.Random
) -> None:
    """Hours put some contacts of a slot off and others not; a cap looks at the moment of each."""
    house = catalogue(caps)
    layout = CandidateSpace(house)
    at = {place: chance.choice(hours) for place in range(1, house.size)}
    spread = [
        (NOW + hour * HOUR, sum(layout.bit(place) for place, one in at.items() if one == hour)) for hour in set(hours)
    ]
    found = evaluate(layout, holding(held), spread, ASKING)
    alone = {
        hour: evaluate(layout, holding(held), [(NOW + hour * HOUR, layout.everything)], ASKING) for hour in set(hours)
    }
    for cap in caps:
        name = f"cap:{cap.id}"
        for place, hour in at.items():
            assert bool(found.get(name, 0) & layout.bit(place)) == bool(alone[hour].get(name, 0) & layout.bit(place))


def reservation(state: Literal["reserved", "confirmed", "released"], valid: int, purpose: str = "bonus") -> Reservation:
    return Reservation(NOW, valid, state, purpose, f"for_{purpose}", "sms", "night")


def test_a_reservation_counts_until_its_last_moment_a_confirmed_one_for_good_a_released_one_never() -> None:
    for valid in (NOW - 10**12, NOW - 1, NOW, NOW + 1):
        assert reservation("reserved", valid).counts(NOW) == (valid >= NOW)
        assert reservation("confirmed", valid).counts(NOW)
        assert not reservation("released", valid).counts(NOW)


def test_only_promotional_contacts_take_room() -> None:
    house = catalogue((Cap(id="one", contacts=1, hours=24),))
    windows = (Window(NOW, NOW + HOUR),) * len(SLOTS)
    for purpose in PURPOSES:
        found = blocked(house, [reservation("confirmed", NOW, purpose)], windows)
        assert bool(found) == (purpose in PROMOTIONAL)


def test_messages_that_are_no_promotion_pass_even_a_cap_of_none() -> None:
    found = blocked(catalogue((Cap(id="none", contacts=0, hours=24),)), [], (Window(NOW, NOW + HOUR),) * len(SLOTS))
    free = [not found["cap:none"][at].any() for at in range(len(OFFERS))]
    assert free == [not one.promotional for one in OFFERS]


def test_a_cap_that_blocks_nothing_is_no_reason() -> None:
    """As with rules: what was refused is told, not what was merely looked at."""
    house = catalogue((Cap(id="service", contacts=0, hours=24, offer="for_service"),))
    assert blocked(house, [], (Window(NOW, NOW + HOUR),) * len(SLOTS)) == {}


@SETTINGS
@given(CAPS, HELD, WINDOWS)
def test_what_is_outdated_matters_to_no_contact_from_now_on(
    caps: tuple[Cap, ...], held: list[Reservation], windows: tuple[Window, ...]
) -> None:
    house = catalogue(caps)
    named = {f"d{n}": one for n, one in enumerate(held)}
    gone = outdated(house, Held(named), NOW, 0, ever=False)
    kept = [one for name, one in named.items() if name not in gone]
    before, after = blocked(house, held, windows), blocked(house, kept, windows)
    assert before.keys() == after.keys()
    for name, places in before.items():
        np.testing.assert_array_equal(places, after[name])


def test_what_can_no_longer_matter_is_outdated_to_the_microsecond() -> None:
    house = catalogue((Cap(id="short", contacts=1, hours=1), Cap(id="long", contacts=9, hours=24)))
    held = Held({"d": reservation("confirmed", NOW)})
    assert outdated(house, held, NOW + 24 * HOUR, 0, ever=False) == []
    assert outdated(house, held, NOW + 24 * HOUR + 1, 0, ever=False) == ["d"]
    assert outdated(catalogue(()), held, NOW + 1, 0, ever=False) == ["d"]


def test_what_a_rule_still_looks_back_at_is_not_outdated() -> None:
    """Rules count contacts too, and may look back further than any cap of the catalogue."""
    house = catalogue((Cap(id="short", contacts=1, hours=1),))
    held = Held({"d": reservation("confirmed", NOW)})
    assert outdated(house, held, NOW + 48 * HOUR, 48 * HOUR, ever=False) == []
    assert outdated(house, held, NOW + 48 * HOUR + 1, 48 * HOUR, ever=False) == ["d"]


def test_what_counts_for_ever_is_kept_for_ever_once_it_is_confirmed() -> None:
    house, late = catalogue((Cap(id="short", contacts=1, hours=1),)), NOW + 10**6 * HOUR
    held = Held({state: reservation(state, NOW) for state in ("confirmed", "reserved", "released")})
    assert outdated(house, held, late, 0, ever=True) == ["reserved", "released"]
    assert outdated(house, held, late, 0, ever=False) == list(held.own)
    message = Held({"message": held.own["confirmed"]._replace(purpose="marketing")})
    assert outdated(house, message, late, 0, ever=True) == ["message"]


def test_a_lease_that_may_still_be_confirmed_is_never_outdated() -> None:
    """A lease may outlast the longest window: dropping it would answer `expired` before its time."""
    house = catalogue((Cap(id="hour", contacts=1, hours=1),))
    lease = reservation("reserved", NOW + 11 * HOUR)
    assert outdated(house, Held({"d": lease}), NOW + 2 * HOUR, 0, ever=False) == []


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True)


@SETTINGS
@given(
    st.builds(
        Reservation,
        st.integers(0, 2**53),
        st.integers(0, 2**53),
        st.sampled_from(["reserved", "confirmed", "released", "revoked", "expired"]),
        st.sampled_from(PURPOSES),
        NAMES,
        st.sampled_from(CHANNELS),
        st.sampled_from(SLOTS),
        st.integers(0, 2**53),
        st.from_regex(r"[a-z0-9_-]{1,32}", fullmatch=True),
        st.one_of(st.none(), NAMES),
        st.integers(0, 1000),
        st.lists(st.tuples(NAMES.map(lambda name: f"{name}/2026-11-22"), st.integers(1, 10**12)), max_size=3).map(
            tuple
        ),
    )
)
def test_a_reservation_is_read_as_it_was_written(one: Reservation) -> None:
    assert Reservation.loads(one.dumps()) == one
