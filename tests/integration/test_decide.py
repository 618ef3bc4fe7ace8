import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
from conftest import Opened, app_of, run
from people import adult_events, tell
from scipy import stats

from features.store import House, real_now_us
from models.actions import Catalogue
from pipelines.worker import Worker
from service import log
from service.decide import DecisionRequest, decide
from service.experiment import variant
from service.ledger import decision_key
from service.rules import Layout


def player_of(house_variant: str, prefix: str = "p") -> str:
    shares = {"holdout": 0.1, "business_rules": 0.45, "policy": 0.4, "uniform": 0.05}
    return next(
        f"{prefix}{n}"
        for n in range(1_000)
        if variant("policy_2026", f"{prefix}{n}", shares) == house_variant  # type: ignore[arg-type]
    )


async def asked(client: Any, player: str, **more: Any) -> dict[str, Any]:
    answer = await client.post("/v1/decisions", json={"player_id": player, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def contact(client: Any, player: str, **more: Any) -> dict[str, Any]:
    """Ask until the draw is a contact."""
    for _ in range(50):
        found = await asked(client, player, **more)
        if found["action"] != "NO_CONTACT":
            return found
    raise AssertionError("no contact was drawn")


def test_an_adult_who_consented_is_offered_something_with_its_exact_probability(opened: Opened, worker: Worker) -> None:
    player = player_of("policy")

    async def story() -> None:
        async with opened() as client:
            position = await tell(client, adult_events(player))
            found = await asked(client, player, explain=True, after=position)
            assert found["recorded"]
            assert found["churn"] == {"score": 0.3, "model_version": None}
            assert found["degraded"] == ["churn_model_missing"]
            eligible = found["candidates"]["eligible"]
            assert eligible > 20
            assert found["propensity"] == 1 / eligible
            assert found["features"]["values"]["deposit_count"] == 2
            told = (await client.get(f"/v1/decisions/{found['decision_id']}")).json()
            assert told["player_id"] == player
            assert told["action"] == found["action"]
            assert abs(sum(one["probability"] for one in told["eligible"]) - 1) < 1e-12
            assert told["personal"]["facts"]["jurisdiction"].endswith("MT")

    assert worker.consumer is not None
    run(story())


def test_an_unknown_player_is_left_alone_and_the_answer_says_so(opened: Opened, worker: Worker) -> None:
    async def story() -> None:
        async with opened() as client:
            found = await asked(client, "nobody")
            assert found["action"] == "NO_CONTACT"
            assert "unknown_player" in [one["rule"] for one in found["exclusions"]]

    assert worker.consumer is not None
    run(story())


def test_the_same_request_twice_gives_the_same_bytes_and_another_body_conflicts(opened: Opened, worker: Worker) -> None:
    async def story() -> None:
        async with opened() as client:
            await tell(client, adult_events("p1"))
            body = {"player_id": "p1", "request_id": "r1", "explain": True}
            first = await client.post("/v1/decisions", json=body)
            await tell(
                client, [adult_events("p1")[0] | {"event_id": "later", "type": "login"} | {"jurisdiction": None}][:0]
            )
            again = await client.post("/v1/decisions", json=body)
            assert again.content == first.content
            other = await client.post("/v1/decisions", json=body | {"explain": False})
            assert other.status_code == 409
            assert other.json()["code"] == "request_id_reused"

    assert worker.consumer is not None
    run(story())


def test_a_thousand_concurrent_decisions_under_a_cap_of_two_give_exactly_two_contacts(
    opened: Opened, worker: Worker
) -> None:
    player = player_of("policy")

    async def story() -> None:
        async with opened() as client:
            position = await tell(client, adult_events(player))
            await asked(client, player, after=position, dry_run=True)
            answers = await asyncio.gather(*(asked(client, player, channels=["in_app", "email"]) for _ in range(1_000)))
            contacts = [one for one in answers if one["action"] != "NO_CONTACT"]
            assert len(contacts) == 2
            assert all(one["recorded"] for one in contacts)
            assert sum(one["recorded"] for one in answers) > 900

    assert worker.consumer is not None
    run(story())


def test_after_an_exclusion_is_acknowledged_nothing_is_confirmed_or_drawn_any_more(
    opened: Opened, worker: Worker
) -> None:
    player = player_of("policy")

    async def story() -> None:
        async with opened() as client:
            position = await tell(client, adult_events(player))
            lease = await contact(client, player, after=position, channels=["email"])
            confirm = f"/v1/decisions/{lease['decision_id']}/confirm"
            assert (await client.post(confirm)).status_code == 200
            assert (await client.post(confirm)).status_code == 200
            excluded = {
                "type": "self_excluded",
                "event_id": "x1",
                "player_id": player,
                "occurred_at": datetime.now(UTC).isoformat(),
            }
            await tell(client, [excluded])
            asks = [asked(client, player) for _ in range(500)]
            confirms = [client.post(confirm) for _ in range(500)]
            answers = await asyncio.gather(*asks, *confirms)
            assert {one["action"] for one in answers[:500]} == {"NO_CONTACT"}
            assert {one.status_code for one in answers[500:]} == {409}
            assert answers[500].json()["code"] == "revoked"
            assert "self_excluded" in answers[500].json()["rules"]
            helped = await asked(client, player, purpose="rg_intervention")
            assert helped["action"]["offer"]["id"] == "play_check_in"
            assert helped["propensity"] == 1.0

    assert worker.consumer is not None
    run(story())


def test_draws_follow_the_logged_propensities_over_twenty_thousand_decisions(
    opened: Opened, worker: Worker, house: House
) -> None:
    """Chi-square of the drawn places against the logged pmf, at 0.1 %; the house's secret is random, so draws vary."""
    player = player_of("business_rules")

    async def story() -> tuple[np.ndarray, np.ndarray]:
        async with opened() as client:
            position = await tell(client, adult_events(player))
            await asked(client, player, after=position, dry_run=True)
            desk = app_of(client).state.desk
            request = DecisionRequest(player_id=player, dry_run=True, channels=("email", "in_app"))
            drawn: Counter[int] = Counter()
            expected: Counter[int] = Counter()
            for _ in range(20_000):
                choice = (await decide(request, desk.table, desk.ledger)).record.choice
                places = np.flatnonzero(log.places(choice.mask, desk.table.layout.catalogue.size))
                pmf = log.array(choice.pmf)
                assert abs(pmf.sum() - 1) < 1e-12
                assert choice.propensity == pmf[np.searchsorted(places, choice.place)]
                drawn[choice.place] += 1
                for place, p in zip(places.tolist(), pmf.tolist(), strict=True):
                    expected[place] += p
            at = sorted(expected)
            return np.array([drawn[place] for place in at]), np.array([expected[place] for place in at])

    assert worker.consumer is not None
    assert house.partitions == 256
    observed, expected = run(story())
    assert stats.chisquare(observed, expected).pvalue > 0.001


def test_activate_confirms_at_once_and_only_in_the_running_slot(opened: Opened, worker: Worker) -> None:
    player = player_of("policy")

    async def story() -> None:
        async with opened() as client:
            position = await tell(client, adult_events(player))
            found = await contact(client, player, after=position, channels=["in_app"], activate=True)
            send_at = datetime.fromisoformat(found["action"]["send_at"])
            assert abs(send_at - datetime.now(UTC)) < timedelta(minutes=1)
            assert (await client.post(f"/v1/decisions/{found['decision_id']}/confirm")).status_code == 200

    assert worker.consumer is not None
    run(story())


def test_a_failed_contact_gives_its_room_back_and_cannot_be_confirmed(opened: Opened, worker: Worker) -> None:
    player = player_of("policy")

    async def story() -> None:
        async with opened() as client:
            position = await tell(client, adult_events(player))
            only = {"channels": ["push"]}
            first = await contact(client, player, after=position, **only)
            full = await asked(client, player, explain=True, **only)
            assert full["action"] == "NO_CONTACT"
            assert "cap:push_day" in [one["rule"] for one in full["exclusions"]]
            outcome = {
                "outcome_id": "o1",
                "decision_id": first["decision_id"],
                "type": "failed",
                "occurred_at": datetime.now(UTC).isoformat(),
            }
            assert not (await client.post("/v1/outcomes", json=outcome)).json()["duplicate"]
            assert (await client.post("/v1/outcomes", json=outcome)).json()["duplicate"]
            refused = await client.post(f"/v1/decisions/{first['decision_id']}/confirm")
            assert (refused.status_code, refused.json()["code"]) == (409, "released")
            await contact(client, player, **only)

    assert worker.consumer is not None
    run(story())


def test_unsubscribing_ends_the_channel_in_the_same_call(opened: Opened, worker: Worker) -> None:
    player = player_of("policy")

    async def story() -> None:
        async with opened() as client:
            position = await tell(client, adult_events(player))
            first = await contact(client, player, after=position, channels=["email"])
            outcome = {
                "outcome_id": "o1",
                "decision_id": first["decision_id"],
                "type": "unsubscribed",
                "occurred_at": datetime.now(UTC).isoformat(),
            }
            assert (await client.post("/v1/outcomes", json=outcome)).status_code == 200
            found = await asked(client, player, channels=["email"])
            assert found["action"] == "NO_CONTACT"
            assert "consent" in [one["rule"] for one in found["exclusions"]]

    assert worker.consumer is not None
    run(story())


def test_the_holdout_is_left_alone_with_probability_one(opened: Opened, worker: Worker) -> None:
    player = player_of("holdout")

    async def story() -> None:
        async with opened() as client:
            position = await tell(client, adult_events(player))
            found = await asked(client, player, after=position)
            assert (found["action"], found["propensity"]) == ("NO_CONTACT", 1.0)
            assert [one["rule"] for one in found["exclusions"]].count("holdout") == 1

    assert worker.consumer is not None
    run(story())


def test_without_a_worker_features_are_unavailable_and_nobody_is_contacted(opened: Opened) -> None:
    async def story() -> None:
        async with opened() as client:
            await tell(client, adult_events("p1"))
            found = await asked(client, "p1")
            assert found["action"] == "NO_CONTACT"
            assert "features_unavailable" in [one["rule"] for one in found["exclusions"]]

    run(story())


def test_what_became_of_a_contact_reaches_the_features_of_its_channel(opened: Opened, worker: Worker) -> None:
    player = player_of("policy")

    async def story() -> None:
        async with opened() as client:
            position = await tell(client, adult_events(player))
            first = await contact(client, player, after=position, channels=["email"])
            for number, kind in enumerate(("sent", "opened", "clicked")):
                outcome = {
                    "outcome_id": f"o{number}",
                    "decision_id": first["decision_id"],
                    "type": kind,
                    "occurred_at": datetime.now(UTC).isoformat(),
                }
                told = await client.post("/v1/outcomes", json=outcome)
                assert told.status_code == 200
            found = await asked(client, player, explain=True, dry_run=True, after=told.json()["position"])
            values = found["features"]["values"]
            assert [round(values[f"{kind}_email_30d"], 3) for kind in ("sent", "opened", "clicked")] == [1, 1, 1]
            assert values["sent_sms_30d"] == 0
            assert values["last_contact_days_ago"] < 0.01

    assert worker.consumer is not None
    run(story())


def test_a_record_is_explained_by_the_catalogue_it_was_made_from(opened: Opened, worker: Worker) -> None:
    player = player_of("policy")

    async def story() -> None:
        async with opened() as client:
            position = await tell(client, adult_events(player))
            first = await asked(client, player, after=position)
            before = (await client.get(f"/v1/decisions/{first['decision_id']}")).json()
            desk = app_of(client).state.desk
            fewer = desk.table.layout.catalogue.model_copy(update={"offers": desk.table.layout.catalogue.offers[1:]})
            desk.table = replace(desk.table, layout=Layout(Catalogue.model_validate(fewer.model_dump() | {"caps": []})))
            after = (await client.get(f"/v1/decisions/{first['decision_id']}")).json()
            assert after == before

    assert worker.consumer is not None
    run(story())


def test_a_contact_confirmed_later_than_reserved_counts_from_then_on_at_the_later_moment(
    opened: Opened, worker: Worker, store: Any
) -> None:
    """Reserved for now, confirmed an hour later: a second one, a day after the first, may not be sent too early."""
    player = player_of("policy")

    async def story() -> None:
        async with opened() as client:
            position = await tell(client, adult_events(player))
            found = await contact(client, player, after=position, channels=["email"], offers=["match_preview"])
            desk = app_of(client).state.desk
            ledger = f"ledger:{desk.table.house.player_key(player)}"
            entry = store.hget(ledger, found["decision_id"]).decode()
            # As if both had been reserved long ago: this one for an hour ago, two others for a day after that.
            _, rest = entry.split(" ", 1)
            hour = 3_600_000_000
            record = log.loads(store.get(decision_key(found["decision_id"])))
            early = desk.table.house.now_us(real_now_us(store)) - hour
            assert record.action is not None
            moved = msgspec.structs.replace(record, action=msgspec.structs.replace(record.action, send_us=early))
            store.set(decision_key(found["decision_id"]), log.dumps(moved))
            store.hset(ledger, found["decision_id"], f"{early} {rest}")
            for other in ("other", "another"):
                store.hset(ledger, other, f"{early + 24 * hour} {rest}")
            refused = await client.post(f"/v1/decisions/{found['decision_id']}/confirm")
            assert refused.status_code == 409
            assert "cap:player_day" in refused.json()["rules"]
            store.hdel(ledger, "another")
            now_us = desk.table.house.now_us(real_now_us(store))
            assert (await client.post(f"/v1/decisions/{found['decision_id']}/confirm")).status_code == 200
            kept = store.hget(ledger, found["decision_id"]).decode().split(" ")
            assert int(kept[0]) >= min(now_us, int(kept[1]))
            assert kept[2] == "confirmed"

    assert worker.consumer is not None
    run(story())
