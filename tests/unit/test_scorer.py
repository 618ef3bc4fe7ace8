"""The serving scorer against LightGBM's own Python package, on models trained here."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import re
import subprocess
import sys
import threading
import weakref
from functools import cache
from pathlib import Path

import lightgbm
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

import models.churn.scorer
from features.schema import MODEL_FEATURES, VECTOR
from models.churn.scorer import BundleError, ChurnBundle, Scorer, library_build

NAMES = [reading.name for reading in VECTOR]
ROOT = Path(__file__).parents[2]
SLOPE, INTERCEPT = 1.3, -0.4
KINDS = (
    "all features",
    "few features",
    "no names",
    "categories",
    "stopped early",
    "one leaf",
    "forest",
    "nothing missing",
)


def vectors(count: int, seed: int, *, missing: float = 0.2) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    matrix = rng.lognormal(sigma=2, size=(count, len(VECTOR)))
    matrix[:, NAMES.index("last_product")] = rng.integers(0, 9, count)
    matrix[rng.random(matrix.shape) < missing] = np.nan
    return matrix


def features_of(kind: str) -> tuple[str, ...]:
    # The reverse order shows that columns go by name.
    return MODEL_FEATURES if kind == "all features" else (*MODEL_FEATURES[40:30:-1], "last_product", "play_trend")


@cache
def trained(kind: str) -> lightgbm.Booster:
    matrix, rng = vectors(1500, 1, missing=0.0 if kind == "nothing missing" else 0.2), np.random.default_rng(2)
    features = features_of(kind)
    rows = matrix[:, [NAMES.index(name) for name in features]]
    label = (np.nan_to_num(np.log(rows[:, 0])) + (rows[:, -2] % 3 == 1) + rng.normal(size=len(rows)) > 0).astype(int)
    if kind == "one leaf":
        label[:] = rng.random(len(label)) < 0.3
        rows = np.zeros_like(rows)
    names = "auto" if kind == "no names" else list(features)
    categories = [len(features) - 2] if kind == "categories" else []
    data = lightgbm.Dataset(rows[:1000], label[:1000], feature_name=names, categorical_feature=categories)
    held_out = lightgbm.Dataset(rows[1000:], label[1000:], reference=data)
    settings = {"objective": "binary", "num_leaves": 7, "verbose": -1, "min_data_per_group": 10, "num_threads": 1}
    if kind == "forest":
        settings |= {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}
    stop = [lightgbm.early_stopping(2, verbose=False)] if kind == "stopped early" else []
    return lightgbm.train(settings, data, 25, valid_sets=[held_out], callbacks=stop)


def bundle_of(kind: str = "few features", **changes: object) -> ChurnBundle:
    fields: dict[str, object] = {
        "version": "churn-7",
        "horizon_days": 7,
        "features": features_of(kind),
        "model": trained(kind).model_to_string(),
        "slope": SLOPE,
        "intercept": INTERCEPT,
        "build": library_build(),
        "metadata": {"auc": 0.81, "ece": 0.02},
    }
    return ChurnBundle(**{**fields, **changes})  # type: ignore[arg-type]


def raw_of(kind: str, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = matrix[:, [NAMES.index(name) for name in features_of(kind)]]
    return np.asarray(trained(kind).predict(rows, raw_score=True))


def wire(**changes: object) -> bytes:
    """A bundle's bytes with fields exchanged, past the checks of its constructor; None takes a field away."""
    fields = {**msgspec.msgpack.decode(bundle_of().dumps()), **changes}
    return msgspec.msgpack.encode({name: value for name, value in fields.items() if value is not None})


def swapped(old: str, new: str) -> str:
    model = trained("few features").model_to_string()
    assert old in model
    return str(model.replace(old, new, 1))


