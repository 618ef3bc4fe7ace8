"""The churn model in serving: LightGBM's C library through ctypes; microseconds per row.

Neither the lightgbm package nor what it drags in (pandas, scikit-learn) is imported: its import costs seconds
and hundreds of MB, the shared library beside it 0.02 s. Training hands over a `ChurnBundle`; a `Scorer` reads it.

    vector (VECTOR) --by name--> row (bundle.features) --trees--> raw score --slope, intercept--> probability
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import math
import platform
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.errors import CroupierError
from features.schema import MODEL_FEATURES, VECTOR

_POSITION: Final = {reading.name: at for at, reading in enumerate(VECTOR)}
_SHAPE: Final = (len(VECTOR),)


class BundleError(CroupierError, ValueError):
    """A bundle that cannot be scored with; the fault is whoever made or damaged it."""

    code = "invalid_bundle"


class ChurnBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="churn/1"):
    """A trained churn model with everything that serving needs; an instance is always consistent.

    Attributes:
        version: Name of the model version, as logged with every decision.
        horizon_days: H of P(no approved deposit in the next H days), at least 1.
        features: Names out of `schema.MODEL_FEATURES`, in the order of the model's columns.
        model: LightGBM's text model: one output per row, no linear trees.
        slope: Calibrated probability = sigmoid(slope * raw + intercept).
        intercept: See `slope`.
        build: `library_build()` of the training process; scores are reproducible bit for bit on it.
        metadata: What training measured, such as auc and ece.

    Raises:
        BundleError: If the parts contradict each other or the schema.
    """

    version: str
    horizon_days: int
    features: tuple[str, ...]
    model: str
    slope: float
    intercept: float
    build: str
    metadata: dict[str, float]

    def __post_init__(self) -> None:
        # Numpy's floats and whole numbers too become floats, so that what is written equals what is read.
        msgspec.structs.force_setattr(self, "features", tuple(self.features))
        msgspec.structs.force_setattr(self, "slope", float(self.slope))
        msgspec.structs.force_setattr(self, "intercept", float(self.intercept))
        msgspec.structs.force_setattr(self, "metadata", {key: float(at) for key, at in self.metadata.items()})
        _require(self.horizon_days >= 1, f"horizon_days is {self.horizon_days}, not at least 1")
        for name, value in (("slope", self.slope), ("intercept", self.intercept)):
            _require(math.isfinite(value), f"the calibration's {name} is {value}")
        _check_features(self.features)
        _check_model(self.model, self.features)

    def dumps(self) -> bytes:
        """The bundle as msgpack; equal bundles give equal bytes, whatever the order of their metadata."""
        return msgspec.msgpack.encode(self, order="deterministic")

    @classmethod
    def loads(cls, data: bytes) -> Self:
        """Read a bundle that `dumps` wrote.

        Raises:
            BundleError: If it is anything else, or a bundle that contradicts itself or the schema.
        """
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            reason = error.__cause__ if isinstance(error.__cause__, BundleError) else f"not a churn bundle: {error}"
            raise BundleError(str(reason)) from error


class Scorer:
    """A loaded bundle; use one instance per thread.

    Every `score` writes its row into one buffer of the instance and LightGBM writes the answer into another, at
    addresses fixed when the model was loaded; nothing is allocated per call. Two threads in one instance would
    score each other's rows. Instances share nothing, so that each thread or worker may have its own, and a new
    version can be loaded while the old one serves. NaN means missing.

    Attributes:
        bundle: What it was made of.

    Raises:
        BundleError: If LightGBM refuses the model, with its own words.
        ImportError: If LightGBM is not installed.
    """

    def __init__(self, bundle: ChurnBundle) -> None:
        self.bundle = bundle
        self._slope, self._intercept = bundle.slope, bundle.intercept
        self._columns = np.array([_POSITION[name] for name in bundle.features], dtype=np.intp)
        self._row = np.empty(len(bundle.features))
        self._raw = ctypes.c_double()
        self._booster, fast = _load(bundle)
        self._release = weakref.finalize(self, _free, self._booster, fast)
        self._predict = _predict_row()
        self._arguments = (fast, _address(self._row), ctypes.byref(ctypes.c_int64()), ctypes.byref(self._raw))

    def score(self, vector: NDArray[np.float64]) -> float:
        """Churn score of one player.

        Args:
            vector: The numbers of `schema.VECTOR`, in its order, NaN where missing.

        Returns:
            Calibrated P(no approved deposit in the next `bundle.horizon_days` days).
        """
        if vector.shape != _SHAPE:
            raise ValueError(_misfit(vector))
        vector.take(self._columns, out=self._row, mode="clip")  # "raise" would buffer; the columns are in range
        if self._predict(*self._arguments):
            raise BundleError(_last_error())
        return _sigmoid(self._slope * self._raw.value + self._intercept)

    def score_many(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Churn scores of many players, each bit for bit the `score` of its row.

        Args:
            matrix: One row per player, shape (n, len(VECTOR)); n may be 0.

        Returns:
            n probabilities.
        """
        if matrix.ndim != 2 or matrix.shape[1:] != _SHAPE:
            raise ValueError(_misfit(matrix))
        raw = self._predict_rows(matrix, _RAW_SCORE, 1)[:, 0]
        # One exp for both paths: numpy's vectorised one may differ from it in the last bit.
        return np.array([_sigmoid(self._slope * one + self._intercept) for one in raw.tolist()], dtype=np.float64)

    def contributions(self, vector: NDArray[np.float64]) -> dict[str, float]:
        """Contribution of each feature to the log odds of churn (LightGBM's TreeSHAP); `""` names the base value.

        Args:
            vector: See `score`. The contributions sum to the log odds of its score.
        """
        if vector.shape != _SHAPE:
            raise ValueError(_misfit(vector))
        found = self._slope * self._predict_rows(vector[np.newaxis], _CONTRIBUTIONS, len(self.bundle.features) + 1)[0]
        return {**dict(zip(self.bundle.features, found.tolist(), strict=False)), "": float(found[-1]) + self._intercept}

    def close(self) -> None:
        """Free the model's memory now; a second call does nothing."""
        self._predict = _closed
        self._release()

    def _predict_rows(self, matrix: NDArray[np.float64], kind: int, width: int) -> NDArray[np.float64]:
        """LightGBM's output for rows of VECTOR, shape (n, width)."""
        rows = np.ascontiguousarray(matrix.take(self._columns, axis=1), dtype=np.float64)
        found = np.empty((len(rows), width))
        if not self._release.alive:
            _closed()
        if len(rows):
            shape = (_FLOAT64, *rows.shape, 1)  # 1: row after row
            out = (ctypes.byref(ctypes.c_int64()), _address(found))
            how = (*shape, kind, 0, -1, _ONE_THREAD)
            _call(_library().LGBM_BoosterPredictForMat(self._booster, _address(rows), *how, *out))
        return found


