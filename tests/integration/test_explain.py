"""Explanations of decisions and the page of a player: reasons add up to the logged scores."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import lightgbm
import numpy as np
import pytest
import redis
from conftest import Opened, app_of
from support.learning_log import CATALOGUE
from support.players import adult_events, tell
from support.schemas import ALIKE, FEWER, otherwise, under

from features.kept_schemas import TODAY, Schema, lacking
from features.schema import MODEL_FEATURES, VECTOR
from features.settings.mlflow_file import LearnerSettings
from features.store.bundles import keep, publish
from features.store.keys import bundle_key, decision_key, pointer_key
from models.catalogue.offers import NO_CONTACT
from models.churn.scorer import ChurnBundle, Scorer, library_build
from models.policy.context import READINGS
from models.policy.learned import Cursor, PolicyVersion
from models.policy.learner import ALONE, Learner, NamedAction
from pipelines.worker.process import Worker
from service.decisions.archive import find_record
from service.decisions.record import dump_record

Recorded = Callable[..., Awaitable[dict[str, Any]]]


def snapshot(seed: int = 1) -> PolicyVersion:
    """A policy that learnt something of every action."""
    learner, random = Learner(LearnerSettings(batch=50, warm_up=60)), np.random.default_rng(seed)
    for _ in range(400):
        place = int(random.integers(CATALOGUE.size))
        act = ALONE
        if place != NO_CONTACT:
            action = CATALOGUE.action(place)
            act = NamedAction(action.offer.id, action.channel, action.timing_slot)
        context = random.normal(size=len(READINGS))
        learner.zero(context, act)
        if random.random() < 0.3:
            learner.one(context, act, float(random.lognormal(7, 1)))
    return learner.snapshot("test", 0, Cursor())


def churn_bundle() -> ChurnBundle:
    random = np.random.default_rng(2)
    rows = random.normal(size=(400, len(MODEL_FEATURES)))
    data = lightgbm.Dataset(rows, (rows[:, 0] + rows[:, 5] > 0).astype(float), free_raw_data=False)
    model = lightgbm.train({"objective": "binary", "num_leaves": 4, "verbose": -1, "num_threads": 1}, data, 10)
    return ChurnBundle(
        version="croupier-churn/1",
        horizon_days=30,
        features=MODEL_FEATURES,
        model=model.model_to_string(),
        slope=1.1,
        intercept=-0.2,
        build=library_build(),
        metadata={},
    )


@pytest.fixture
def serving(
    store: redis.Redis,
    worker: Worker,  # noqa: ARG001 - decisions need features
) -> tuple[PolicyVersion, ChurnBundle]:
    learnt, churn = snapshot(), churn_bundle()
    publish(store, "policy", learnt.dumps(), learnt.version)
    publish(store, "churn", churn.dumps(), churn.version)
    return learnt, churn


async def decided(client: httpx.AsyncClient, variant: str) -> dict[str, Any]:
    """A recorded decision of a player of a variant that had several actions to choose from."""
    for number in range(60):
        player = f"w{number}"
        answer = (await client.post("/v1/decisions", json={"player_id": player, "dry_run": True})).json()
        if answer["experiment"]["variant"] != variant:
            continue
        position = await tell(client, adult_events(player))
        body = {"player_id": player, "explain": True, "after": position}
        told: dict[str, Any] = (await client.post("/v1/decisions", json=body)).json()
        return told
    raise AssertionError(f"nobody of {variant}")


@pytest.mark.usefixtures("serving")
async def test_the_parts_of_a_learnt_score_add_up_to_the_score_that_was_logged(opened: Opened) -> None:
    async with opened() as client:
        told = await decided(client, "policy")
        reasons = told["why"]["action"]
        for one in (reasons["chosen"], reasons["next_best"]):
            parts = one["parts"]
            above = parts["lever"] * (parts["worth_minor"] - parts["worth_left_alone_minor"])
            net = above - parts["cost_minor"] - parts["penalty_minor"] + parts["penalty_left_alone_minor"]
            assert parts["net_minor"] == one["score"]
            alone = one.get("action") == "NO_CONTACT"
            assert one["score"] == (0.0 if alone else pytest.approx(net))
        assert reasons["chosen"]["probability"] == told["propensity"]
        assert len(reasons["leanings"]) == 5


@pytest.mark.usefixtures("serving")
async def test_the_next_best_has_the_highest_score_of_the_others(opened: Opened) -> None:
    async with opened() as client:
        told = await decided(client, "policy")
        whole = (await client.get(f"/v1/decisions/{told['decision_id']}")).json()
        assert whole["why"] == told["why"]
        chosen = whole["draw"]["place"]
        best = max((one for one in whole["eligible"] if one["place"] != chosen), key=lambda one: one["score"])
        assert whole["why"]["action"]["next_best"]["score"] == best["score"]
        explored = best["score"] > whole["why"]["action"]["chosen"]["score"]
        assert whole["why"]["action"]["explored"] is explored


async def test_reasons_stay_those_of_the_models_that_decided(
    opened: Opened, store: redis.Redis, serving: tuple[PolicyVersion, ChurnBundle]
) -> None:
    async with opened() as client:
        first = await decided(client, "policy")
    other = snapshot(seed=9)
    publish(store, "policy", other.dumps(), other.version)
    store.delete("croupier:serving:churn")
    async with opened() as client:
        assert (await client.get("/readyz")).json()["policy"] != serving[0].version
        assert (await client.get(f"/v1/decisions/{first['decision_id']}")).json()["why"] == first["why"]


def test_churn_reasons_sum_to_the_score() -> None:
    bundle = churn_bundle()
    scorer, random = Scorer(bundle), np.random.default_rng(3)
    for _ in range(20):
        vector = random.normal(size=len(VECTOR))
        score = scorer.score(vector)
        assert sum(scorer.contributions(vector).values()) == pytest.approx(np.log(score / (1 - score)), abs=1e-9)


@pytest.fixture
async def recorded(opened: Opened, store: redis.Redis, serving: object) -> AsyncIterator[Recorded]:  # noqa: ARG001
    """A decision by the learnt policy, and how it is told once its record is as another build would have written it."""
    async with opened() as client:
        name = (await decided(client, "policy"))["decision_id"]
        deps = app_of(client).state.deps
        record = await find_record(name, deps.ledger, deps.lake)

        async def told(schema: Schema = TODAY, kept: bytes | None = None) -> dict[str, Any]:
            store.set(decision_key(name), dump_record(under(record, schema)))
            if kept is not None:
                store.set(bundle_key(schema.hash), kept)
            found: dict[str, Any] = (await client.get(f"/v1/decisions/{name}")).json()
            return found

        yield told


@pytest.mark.parametrize("schema", [*ALIKE.values(), *FEWER.values()], ids=[*ALIKE, *FEWER])
async def test_a_decision_of_another_build_is_told_by_the_names_of_its_features(
    recorded: Recorded, schema: Schema
) -> None:
    here, there = await recorded(), await recorded(schema, schema.dumps())
    assert there["why"] == here["why"]
    assert "missing" not in here["why"]
    values = here["features"]["values"]
    assert there["features"]["values"] == {name: values[name] for name in values if name not in lacking(schema)}
    assert there["schema"]["stored"] == list(schema.definitions)


@pytest.mark.parametrize("kept", [None, ALIKE["another order"].dumps(), b"junk"], ids=["nothing", "another", "junk"])
async def test_features_whose_names_are_not_kept_are_not_guessed(recorded: Recorded, kept: bytes | None) -> None:
    schema = ALIKE["one more in the middle"]
    told = await recorded(schema, kept)
    assert told["why"]["missing"] == f"its features are of schema {schema.hash}, which is not kept"
    assert told["why"]["action"] is told["why"]["churn"] is told["features"]["values"] is None
    assert told["schema"]["stored"] == []


async def test_reasons_that_rest_on_what_a_record_lacks_are_left_out_and_the_others_told(recorded: Recorded) -> None:
    """A model that reads a feature which is defined otherwise now cannot be asked again; what was logged stands."""
    here = (await recorded())["why"]
    unseen = otherwise("topup_sum_30d")  # of the churn model alone
    there = (await recorded(unseen, unseen.dumps()))["why"]
    assert there["missing"] == "it lacks topup_sum_30d, which its churn model reads"
    assert there["action"] == here["action"]
    assert there["churn"] == {name: here["churn"][name] for name in ("score", "model_version")} | {"reasons": []}
    seen = otherwise("last_login_at")
    there = (await recorded(seen, seen.dumps()))["why"]
    lacks = "it lacks last_login_days_ago, which its"
    assert there["missing"] == f"{lacks} policy reads; {lacks} churn model reads"
    logged = ("score", "probability")
    for one in ("chosen", "next_best"):
        assert {name: there["action"][one][name] for name in logged} == {
            name: here["action"][one][name] for name in logged
        }
        assert "parts" not in there["action"][one]
    assert there["action"]["leanings"] == []


async def test_a_model_that_this_build_cannot_read_is_named_and_the_rest_is_told(
    opened: Opened, store: redis.Redis, serving: tuple[PolicyVersion, ChurnBundle]
) -> None:
    """As one that reads a feature which is gone today."""
    async with opened() as client:
        first = await decided(client, "policy")
    store.delete(pointer_key("churn"))
    keep(store, b"a model of another time", serving[1].version)
    async with opened() as client:
        told = (await client.get(f"/v1/decisions/{first['decision_id']}")).json()["why"]
    assert told["missing"] == "its churn model could not be read"
    assert told["action"] == first["why"]["action"]
    assert (told["churn"]["score"], told["churn"]["reasons"]) == (first["churn"]["score"], [])


@pytest.mark.usefixtures("serving")
async def test_business_rules_have_no_parts_but_a_next_best(opened: Opened) -> None:
    async with opened() as client:
        reasons = (await decided(client, "business_rules"))["why"]["action"]
        assert "parts" not in reasons["chosen"]
        assert reasons["next_best"]["score"] >= 0
        assert reasons["leanings"] == []


@pytest.mark.usefixtures("serving")
async def test_a_player_is_shown_with_facts_features_and_the_last_decisions(opened: Opened) -> None:
    async with opened() as client:
        assert (await client.get("/v1/players/nobody")).json()["code"] == "unknown_player"
        told = await decided(client, "policy")
        player = told["player_id"]
        ids = [told["decision_id"]]
        for _ in range(25):
            ids.insert(0, (await client.post("/v1/decisions", json={"player_id": player})).json()["decision_id"])
        shown = (await client.get(f"/v1/players/{player}")).json()
        facts = {one["fact"]: one["value"] for one in shown["facts"]}
        assert facts["jurisdiction"] == "MT"
        assert facts["consent:main:email"] == "granted"
        since = {one["fact"]: one["since"] for one in shown["facts"]}
        assert since["birth_date"] is None
        assert since["opened"] == since["jurisdiction"]
        assert shown["features"]["values"]["deposit_count"]["value"] == 2
        assert 0 <= shown["features"]["age_seconds"] < shown["features"]["max_age_seconds"]
        assert [one["decision_id"] for one in shown["decisions"]] == ids[:20]
        assert shown["experiment"]["variant"] == "policy"
        assert shown["harm"]["level"] == "none"


@pytest.mark.usefixtures("serving")
async def test_where_a_law_forbids_what_the_policy_chooses_by_business_rules_serve(
    opened: Opened, serving: tuple[PolicyVersion, ChurnBundle]
) -> None:
    """Denmark forbids to choose by inactivity: there the policy, which sees it, is not asked."""
    async with opened() as client:
        player = (await decided(client, "policy"))["player_id"]
        for number, place in enumerate(("MT", "DK")):
            other = {"type": "login", "event_id": f"l{number}", "player_id": player, "location": place}
            position = await tell(client, [other | {"occurred_at": datetime.now(UTC).isoformat()}])
            body = {"player_id": player, "explain": True, "after": position, "dry_run": True}
            told = (await client.post("/v1/decisions", json=body)).json()
            assert told["experiment"]["variant"] == "policy"
            learnt = told["policy_version"] == serving[0].version
            assert learnt == (place == "MT")
            assert told["policy_version"].startswith("business_rules") != learnt


@pytest.mark.usefixtures("serving")
async def test_who_objected_is_not_scored_and_no_policy_is_asked(opened: Opened) -> None:
    async with opened() as client:
        before = await decided(client, "policy")
        assert 0 < before["churn"]["score"] < 1
        player = before["player_id"]
        objected = {"type": "objection_changed", "event_id": "o1", "player_id": player, "objects": True}
        position = await tell(client, [objected | {"occurred_at": datetime.now(UTC).isoformat()}])
        body = {"player_id": player, "explain": True, "after": position}
        told = (await client.post("/v1/decisions", json=body)).json()
        assert (told["action"], told["churn"]) == ("NO_CONTACT", None)
        whole = (await client.get(f"/v1/decisions/{told['decision_id']}")).json()
        assert (whole["role"], whole["churn"]) == ("objected", None)
        assert "H1" in [one["rule"] for one in whole["exclusions"]]
        assert (await client.get(f"/v1/players/{player}")).json()["churn"] is None
        again = objected | {"event_id": "o2", "objects": False}
        position = await tell(client, [again | {"occurred_at": datetime.now(UTC).isoformat()}])
        told = (await client.post("/v1/decisions", json=body | {"after": position})).json()
        assert 0 < told["churn"]["score"] < 1