def altered(field: str, *, at: int, value: str) -> str:
    """The model with one number of one line of its first tree exchanged."""
    model = trained("few features").model_to_string()
    line = re.search(rf"^{field}=(.*)$", model, re.MULTILINE)
    assert line
    numbers = line[1].split()
    numbers[at] = value.rjust(len(numbers[at]), "0") if value.isdigit() else value
    longer = len(" ".join(numbers)) - len(line[1])
    model = model[: line.start(1)] + " ".join(numbers) + model[line.end(1) :]
    return re.sub(r"tree_sizes=(\d+)", lambda size: f"tree_sizes={int(size[1]) + longer}", model)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_lightgbms_own_to_the_bit(kind: str) -> None:
    matrix = vectors(400, 3)
    raw = raw_of(kind, matrix)
    plain = Scorer(bundle_of(kind, slope=1.0, intercept=0.0))
    scorer = Scorer(bundle_of(kind))
    for vector, one in zip(matrix, raw, strict=True):
        plain.score(vector)
        assert plain._raw.value - one == 0.0
        assert scorer.score(vector) == pytest.approx(1 / (1 + math.exp(-(SLOPE * one + INTERCEPT))), rel=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_many_players_score_as_one_by_one(kind: str) -> None:
    matrix = vectors(300, 4)
    scorer = Scorer(bundle_of(kind))
    one_by_one = [scorer.score(vector) for vector in matrix]
    for layout in (matrix, np.asfortranarray(matrix), np.repeat(matrix, 2, axis=0)[::2]):
        assert scorer.score_many(layout).tolist() == one_by_one
    assert scorer.score_many(matrix[:0]).shape == (0,)


def test_a_vector_may_lie_anywhere_in_memory() -> None:
    matrix = vectors(20, 5)
    scorer = Scorer(bundle_of())
    assert [scorer.score(vector) for vector in np.asfortranarray(matrix)] == scorer.score_many(matrix).tolist()


def test_a_player_of_whom_nothing_is_known_has_a_score() -> None:
    assert 0 < Scorer(bundle_of()).score(np.full(len(VECTOR), np.nan)) < 1


def test_what_the_model_may_not_see_does_not_move_the_score() -> None:
    vector = vectors(1, 6)[0]
    scorer = Scorer(bundle_of("all features"))
    before = scorer.score(vector)
    vector[[at for at, name in enumerate(NAMES) if name not in MODEL_FEATURES]] = 1e9
    assert scorer.score(vector) == before


@pytest.mark.parametrize(("intercept", "score"), [(1e6, 1.0), (-1e6, 0.0), (0.0, 0.5)])
def test_extreme_calibrations_end_at_zero_and_one(intercept: float, score: float) -> None:
    assert Scorer(bundle_of(slope=0.0, intercept=intercept)).score(vectors(1, 7)[0]) == score


@pytest.mark.parametrize("shape", [(len(VECTOR) - 1,), (len(VECTOR) + 1,), (1, len(VECTOR)), ()])
def test_a_vector_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    scorer = Scorer(bundle_of())
    with pytest.raises(ValueError, match=r"those of schema\.VECTOR"):
        scorer.score(np.zeros(shape))
    if shape != (1, len(VECTOR)):
        with pytest.raises(ValueError, match=r"those of schema\.VECTOR"):
            scorer.score_many(np.zeros(shape))


def test_two_scorers_at_once_do_not_disturb_each_other() -> None:
    matrix = vectors(50, 8)
    one, other = Scorer(bundle_of()), Scorer(bundle_of("all features", slope=-2.0))
    ones, others = one.score_many(matrix).tolist(), other.score_many(matrix).tolist()
    for at, vector in enumerate(matrix):
        assert (one.score(vector), other.score(vector)) == (ones[at], others[at])
    one.close()
    assert [other.score(vector) for vector in matrix] == others


def test_threads_with_a_scorer_each_agree() -> None:
    matrix, bundle = vectors(300, 9), bundle_of("all features")
    expected = Scorer(bundle).score_many(matrix).tolist()
    found: list[list[float]] = []

    def work() -> None:
        scorer = Scorer(bundle)
        found.append([scorer.score(vector) for vector in matrix])
        found.append(scorer.score_many(matrix).tolist())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


def test_a_closed_scorer_refuses_and_may_be_closed_again() -> None:
    scorer = Scorer(bundle_of())
    scorer.close()
    scorer.close()
    with pytest.raises(RuntimeError, match="closed"):
        scorer.score(np.zeros(len(VECTOR)))
    with pytest.raises(RuntimeError, match="closed"):
        scorer.score_many(np.zeros((2, len(VECTOR))))


def test_a_forgotten_scorer_gives_its_model_back() -> None:
    scorer = Scorer(bundle_of())
    release, seen = scorer._release, weakref.ref(scorer)
    del scorer
    gc.collect()
    assert seen() is None
    assert not release.alive


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_comes_back_byte_for_byte(kind: str) -> None:
    bundle = bundle_of(kind)
    data = bundle.dumps()
    assert ChurnBundle.loads(data) == bundle
    assert ChurnBundle.loads(data).dumps() == data


def test_equal_bundles_have_equal_bytes() -> None:
    plain = bundle_of(slope=1.0, metadata={"auc": 1.0, "ece": 0.5})
    numpys = bundle_of(slope=np.float64(1), metadata={"ece": np.float32(0.5), "auc": 1}, features=[*plain.features])
    assert numpys.dumps() == plain.dumps()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not a churn bundle: Input data was truncated"),
        (b"garbage", "not a churn bundle: Expected `object`"),
        (b"\xc1\xff", "not a churn bundle: MessagePack data is malformed"),
        (wire()[:200], "not a churn bundle: Input data was truncated"),
        (wire() + b"\x00", "not a churn bundle: MessagePack data is malformed"),
        (wire(type="policy/1"), "not a churn bundle: Invalid value 'policy/1'"),
        (wire(slope=None), "not a churn bundle: Object missing required field `slope`"),
        (wire(slope="1"), r"not a churn bundle: Expected `float`, got `str` - at `\$.slope`"),
        (wire(more=1), "not a churn bundle: Object contains unknown field `more`"),
        (wire(slope=math.nan), "the calibration's slope is nan"),
        (wire(intercept=-math.inf), "the calibration's intercept is -inf"),
        (wire(horizon_days=0), "horizon_days is 0, not at least 1"),
        (wire(features=["night_share", "vip"]), "the features night_share, vip are none that schema.MODEL_FEATURES"),
        (wire(features=["play_trend", "play_trend"]), "a feature is named twice"),
        (wire(features=[]), "it has 12 features, the bundle names 0"),
        (wire(features=list(features_of("")[:5])), "it has 12 features, the bundle names 5"),
        (wire(features=list(features_of("")[::-1])), "its feature names differ from the bundle's, or stand in another"),
        (wire(model=""), "it has no tree"),
        (wire(model="I am a model"), "it has no tree"),
        (wire(model="\nTree=0\n"), "its field 'tree_sizes' is missing|its field 'feature_names' is missing"),
        (wire(model=swapped("num_leaves", "num_l\u00e9aves")), "it holds more than printable ASCII"),
        (wire(model=swapped("\nnum_leaves", "\0num_leaves")), "it holds more than printable ASCII"),
        (wire(model=swapped("num_class=1", "num_class=3")), "its num_class is 3, not 1"),
        (
            wire(model=swapped("num_tree_per_iteration=1", "num_tree_per_iteration=2")),
            "its num_tree_per_iteration is 2",
        ),
        (wire(model=swapped("max_feature_idx=11", "max_feature_idx=99")), "it has 100 features, the bundle names 12"),
        (wire(model=swapped("max_feature_idx=11", "max_feature_idx=xi")), "a number in it is none, invalid literal"),
        (wire(model=swapped("feature_infos=[", "feature_infos=[0:1] [")), "its feature_infos are incomplete"),
        (wire(model=swapped("tree_sizes=", "tree_sizes=9")), "its trees do not end where they should"),
        (wire(model=swapped("tree_sizes=", "nothing=1\ntree_sizes=\nx=")), "a tree has no size"),
        (wire(model=swapped("Tree=1\n", "Tree=7\n")), "tree 1 does not start where it should"),
        (wire(model=swapped("num_cat=0", "num_caT 0")), "tree 0 has a line without a value"),
        (wire(model=swapped("internal_value=", "internal_count=")), "a line stands in it twice"),
        (wire(model=swapped("is_linear=0", "is_linear=1")), "linear trees are not served"),
        (wire(model=swapped("num_leaves=7", "num_leaves=6")), "a tree has not 6 of leaf_value"),
        (wire(model=swapped("num_leaves=7", "num_leaves=0")), "a tree has no leaf"),
        (wire(model=swapped("left_child=", "lost_child=")), "its field 'left_child' is missing"),
        (wire(model=altered("leaf_value", at=2, value="nan")), "a leaf's value is not finite"),
        (wire(model=altered("threshold", at=0, value="1_0")), "is no number"),
        (wire(model=altered("split_feature", at=0, value="12")), "a split is on a feature that the model has not"),
        (wire(model=altered("decision_type", at=0, value="-8")), "a decision type does not exist"),
        (wire(model=altered("decision_type", at=0, value="9")), "a split uses a set of categories that does not exist"),
        (wire(model=altered("left_child", at=3, value="1")), "a split leads to a node that does not exist or back"),
        (wire(model=altered("right_child", at=0, value="-9")), "a split leads to a node that does not exist or back"),
        (wire(model=altered("num_cat", at=0, value="1")), "its field 'cat_boundaries' is missing"),
    ],
)
def test_a_malformed_bundle_is_refused_with_a_clear_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(BundleError, match=sentence) as refusal:
        ChurnBundle.loads(data)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("cat_boundaries=0 ", "cat_boundaries=1 ", "the categories of a tree are incomplete"),
        ("cat_threshold=", "cat_threshold=-", "a set of categories is no bit set"),
    ],
)
def test_damaged_categories_are_refused(old: str, new: str, sentence: str) -> None:
    model = trained("categories").model_to_string()
    at = model.index(old)
    tree = model.count("\nTree=", 0, at) - 1
    sizes = [int(size) for size in re.findall(r"\d+", re.search("tree_sizes=(.*)", model)[1])]  # type: ignore[index]
    sizes[tree] += len(new) - len(old)
    model = model[:at] + new + model[at + len(old) :]
    model = re.sub("tree_sizes=.*", f"tree_sizes={' '.join(map(str, sizes))}", model)
    with pytest.raises(BundleError, match=sentence):
        bundle_of("categories", model=model)


