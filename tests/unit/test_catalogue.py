"""The catalogue: slots and their send times, places of actions, and refused files."""

from datetime import date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from features import zones
from features.events import micros, moment
from features.files import CatalogueError, load_yaml
from features.moments import MINUTE_US
from features.schema import CHANNELS, TIMING_SLOTS
from models.catalogue.limits import Cap
from models.catalogue.offers import (
    NO_CONTACT,
    PROMOTIONAL,
    SLOTS,
    Catalogue,
    Offer,
    Window,
    load_catalogue,
    send_window,
    slots_at,
)

SETTINGS = settings(max_examples=150, deadline=None, derandomize=True)
FILE = Path(__file__).parents[2] / "service" / "catalogue.yaml"
HOUR = 3_600_000_000
# Zones with and without clock changes, with offsets of half and quarter hours, and on both sides of the date line.
ZONES = [
    "UTC",
    "Europe/Malta",
    "America/Toronto",
    "America/St_Johns",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Africa/Cairo",
]
CHANGES = [
    ("Europe/Malta", date(2026, 3, 29)),
    ("Europe/Malta", date(2026, 10, 25)),
    ("America/Toronto", date(2026, 3, 8)),
    ("America/Toronto", date(2026, 11, 1)),
]
# Any moment of four decades, and every hour around clock changes.
NOW = st.integers(0, 60 * 366 * 24 * HOUR) | st.builds(
    lambda change, minutes: local(change[0], change[1]) + minutes * 60_000_000,
    st.sampled_from(CHANGES),
    st.integers(-36 * 60, 36 * 60),
)


def local(zone: str, day: date, clock: time = time(0), fold: int = 0) -> int:
    return micros(datetime.combine(day, clock, zones.zone(zone)).replace(fold=fold))


def clock(unix_us: int, zone: str) -> time:
    return moment(unix_us).astimezone(zones.zone(zone)).time()


@SETTINGS
@given(st.sampled_from(ZONES), NOW)
def test_at_every_moment_exactly_one_slot_is_open_and_sends_now(zone: str, now: int) -> None:
    windows = {slot: send_window(slot, now, zone) for slot in SLOTS}
    assert [slot for slot, window in windows.items() if window.send_us == now] == [
        slot
        for slot, (begin, end) in TIMING_SLOTS.items()
        if (begin <= clock(now, zone) < end if begin < end else not end <= clock(now, zone) < begin)
    ]


@SETTINGS
@given(st.sampled_from(ZONES), NOW)
def test_slots_follow_each_other_without_gap_or_overlap(zone: str, now: int) -> None:
    windows = sorted(send_window(slot, now, zone) for slot in SLOTS)
    assert windows[0].send_us == now
    for one, following in pairwise(windows):
        assert one.send_us < one.ends_us == following.send_us
    assert windows[-1].ends_us - now <= 25 * HOUR + 17 * HOUR


