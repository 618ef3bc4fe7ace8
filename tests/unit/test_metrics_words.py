"""Why nobody was contacted, and what ailed the store, in words of closed lists"""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import redis

from features.store.errors import StoreAbsentError, StoreError
from features.store.lane import SilentError
from service.api.house_state import standing
from service.api.metrics import Metrics, trouble, why_no_contact
from service.contacts.stops import Lifted, Stop

PMF = b"\0" * 8


def record(*excluded: str, role: str = "drawn", eligible: int = 1) -> Any:
    return SimpleNamespace(choice=SimpleNamespace(role=role, pmf=PMF * eligible, excluded=dict.fromkeys(excluded, b"")))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (record("GB5", eligible=2), "drawn"),
        (record("GB5", eligible=2, role="lost"), "lost"),
        (record("GB5", "features_stale"), "features_stale"),
        (record("GB5", "unknown_player"), "unknown_player"),
        (record("holdout", role="holdout"), "holdout"),
        (record("global_holdout", role="holdout"), "global_holdout"),
        (record("GB5", "stop:4711-abc"), "stop"),
        (record("GB5", "cap:player_day"), "limits"),
        (record("GB5", "budget:week"), "limits"),
        (record("GB5", "not_requested"), "rules"),
        (record("not_requested", "offer_elsewhere"), "not_offered"),
        (record(), "not_offered"),
    ],
)
def test_why_nobody_was_contacted_is_one_word(made: Any, why: str) -> None:
    assert why_no_contact(made) == why


def test_the_id_of_a_stop_is_no_label() -> None:
    metrics = Metrics()
    kept = SimpleNamespace(experiments=(), action=None, excluded_by=("stop:4711-abc", "GB5"), degraded=())
    made: Any = SimpleNamespace(kept=kept, recorded=True, replayed=True, record=None)
    metrics.decided(made)
    told = metrics.told().decode()
    assert 'rule="stop"' in told
    assert "4711" not in told


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (caused(StoreError("x"), caused(StoreError("y"), TimeoutError())), "deadline"),
        (caused(StoreError("x"), SilentError()), "breaker"),
        (caused(StoreError("x"), StoreAbsentError("y")), "absent"),
        (caused(StoreError("x"), redis.ResponseError()), "refused"),
        (caused(StoreError("x"), redis.ConnectionError()), "other"),
        (StoreError("x"), "other"),
    ],
)
def test_trouble_with_the_store_is_told_by_what_it_came_from(error: Exception, kind: str) -> None:
    assert trouble(error) == kind


def _at(hour: int) -> str:
    return f"2026-11-29T{hour}:00:00+00:00"


def _stop(name: str, hour: int) -> bytes:
    return msgspec.json.encode(Stop(id=name, scope="all", at=_at(hour), by="ops", reason="wrong prices"))


def test_a_stop_stands_until_it_is_lifted() -> None:
    made = {name.encode(): _stop(name, hour) for name, hour in (("a1", 10), ("b2", 11))}
    noted, lifted = made | {b"stands marketing all": b"b2"}, Lifted(at=_at(12), by="ops", reason="mended")
    assert standing(noted) == [_at(10), _at(11)]
    assert standing(noted | {b"lifted a1": msgspec.json.encode(lifted)}) == [_at(11)]
    assert standing({}) == []
