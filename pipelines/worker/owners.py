"""Owners of linked ids, for callers that look up many ids at once."""

from __future__ import annotations

from collections.abc import Iterable

import redis

from features.store.keys import PlayerKeys
from service.players import identity


def owners_of(client: redis.Redis, players: Iterable[str]) -> dict[str, str]:
    """Owner of each id, itself where it is not linked; a ring of links is broken first."""
    asked, marks = set(players), dict[str, str]()
    ahead = asked
    while ahead:
        pipe = client.pipeline(transaction=False)
        for player in ahead:
            pipe.hget(PlayerKeys(player).facts, "to")
        found = {player: to.decode() for player, to in zip(ahead, pipe.execute(), strict=True) if to is not None}
        marks |= found
        ahead = {identity.Mark.loads(mark).to for mark in found.values()} - marks.keys()
    ways = {player: identity.chain(player, marks) for player in asked}
    if not (crossed := {name for way in ways.values() if (name := identity.mark_to_remove(way)) is not None}):
        return {player: identity.chain_end(way) or player for player, way in ways.items()}
    for name in crossed:
        client.fcall("croupier_thaw", 1, PlayerKeys(name).facts, marks[name])
    return owners_of(client, asked)