@SETTINGS
@given(st.sampled_from(ZONES), NOW.filter(lambda now: now >= 3 * 366 * 24 * HOUR))
def test_the_slots_of_a_minute_are_those_of_every_moment_in_it(zone: str, now: int) -> None:
    held = [Window(max(opens, now), ends) for opens, ends in slots_at(now // MINUTE_US, zone)]
    assert held == [send_window(slot, now, zone) for slot in SLOTS]


@SETTINGS
@given(st.sampled_from(ZONES), NOW, st.sampled_from(SLOTS))
def test_a_slot_is_half_open(zone: str, now: int, slot: str) -> None:
    window = send_window(slot, now, zone)
    assert now <= window.send_us < window.ends_us
    inside = send_window(slot, window.ends_us - 1, zone)
    assert inside == Window(window.ends_us - 1, window.ends_us)
    assert send_window(slot, window.ends_us, zone).send_us > window.ends_us
    if window.send_us > now:
        assert send_window(slot, window.send_us, zone) == window
        assert send_window(slot, window.send_us - 1, zone) == window


@SETTINGS
@given(st.sampled_from(ZONES), NOW, st.sampled_from(SLOTS))
def test_slots_open_and_close_by_the_clock_on_the_players_wall(zone: str, now: int, slot: str) -> None:
    window = send_window(slot, now, zone)
    begin, end = TIMING_SLOTS[slot]
    assert clock(window.ends_us, zone) == end
    if window.send_us > now:
        assert clock(window.send_us, zone) == begin


@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_the_night_of_a_clock_change_is_an_hour_shorter_or_longer(zone: str, day: date) -> None:
    opens = local(zone, day - timedelta(days=1), time(21))
    window = send_window("night", opens, zone)
    spring = day.month == 3
    assert window == Window(opens, opens + (10 if spring else 12) * HOUR)
    assert send_window("morning", opens, zone) == Window(local(zone, day, time(8)), local(zone, day, time(12)))
    if not spring:
        for fold in (0, 1):
            again = local(zone, day, time(1, 30), fold)
            assert send_window("night", again, zone) == Window(again, window.ends_us)


def test_a_night_belongs_to_both_of_its_days() -> None:
    zone, day = "Asia/Kolkata", date(2026, 5, 5)
    opens, closes = local(zone, day, time(21)), local(zone, day + timedelta(days=1), time(8))
    assert opens % HOUR == 30 * 60_000_000
    for now in (opens, opens + 1, local(zone, day + timedelta(days=1)), closes - 1):
        assert send_window("night", now, zone) == Window(now, closes)
    assert send_window("night", opens - 1, zone) == Window(opens, closes)
    tomorrow = local(zone, day + timedelta(days=1), time(21))
    assert send_window("night", closes, zone) == Window(tomorrow, closes + 24 * HOUR)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(FILE)


def test_places_and_actions_name_each_other(catalogue: Catalogue) -> None:
    actions = [catalogue.action(place) for place in range(1, catalogue.size)]
    assert catalogue.size == 1 + len(catalogue.offers) * len(CHANNELS) * len(SLOTS)
    wanted = [(offer.id, channel, slot) for offer in catalogue.offers for channel in CHANNELS for slot in SLOTS]
    assert [(offer.id, channel, slot) for offer, channel, slot in actions] == wanted
    assert NO_CONTACT == 0
    offers, channels, slots = catalogue.shape
    assert offers * channels * slots == len(actions)


def test_marketing_and_bonus_are_what_is_promotional(catalogue: Catalogue) -> None:
    assert {"marketing", "bonus"} == PROMOTIONAL
    assert {offer.id for offer in catalogue.offers if not offer.promotional} == {"account_notice", "play_check_in"}


def test_a_caps_window_is_in_microseconds() -> None:
    assert Cap(id="a", contacts=1, hours=24).window_us == 24 * HOUR
    assert Cap(id="a", contacts=1, hours=0.5).window_us == HOUR // 2


def content() -> dict[str, Any]:
    said: dict[str, Any] = yaml.safe_load(FILE.read_text("utf8"))
    return said


def loaded(said: Any, folder: Path) -> Catalogue:
    file = folder / "house.yaml"
    file.write_text(yaml.safe_dump(said, sort_keys=False), "utf8")
    return load_catalogue(file)


def test_a_catalogue_is_known_by_its_content(tmp_path: Path, catalogue: Catalogue) -> None:
    assert loaded(content(), tmp_path).hash == catalogue.hash
    changed = content()
    changed["offers"][0]["priority"] += 1
    assert loaded(changed, tmp_path).hash != catalogue.hash


def changed(*path: Any, to: Any) -> dict[str, Any]:
    said = content()
    place: Any = said
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return said


def without(*path: Any) -> dict[str, Any]:
    said = content()
    place: Any = said
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return said


FAULTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "bonus without a kind": (without("offers", 0, "kind"), ("offers.0", "a bonus must say its kind")),
    "a gift in a message": (changed("offers", 6, "value_minor", to=1), ("offers.6", "is of purpose bonus")),
    "bonus by another name": (changed("offers", 0, "purpose", to="marketing"), ("offers.0", "is of purpose bonus")),
    "unknown kind": (changed("offers", 0, "kind", to="present"), ("offers.0.kind",)),
    "unknown mechanic": (changed("offers", 0, "mechanics", to=["welcome", "magic"]), ("offers.0.mechanics.1",)),
    "unknown term": (changed("offers", 0, "terms", "colour", to="red"), ("offers.0.terms.colour",)),
    "negative wagering": (changed("offers", 0, "terms", "wagering", to=-1), ("offers.0.terms.wagering",)),
    "unknown currency": (changed("offers", 0, "local", to={"pounds": 1}), ("offers.0.local.pounds",)),
    "duplicate offer": (changed("offers", 1, "id", to="welcome_bonus"), ("two offers share an id",)),
    "unknown channel": (changed("channels", "fax", to={"cost_minor": 1}), ("channels.fax",)),
    "missing channel": (without("channels", "sms"), ("channels must be exactly",)),
    "unknown channel in a cap": (changed("caps", 2, "channel", to="fax"), ("caps.2.channel",)),
    "unknown offer in a cap": (changed("caps", 5, "offer", to="nothing"), ("a limit: 'nothing' is no offer",)),
    "negative cost": (changed("offers", 2, "cost_minor", to=-1), ("offers.2.cost_minor",)),
    "negative value": (changed("offers", 2, "value_minor", to=-1), ("offers.2.value_minor",)),
    "negative channel cost": (changed("channels", "sms", "cost_minor", to=-5), ("channels.sms.cost_minor",)),
    "money with a fraction": (changed("offers", 0, "cost_minor", to=1.5), ("offers.0.cost_minor",)),
    "no cost": (without("offers", 3, "cost_minor"), ("offers.3.cost_minor", "required")),
    "unknown purpose": (changed("offers", 0, "purpose", to="gift"), ("offers.0.purpose",)),
    "unknown product": (changed("offers", 0, "product", to="slots"), ("offers.0.product",)),
    "unknown stage": (changed("offers", 0, "stages", to=["old"]), ("offers.0.stages.0",)),
    "unknown jurisdiction": (changed("offers", 0, "jurisdictions", to=["Malta"]), ("offers.0.jurisdictions.0",)),
    "unknown field": (changed("offers", 0, "colour", to="red"), ("offers.0.colour",)),
    "no lever": (changed("offers", 0, "lever", to=0), ("offers.0.lever",)),
    "bad id": (changed("offers", 0, "id", to="Welcome Bonus"), ("offers.0.id",)),
    "no offers": (changed("offers", to=[]), ("offers",)),
    "no window": (changed("caps", 0, "hours", to=0), ("caps.0.hours",)),
    "negative cap": (changed("caps", 0, "contacts", to=-1), ("caps.0.contacts",)),
    "shares above one": (changed("experiment", "variants", "holdout", to=0.2), ("experiment", "sum to 1")),
    "negative share": (
        changed("experiment", "variants", to={"holdout": -0.1, "policy": 1.1}),
        ("experiment.variants.holdout",),
    ),
    "unknown variant": (changed("experiment", "variants", to={"red": 1.0}), ("experiment.variants.red",)),
    "no exploration": (changed("exploration_floor", to=0), ("exploration_floor",)),
    "too much exploration": (changed("exploration_floor", to=1.01), ("exploration_floor",)),
    "another version": (changed("version", to=2), ("version",)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_catalogue_is_refused_with_file_line_and_field(fault: str, tmp_path: Path) -> None:
    said, words = FAULTS[fault]
    with pytest.raises(CatalogueError, match=r"^house\.yaml:\d+: ") as refusal:
        loaded(said, tmp_path)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("said", "stands"),
    [
        (changed("offers", 2, "cost_minor", to=-77), "cost_minor: -77"),
        (changed("caps", 2, "channel", to="fax"), "channel: fax"),
        (changed("offers", 4, "stages", to=["active", "old"]), "- old"),
        (changed("channels", "sms", "cost_minor", to=-5), "cost_minor: -5"),
    ],
)
def test_the_line_that_is_told_is_the_one_to_mend(said: dict[str, Any], stands: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError) as refusal:
        loaded(said, tmp_path)
    line = int(str(refusal.value).split(":")[1])
    assert (tmp_path / "house.yaml").read_text("utf8").splitlines()[line - 1].strip() == stands


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    """Of two lines one would silently not hold."""
    file = tmp_path / "house.yaml"
    file.write_text("version: 1\ncurrency: EUR\ncurrency: USD\n", "utf8")
    with pytest.raises(CatalogueError, match=r"(?s)house\.yaml: currency stands twice.*line 3"):
        load_catalogue(file)


def test_what_an_offer_leaves_out_is_unknown_and_a_bonus_is_never_a_mere_message(catalogue: Catalogue) -> None:
    said = catalogue.offers[0].model_dump()
    extra = ("kind", "mechanics", "terms", "local", "audience", "tags", "approved_on", "approval")
    with pytest.raises(ValidationError, match="a bonus must say its kind"):
        Offer.model_validate({name: value for name, value in said.items() if name not in extra})
    plain = {name: value for name, value in said.items() if name not in extra}
    bare = Offer.model_validate(plain | {"purpose": "marketing", "value_minor": 0})
    assert (bare.kind, bare.mechanics, bare.audience, bare.tags) == ("message", None, None, None)
    assert (bare.terms.wagering, bare.terms.validity_days, bare.terms.prior_bet) == (None, None, None)
    assert not bare.terms.free_choice


def test_a_cap_of_endless_hours_is_refused(tmp_path: Path) -> None:
    """Else the catalogue loads and every decision fails on it."""
    with pytest.raises(CatalogueError, match=r"caps\.0\.hours"):
        loaded(changed("caps", 0, "hours", to=float("inf")), tmp_path)


def test_two_caps_may_not_share_an_id(tmp_path: Path) -> None:
    """A decision keeps what is excluded by the cap's id: of two alike only the last would hold."""
    with pytest.raises(CatalogueError, match="id"):
        loaded(changed("caps", 1, "id", to="player_day"), tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "offers", "1", "{a: 1}"])
def test_a_file_that_holds_something_else_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "house.yaml"
    file.write_text(text, "utf8")
    with pytest.raises(CatalogueError, match=r"house\.yaml:1: "):
        load_catalogue(file)


@pytest.mark.parametrize("text", ["offers: [", "a: b: c", "\t- x", "!!python/object:os.system {}"])
def test_bad_yaml_is_refused_with_file_and_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "house.yaml"
    file.write_text(text, "utf8")
    with pytest.raises(CatalogueError, match=r"(?s)house\.yaml: .*line 1"):
        load_catalogue(file)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"house\.yaml: "):
        load_yaml(tmp_path / "house.yaml", Catalogue)


def test_a_file_in_another_encoding_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "house.yaml"
    file.write_bytes("name: Café".encode("latin-1"))
    with pytest.raises(CatalogueError, match=r"house\.yaml: "):
        load_catalogue(file)