def library_build() -> str:
    """LightGBM's version and platform, such as `lightgbm 4.7.0 Linux x86_64`; the last bit of a score depends on it."""
    return f"lightgbm {importlib.metadata.version('lightgbm')} {platform.system()} {platform.machine()}"


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    odds = math.exp(logit)  # never overflows, as exp(-logit) would
    return odds / (1 + odds)


def _misfit(values: NDArray[np.float64]) -> str:
    return f"a vector has {_SHAPE[0]} numbers, those of schema.VECTOR, and this array is of shape {values.shape}"


# --- LightGBM's C API: https://github.com/microsoft/LightGBM/blob/v4.6.0/include/LightGBM/c_api.h

_FLOAT64: Final = 1
_RAW_SCORE: Final = 1
_CONTRIBUTIONS: Final = 3
_ONE_THREAD: Final = b"num_threads=1"


def _library_path() -> Path:
    spec = importlib.util.find_spec("lightgbm")  # looks, does not import
    homes = (spec and spec.submodule_search_locations) or ()
    paths = [path for home in homes for path in Path(home).glob("*/lib_lightgbm.*")]
    if not paths:
        raise ImportError("LightGBM's shared library is not installed; install the package lightgbm", name="lightgbm")
    return paths[0]


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_library_path()))
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    return library


@cache
def _predict_row() -> Callable[..., int]:
    # PyDLL keeps the interpreter's lock: to give it up for microseconds risks 5 ms until it comes back.
    predict: Callable[..., int] = ctypes.PyDLL(str(_library_path())).LGBM_BoosterPredictForMatSingleRowFast
    return predict


