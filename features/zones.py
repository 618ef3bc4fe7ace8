"""Time zones from one source: the pinned package `tzdata`, whatever the machine offers.

Decisions record the version of these data (`Versions.time_zones`), so local hours are computed from nothing else:
`zone` reads the package's own files, past the search path of `zoneinfo`, which reads a machine's files first.
`pin` does the same for libraries that read zones themselves, and is called at the start of every process.

Since 8 January 1972 every zone's clock is whole minutes from UTC, and is only ever set at whole minutes: what depends
on local clocks alone stays as it is within a minute of UTC.
"""

from __future__ import annotations

import zoneinfo  # noqa: TID251 - this is the one home of zones
from base64 import urlsafe_b64encode
from datetime import tzinfo
from functools import cache
from hashlib import sha256
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from typing import Final

import tzdata

from features.errors import CroupierError

_PACKAGE: Final = "tzdata"


class ZonesRefused(CroupierError):
    """The zone data that would be used are not those that records name."""

    code = "zones_refused"
    exit_code = 2


@cache
def names() -> frozenset[str]:
    """IANA names of all zones of the package."""
    return frozenset(_data().joinpath("zones").read_text("utf8").split())


@cache
def zone(name: str) -> tzinfo:
    """Load a zone by its IANA name; raises ZoneInfoNotFoundError for an unknown name."""
    if name not in names():
        raise zoneinfo.ZoneInfoNotFoundError(f"no time zone {name}")
    with _data().joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return zoneinfo.ZoneInfo.from_file(file, key=name)


def known(name: str | None) -> str | None:
    """A zone's name where the package has it, else None: names stored under other data count as unknown."""
    return name if name in names() else None


def spelt(name: object) -> object:
    """Correct the case and blanks of a zone's name; other names stay as they are."""
    if not isinstance(name, str) or name in names():
        return name
    return _folded().get("_".join(name.split()).casefold(), name)


@cache
def _folded() -> dict[str, str]:
    return {name.casefold(): name for name in names()}


def pin() -> str:
    """Make the package the only source of zones in this process; returns the version of its data.

    Raises:
        ZonesRefused: The package's files are not those that were installed, or are of another version than it says.
    """
    zoneinfo.reset_tzpath(())
    zoneinfo.ZoneInfo.clear_cache()
    version = _data().joinpath("zoneinfo", "tzdata.zi").read_text("utf8").partition("\n")[0].rpartition(" ")[2]
    if version != tzdata.IANA_VERSION:
        raise ZonesRefused(f"tzdata says {tzdata.IANA_VERSION} and holds zones of {version}: install it anew")
    if altered := _altered():
        raise ZonesRefused(f"{altered} of tzdata is not the file that was installed: install it anew")
    return version


def _data() -> Traversable:
    return resources.files(_PACKAGE)


def _altered() -> str | None:
    """The first file of the package that differs from its record, None if all match or none was kept."""
    for file in metadata.files(_PACKAGE) or ():
        if file.parts[0] == _PACKAGE and file.hash is not None and file.suffix != ".pyc":
            read = _data().joinpath(*file.parts[1:])
            if not read.is_file() or _digest(read.read_bytes()) != file.hash.value:
                return str(file)
    return None


def _digest(content: bytes) -> str:
    return urlsafe_b64encode(sha256(content).digest()).rstrip(b"=").decode()
