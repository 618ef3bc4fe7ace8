"""Schemas that are kept by their hash, and stored values of any of them by the names of today's.

A record holds stored values in the order of its own build, and the hash of that build's schema. What the hash stands
for is kept where the record is, in the same bytes everywhere, and is believed only where it gives the hash again:

    features/schemas/HASH.json   every schema that a commit of ours had
    bundle HASH of the store     those of the processes that served its house
    lake/_schemas/HASH.json      those of the decisions in the lake, written before them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.aggregates import SOURCES
from features.errors import CroupierError
from features.schema import STORED, VECTOR, Feature, definition, hash_of_definitions, schema_hash

FOLDER: Final = "_schemas"
"""Folder of a lake that holds the schemas of its decisions."""
_DEFAULTS: Final = {one.name: one.default for one in fields(Feature) if one.default is not MISSING}


class SchemaError(CroupierError, ValueError):
    """A schema that is not kept, or is not what its hash says; or values that are not of it."""

    code = "unknown_schema"


@dataclass(frozen=True, eq=False)
class Schema:
    """The stored features of a build, in the order in which its records hold their values.

    Attributes:
        hash: As records name it, twelve hex digits.
        definitions: Name -> what the hash covers of the feature, which may be of a kind that this build does not know.
    """

    hash: str
    definitions: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, features: Sequence[Feature]) -> Self:
        """The schema of a list of features."""
        return cls._made([definition(one) for one in features])

    @classmethod
    def loads(cls, data: bytes, hash_: str) -> Self:
        """Read what `dumps` wrote.

        Raises:
            SchemaError: It is something else, or the schema of another hash.
        """
        try:
            held = msgspec.json.decode(data, type=list[dict[str, Any]])
            told = [one | {"when": {name: tuple(values) for name, values in one["when"].items()}} for one in held]
            found = cls._made(told)
        except (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SchemaError(f"what is kept as the features' schema {hash_} is none") from error
        if found.hash != hash_:
            raise SchemaError(
                f"what is kept as the features' schema {hash_} is another: its content gives {found.hash}"
            )
        return found

    @classmethod
    def _made(cls, told: Sequence[Mapping[str, Any]]) -> Self:
        return cls(hash_of_definitions(told), {one["name"]: one for one in told})

    def dumps(self) -> bytes:
        """The schema to be kept, a feature a line."""
        return b"[\n" + b",\n".join(msgspec.json.encode(one) for one in self.definitions.values()) + b"\n]\n"

    def has(self, name: str, wanted: Schema) -> bool:
        """Whether it has a feature as another schema defines it; the same name defined otherwise is another feature."""
        own = self.definitions.get(name)
        return own is not None and {**_DEFAULTS, **own} == {**_DEFAULTS, **wanted.definitions[name]}


TODAY: Final = Schema.of(STORED)
"""The schema of this build."""


@lru_cache(64)
def _places(recorded: Schema, wanted: Schema) -> NDArray[np.intp]:
    """Place of each wanted feature in the recorded values; the place behind the last for one that was not recorded."""
    place = {name: at for at, name in enumerate(recorded.definitions)}
    found = [place[name] if recorded.has(name, wanted) else len(place) for name in wanted.definitions]
    return np.array(found, dtype=np.intp)


def by_name(values: NDArray[np.float64], recorded: Schema, wanted: Schema = TODAY) -> NDArray[np.float64]:
    """Recorded values in the order of another schema.

    Args:
        values: Encoded stored values, shape (len(recorded.definitions),).
        recorded: What they were recorded under.
        wanted: What they are wanted as.

    Returns:
        Shape (len(wanted.definitions),). What was not recorded is NaN, as of a player of whom it never happened, and
        as of everyone on the day on which the feature is new; what is not wanted is dropped.

    Raises:
        SchemaError: They are not as many as the schema has features.
    """
    if values.shape != (len(recorded.definitions),):
        raise SchemaError(f"{values.size} values are not the {len(recorded.definitions)} of schema {recorded.hash}")
    if recorded.hash == wanted.hash:
        return values
    return np.append(values, np.nan)[_places(recorded, wanted)]


@lru_cache(64)
def lacking(recorded: Schema, wanted: Schema = TODAY) -> frozenset[str]:
    """Readings of `VECTOR` that rest on a feature which was not recorded: their value is that of a new player."""
    missing = {name for name in wanted.definitions if not recorded.has(name, wanted)}
    return frozenset(one.name for one in VECTOR if SOURCES[one.name] & missing)


@cache
def _of_ours(hash_: str) -> Schema | None:
    kept = resources.files("features").joinpath("schemas", f"{hash_}.json")
    return Schema.loads(kept.read_bytes(), hash_) if hash_.isalnum() and kept.is_file() else None


def find(hash_: str, read: Callable[[str], bytes | None] = lambda _: None) -> Schema:
    """The schema of a hash: today's, one of a commit of ours, or one that is kept beside the records.

    Args:
        hash_: As a record names it.
        read: Gives what is kept beside them by its hash, None if nothing is.

    Raises:
        SchemaError: It is not kept, or what is kept is not what the hash says.
    """
    if (known := TODAY if hash_ == schema_hash() else _of_ours(hash_)) is not None:
        return known
    if (kept := read(hash_)) is None:
        raise SchemaError(f"the features' schema {hash_} is not kept, so what was recorded under it has no names")
    return Schema.loads(kept, hash_)


class LakeSchemas:
    """Schemas of the decisions in a lake, which needs no store to be read."""

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._found: dict[str, Schema] = {}

    def find(self, hash_: str) -> Schema:
        """The schema of a hash; raises SchemaError as `find` does."""
        if hash_ not in self._found:
            self._found[hash_] = find(hash_, self._read)
        return self._found[hash_]

    def _read(self, hash_: str) -> bytes | None:
        file = self._lake / FOLDER / f"{hash_}.json"
        return file.read_bytes() if hash_.isalnum() and file.exists() else None