def _load(bundle: ChurnBundle) -> tuple[ctypes.c_void_p, ctypes.c_void_p]:
    """Load the booster and its single-row handle, which points into it."""
    library, booster, fast = _library(), ctypes.c_void_p(), ctypes.c_void_p()
    with _one_thread():
        text = bundle.model.encode("ascii")
        _call(library.LGBM_BoosterLoadModelFromString(text, ctypes.byref(ctypes.c_int()), ctypes.byref(booster)))
    columns = len(bundle.features)
    try:
        # Too few places for the answer, or too many columns, would be written and read past the buffers' ends.
        _require(_count("LGBM_BoosterGetNumFeature", booster) == columns, "LightGBM reads another number of features")
        _require(_count("LGBM_BoosterGetNumClasses", booster) == 1, "LightGBM reads more than one output per row")
        how = (_RAW_SCORE, 0, -1, _FLOAT64, columns, _ONE_THREAD)
        _call(library.LGBM_BoosterPredictForMatSingleRowFastInit(booster, *how, ctypes.byref(fast)))
    except BundleError:
        _free(booster, fast)
        raise
    return booster, fast


_LOADING: Final = threading.Lock()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run LightGBM without OpenMP's threads: a process forked after they ran would wait for them forever."""
    limit = ctypes.c_int()
    with _LOADING:  # the limit is the whole process's
        _call(_library().LGBM_GetMaxThreads(ctypes.byref(limit)))
        _call(_library().LGBM_SetMaxThreads(1))
        try:
            yield
        finally:
            _call(_library().LGBM_SetMaxThreads(limit))


def _free(booster: ctypes.c_void_p, fast: ctypes.c_void_p) -> None:
    if fast:
        _library().LGBM_FastConfigFree(fast)
    _library().LGBM_BoosterFree(booster)


def _count(function: str, booster: ctypes.c_void_p) -> int:
    count = ctypes.c_int()
    _call(getattr(_library(), function)(booster, ctypes.byref(count)))
    return count.value


def _call(code: int) -> None:
    if code:
        raise BundleError(_last_error())


def _last_error() -> str:
    text = _library().LGBM_GetLastError().decode(errors="replace")
    return f"LightGBM: {' '.join(text.split())}"