def test_a_model_cut_short_anywhere_is_refused() -> None:
    model = trained("few features").model_to_string()
    for end in range(0, model.index("end of trees"), 97):
        with pytest.raises(BundleError):
            bundle_of(model=model[:end])


def test_what_lightgbm_refuses_is_told_in_its_own_words() -> None:
    bundle = bundle_of(model=swapped("objective=binary", "objective=binarx"))
    with pytest.raises(BundleError, match="LightGBM: Unknown objective type name: binarx"):
        Scorer(bundle)


@pytest.mark.parametrize("function", ["LGBM_BoosterGetNumFeature", "LGBM_BoosterGetNumClasses"])
def test_a_model_that_lightgbm_reads_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    # Its answers would be written past the end of the scorer's buffer.
    count = models.churn.scorer._count
    monkeypatch.setattr(
        "models.churn.scorer._count", lambda asked, booster: count(asked, booster) + (asked == function)
    )
    with pytest.raises(BundleError, match="LightGBM reads"):
        Scorer(bundle_of())


def test_a_failing_prediction_is_an_error_and_not_a_score() -> None:
    scorer = Scorer(bundle_of())
    scorer._predict = lambda *_: -1
    with pytest.raises(BundleError, match=r"^LightGBM: "):
        scorer.score(np.zeros(len(VECTOR)))


