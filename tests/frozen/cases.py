"""Frozen cases: what an earlier build stored, beside the values that reading it gives."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from pydantic import BaseModel

READERS: Final = Path(__file__).parent / "readers"


@dataclass(frozen=True)
class Case:
    """A frozen thing.

    Attributes:
        raw: As it is stored: bytes, or the text, hash or stream of a JSON file.
        gives: The values that reading it gives.
        more: What else its JSON file says.
    """

    kind: str
    version: int
    name: str
    raw: Any
    gives: Any
    more: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.kind}-{self.version}-{self.name}"


def versions(kind: str) -> list[int]:
    """Versions of a kind that are frozen."""
    return sorted(int(place.name.partition(".")[0]) for place in (READERS / kind).iterdir())


def cases(kind: str, version: int) -> Iterator[Case]:
    """Cases of one version of a kind: `kind/1.json` with all of them, or a folder `kind/1` with two files for each."""
    whole = READERS / kind / f"{version}.json"
    if whole.exists():
        for name, told in json.loads(whole.read_text("utf8")).items():
            yield Case(kind, version, name, told["raw"], told["gives"], told)
        return
    for file in sorted((READERS / kind / str(version)).glob("*.gives.json")):
        name, told = file.name.partition(".")[0], json.loads(file.read_text("utf8"))
        yield Case(kind, version, name, stored(file, name), told["gives"], told)


def stored(file: Path, name: str) -> bytes:
    """What lies beside the file of values, unpacked."""
    (beside,) = (one for one in file.parent.glob(f"{name}.*") if one != file)
    return lzma.decompress(beside.read_bytes()) if beside.suffix == ".xz" else beside.read_bytes()


def every(*kinds: str) -> pytest.MarkDecorator:
    """Parametrises a test with all frozen cases of some kinds, of every version that was ever written."""
    found = [case for kind in kinds for version in versions(kind) for case in cases(kind, version)]
    return pytest.mark.parametrize("case", found, ids=str)


def written(today: Mapping[str, int]) -> pytest.MarkDecorator:
    """Parametrises a test with the frozen cases of kinds in the version of each that is written today."""
    return pytest.mark.parametrize("case", [case for pair in today.items() for case in cases(*pair)], ids=str)


def shown(value: Any) -> Any:
    """A value as JSON has it: fields by name, bytes as hex digits, days as ISO dates, what is not a number as null."""
    if (fields := _fields(value)) is not None:
        return {_name(name): shown(one) for name, one in fields.items()}
    match value:
        case bytes():
            return value.hex()
        case float() if math.isnan(value):
            return None
        case date():
            return value.isoformat()
        case np.ndarray():
            return shown(value.tolist())
        case AbstractSet():
            return sorted(shown(one) for one in value)
        case list() | tuple():
            return [shown(one) for one in value]
    return value


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """What a value holds by name; None for one that has no names."""
    match value:
        case Mapping():
            return value
        case BaseModel():
            return value.model_dump()
        case msgspec.Struct():
            return msgspec.structs.asdict(value)
        case tuple() if hasattr(value, "_asdict"):
            return dict(value._asdict())
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else None


def _name(name: Any) -> str:
    match name:
        case bytes():
            return name.decode()
        case tuple():
            return "|".join(name)
    return str(name)


def assert_gives(found: Any, frozen: Any, where: str = "", digits: int = 12) -> None:
    """Every frozen value is there and the same, floats to some digits; fields may have been added since."""
    if isinstance(frozen, dict):
        assert isinstance(found, dict), where
        for name, value in frozen.items():
            assert name in found, f"{where}/{name} is gone"
            assert_gives(found[name], value, f"{where}/{name}", digits)
    elif isinstance(frozen, list):
        assert isinstance(found, list), where
        assert len(found) == len(frozen), where
        for at, (one, value) in enumerate(zip(found, frozen, strict=True)):
            assert_gives(one, value, f"{where}/{at}", digits)
    elif isinstance(frozen, float):
        assert found == pytest.approx(frozen, rel=10**-digits, abs=1e-15), where
    else:
        assert found == frozen, where