def _address(array: NDArray[np.float64]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _closed(*_: object) -> int:
    raise RuntimeError("the scorer is closed")


# --- The text model. LightGBM 4.7 trusts it: one cut short or with a wrong index makes it abort the process or read
# --- foreign memory, where an error was due. So the text is read here before LightGBM sees it.

_PER_LEAF: Final = ("leaf_value", "leaf_weight", "leaf_count")
_PER_SPLIT: Final = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
_NOTED: Final = ("split_gain", "internal_value", "internal_weight", "internal_count")  # per split, may lack


def _require(holds: bool, sentence: str) -> None:  # noqa: FBT001 - an assertion with a sentence
    if not holds:
        raise BundleError(sentence)


def _check_features(features: tuple[str, ...]) -> None:
    foreign = sorted(set(features) - set(MODEL_FEATURES))
    _require(not foreign, f"the features {', '.join(foreign)} are none that schema.MODEL_FEATURES lets a model see")
    _require(len(set(features)) == len(features), "a feature is named twice")


def _check_model(model: str, features: tuple[str, ...]) -> None:
    reason = "the model text does not fit the bundle, is not LightGBM's or is damaged"
    try:
        _check_text(model, features)
    except BundleError as error:
        raise BundleError(f"{reason}: {error}") from error
    except KeyError as error:
        raise BundleError(f"{reason}: its field {error} is missing") from error
    except ValueError as error:
        raise BundleError(f"{reason}: a number in it is none, {error}") from error


def _check_text(model: str, features: tuple[str, ...]) -> None:
    _require(model.replace("\n", "").isprintable() and model.isascii(), "it holds more than printable ASCII")
    head, first, _ = model.partition("\nTree=0\n")
    _require(bool(first), "it has no tree")
    header = _fields(head)
    _check_header(header, features)
    for at, tree in enumerate(_trees(model, len(head) + 1, _integers(header["tree_sizes"]))):
        _require(tree.startswith(f"Tree={at}\n"), f"tree {at} does not start where it should")
        body = tree.partition("\n\n")[0]  # LightGBM too reads to the first empty line, and a name to the next "="
        _require(all("=" in line for line in body.split("\n")), f"tree {at} has a line without a value")
        _check_tree(_fields(body), len(features))


def _check_header(header: Mapping[str, str], features: tuple[str, ...]) -> None:
    own = header["feature_names"].split()
    count = int(header["max_feature_idx"]) + 1
    _require(count == len(features), f"it has {count} features, the bundle names {len(features)}")
    unnamed = [f"Column_{at}" for at in range(count)]
    _require(own in (list(features), unnamed), "its feature names differ from the bundle's, or stand in another order")
    _require(len(header["feature_infos"].split()) == count, "its feature_infos are incomplete")
    for name in ("num_class", "num_tree_per_iteration"):
        _require(int(header[name]) == 1, f"its {name} is {header[name]}, not 1")


def _trees(model: str, start: int, sizes: list[int]) -> Iterator[str]:
    _require(bool(sizes) and min(sizes) > 0, "a tree has no size")
    bounds = list(accumulate(sizes, initial=start))
    _require(model.startswith("end of trees", bounds[-1]), "its trees do not end where they should")
    return (model[begin:end] for begin, end in pairwise(bounds))


def _check_tree(tree: Mapping[str, str], columns: int) -> None:
    (leaves,), (categories,) = _integers(tree["num_leaves"]), _integers(tree["num_cat"])
    _require(len(_numbers(tree["shrinkage"])) == 1, "a tree's shrinkage is no number")
    _require(leaves >= 1 and categories >= 0, "a tree has no leaf")
    _require(_integers(tree.get("is_linear", "0")) == [0], "linear trees are not served")
    _check_lengths(tree, leaves)
    if leaves > 1:
        _check_splits(tree, leaves, columns)
        _check_categories(tree, categories)


def _check_lengths(tree: Mapping[str, str], leaves: int) -> None:
    needed = {"leaf_value", *(_PER_SPLIT if leaves > 1 else ())}
    for name in (*_PER_LEAF, *_PER_SPLIT, *_NOTED):
        length = leaves if name in _PER_LEAF else leaves - 1
        numbers = _numbers(tree[name] if name in needed else tree.get(name, ""))
        _require(len(numbers) == length or not (numbers or name in needed), f"a tree has not {length} of {name}")
    # A threshold may be NaN: the split that parts what is missing from what is not.
    _require(all(map(math.isfinite, _numbers(tree["leaf_value"]))), "a leaf's value is not finite")


def _check_splits(tree: Mapping[str, str], leaves: int, columns: int) -> None:
    used = _integers(tree["split_feature"])
    _require(min(used) >= 0 and max(used) < columns, "a split is on a feature that the model has not")
    _require(all(0 <= one < 16 for one in _integers(tree["decision_type"])), "a decision type does not exist")
    children = [*zip(_integers(tree["left_child"]), _integers(tree["right_child"]), strict=True)]
    # LightGBM numbers a split after its parent, so a child that does not follow its parent would run in a circle.
    sound = all(at < child < leaves - 1 or -leaves <= child < 0 for at, pair in enumerate(children) for child in pair)
    _require(sound, "a split leads to a node that does not exist or back to where it came from")


def _check_categories(tree: Mapping[str, str], categories: int) -> None:
    kinds, thresholds = _integers(tree["decision_type"]), _numbers(tree["threshold"])
    chosen = [limit for kind, limit in zip(kinds, thresholds, strict=True) if kind & 1]
    _require(all(0 <= one < categories for one in chosen), "a split uses a set of categories that does not exist")
    if categories:
        bounds, words = _integers(tree["cat_boundaries"]), _integers(tree["cat_threshold"])
        rising = bounds[:1] == [0] and bounds == sorted(bounds) and bounds[-1] == len(words)
        _require(len(bounds) == categories + 1 and rising, "the categories of a tree are incomplete")
        _require(all(0 <= word < 2**32 for word in words), "a set of categories is no bit set")


def _fields(block: str) -> dict[str, str]:
    lines = [line for line in block.split("\n") if line]
    fields = {name: value for name, _, value in (line.partition("=") for line in lines)}
    _require(len(fields) == len(lines), "a line stands in it twice")
    return fields


def _integers(text: str) -> list[int]:
    return [int(one) for one in _tokens(text)]


def _numbers(text: str) -> list[float]:
    return [float(one) for one in _tokens(text)]


def _tokens(text: str) -> list[str]:
    _require("_" not in text, f"{text[:20]} is no number")  # Python reads 1_0, LightGBM aborts
    return text.split()