def test_loading_leaves_lightgbms_own_threads_as_they_were() -> None:
    before, after = ctypes.c_int(), ctypes.c_int()
    library, bundle = models.churn.scorer._library(), bundle_of()
    library.LGBM_GetMaxThreads(ctypes.byref(before))
    threads = [threading.Thread(target=Scorer, args=(bundle,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    library.LGBM_GetMaxThreads(ctypes.byref(after))
    assert after.value == before.value


AFTER_FORK = """
import os, signal, sys
import lightgbm, numpy as np
from features.schema import VECTOR
from models.churn.scorer import ChurnBundle, Scorer

bundle, rng = ChurnBundle.loads(sys.stdin.buffer.read()), np.random.default_rng(0)
settings = {"objective": "binary", "verbose": -1, "num_threads": 2}
lightgbm.train(settings, lightgbm.Dataset(rng.normal(size=(5000, 9)), rng.integers(0, 2, 5000)), 3)
child = os.fork()
if not child:
    signal.alarm(20)
    os._exit(not 0 <= Scorer(bundle).score(np.zeros(len(VECTOR))) <= 1)
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
def test_a_child_forked_from_a_training_process_can_load_and_score() -> None:
    command = [sys.executable, "-c", AFTER_FORK]
    done = subprocess.run(command, cwd=ROOT, input=bundle_of().dumps(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


DAMAGE = """
import random, sys
import numpy as np
from features.schema import VECTOR
from models.churn.scorer import BundleError, ChurnBundle, Scorer
import msgspec

bundle, random, served = ChurnBundle.loads(sys.stdin.buffer.read()), random.Random(5), 0
for _ in range(400):
    at = random.randrange(bundle.model.index("end of trees"))
    model = bundle.model[:at] + random.choice("0123456789 =-.e\\nN_") + bundle.model[at + random.randrange(2):]
    try:
        scorer = Scorer(msgspec.structs.replace(bundle, model=model))
    except BundleError:
        continue
    scorer.score(np.zeros(len(VECTOR)))
    served += 1
assert 0 < served < 300, served
"""


@pytest.mark.parametrize("kind", ["few features", "categories"])
def test_no_damage_of_the_text_brings_the_process_down(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE], cwd=ROOT, input=bundle_of(kind).dumps(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]


def test_serving_imports_nothing_heavy() -> None:
    code = (
        "import sys, numpy; from models.churn.scorer import ChurnBundle, Scorer, library_build; "
        "from features.schema import VECTOR; "
        "scorer = Scorer(ChurnBundle.loads(sys.stdin.buffer.read())); "
        "print(scorer.score(numpy.zeros(len(VECTOR))), library_build()); "
        "print(*sorted({'lightgbm', 'sklearn', 'pandas', 'mlflow', 'scipy'} & set(sys.modules)))"
    )
    bundle = bundle_of()
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, input=bundle.dumps(), capture_output=True, check=True)
    score = Scorer(bundle).score(np.zeros(len(VECTOR)))
    assert done.stdout.decode().split("\n") == [f"{score} {library_build()}", "", ""]
    assert done.stderr == b""


def test_the_build_names_version_and_platform() -> None:
    assert library_build().startswith(f"lightgbm {lightgbm.__version__} ")


def test_without_lightgbm_installed_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("models.churn.scorer._library", Scorer.__init__.__globals__["_library"].__wrapped__)
    with pytest.raises(ImportError, match="install the package lightgbm"):
        Scorer(bundle_of())
