"""Whether anything is held of a player: an id that was mistyped is nobody, and is neither erased nor exported."""

from __future__ import annotations

from features.store.keys import PlayerKeys


def held_keys(keys: PlayerKeys) -> list[str | bytes]:
    """Keys of which at least one is there once anything was told or decided of a player, or they were erased."""
    return [keys.facts, keys.features, keys.ledger, keys.seal, keys.recent]
