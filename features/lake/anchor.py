"""Where a lake's decisions begin after days of them were deleted: the chain goes on from there.

    lake/_anchor.json     last day that was deleted, and the last link of each partition's chain in it

It is written before the files are deleted: what is there of its days is passed over from then on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

ANCHOR: Final = "_anchor.json"


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """Last day that was deleted, `2020-03-02`, "" for none; by partition its last link, hexadecimal, and its place."""

    until: str = ""
    links: dict[str, str] = {}
    places: dict[str, str] = {}


def read_anchor(lake: Path) -> Anchor:
    """Anchor of a lake; raises msgspec.DecodeError if it is not whole."""
    file = lake / ANCHOR
    return msgspec.json.decode(file.read_bytes(), type=Anchor) if file.exists() else Anchor()
