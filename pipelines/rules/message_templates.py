"""Promote templates of messages, roll them back, lint and look at them.

folder --loads, lints clean with the catalogue and the rulebook that serve--> store --> workers, within a second
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis

from features.store.bundles import keep
from features.store.connection import connect
from features.store.deployment import open_house
from features.store.keys import PlayerKeys
from models.releases.journal import serves
from models.releases.release import GateRefused, Released, alone, change, journal, new_release, reasoned, way_back
from pipelines.served import bytes_of, read_by_hash, served_catalogue, served_rulebook, served_templates
from service.delivery import template_lint
from service.delivery.rendering import Rendered, RenderingError, rendered
from service.delivery.template_lint import Finding, occasion_of
from service.delivery.templates import Templates, load_templates
from service.players import addresses, identity
from service.players.facts import text_of
from service.players.sealing import seals_of


def templates(name: str | None, client: redis.Redis) -> Templates:
    """Templates by their folder, or by a hash that the store keeps; None is those that serve.

    Raises:
        GateRefused: There are neither.
        CatalogueError: Their files are not valid, or this build cannot read them.
    """
    if name is None:
        return served_templates(client)
    if Path(name).is_dir():
        return load_templates(Path(name))
    if (held := read_by_hash(client, Templates, name)) is not None:
        return held
    raise GateRefused(f"{name} is no folder of templates, and the store keeps none of that hash")


def linted(client: redis.Redis, chosen: Templates) -> list[Finding]:
    """Lint templates with the catalogue and the rulebook that serve."""
    return template_lint.linted(chosen, served_catalogue(client), served_rulebook(client))


def promote(url: str, folder: str, reason: str, by: str | None = None) -> Released:
    """Let templates serve that lint clean; workers use them within a second.

    Args:
        url: The store.
        folder: Folder of the templates, or the hash of some that served.
        reason: Why, for the record.
        by: Who promotes, for the record; None is the user of this process.

    Raises:
        GateRefused: Their lint finds an error, or no reason is given.
        CatalogueError: Their files are not valid.
    """
    reason, client = reasoned(reason), connect(url)
    chosen = templates(folder, client)
    with alone(client, "templates"):
        before = served_templates(client)
        if found := [one for one in linted(client, chosen) if one.error]:
            raise GateRefused(f"not promoted: {'; '.join(map(sentence, found[:5]))}")
        keep(client, bytes_of(before), before.hash)
        replaced = serves(journal(client, "templates")) or before.hash
        evidence = {"catalogue": served_catalogue(client).hash, "rulebook": served_rulebook(client).hash}
        entry = new_release(
            client, "templates", "promote", chosen.hash, replaced, reason=reason, by=by, evidence=evidence
        )
        return change(client, entry, bytes_of(chosen))


def rollback(url: str, reason: str, version: str | None = None, by: str | None = None) -> Released:
    """Let templates serve again; those before the last promotion where no version is named.

    Raises:
        GateRefused: There are none, or no reason is given.
    """
    reason, client = reasoned(reason), connect(url)
    with alone(client, "templates"):
        held = journal(client, "templates")
        target = way_back(held, version, "set of templates")
        chosen = templates(target, client)
        entry = new_release(client, "templates", "rollback", target, serves(held), reason=reason, by=by)
        return change(client, entry, bytes_of(chosen))


def sentence(one: Finding) -> str:
    """A finding as a sentence with its place."""
    place = " ".join(filter(None, (one.template, one.locale, one.channel)))
    return f"{place}: {one.sentence}"


# --- To look at


def preview(client: redis.Redis, name: str, player_id: str, channel: str, locale: str = "") -> Rendered:
    """What a template makes of a player, with the parameters of the first offer that names it; nothing is sent.

    Raises:
        GateRefused: There is no such template, or it cannot be rendered.
        StoreError: The player's key does not open.
    """
    house, chosen, catalogue = open_house(client), served_templates(client), served_catalogue(client)
    keys = PlayerKeys(house.player_key(player_id))
    held: Any = client.hgetall(keys.facts)
    facts, stored = identity.together(held), client.get(keys.seal)
    key = seals_of(house).open(keys.player, stored) if isinstance(stored, bytes) else None
    offer = next((one for one in catalogue.offers if one.template == name), None)
    to = addresses.recipient(facts, "main", "in_app", key)
    occasion = occasion_of(
        name,
        {} if offer is None else offer.parameters,
        locale or text_of(facts, "locale:main") or "",
        channel,
        "main",
        player="" if isinstance(to, str) else to.name,
        currency=catalogue.currency,
        jurisdiction=text_of(facts, "jurisdiction"),
        offer=name if offer is None else offer.name,
    )
    try:
        return rendered(chosen, occasion)
    except RenderingError as error:
        raise GateRefused(f"{name} cannot be shown: {error}") from error
