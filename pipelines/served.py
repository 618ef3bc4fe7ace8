"""Catalogue, rulebook, experiments and templates that a house serves, whatever files the shell of a tool names.

what live serving processes report --> else what was promoted --> else this shell's files
"""

from __future__ import annotations

import re
from typing import TypeVar, cast

import redis
from pydantic import BaseModel

from features.files import CatalogueError
from features.store.bundles import HASH_OF, published, serving_hashes
from features.store.errors import StoreError
from features.store.keys import bundle_key, pointer_key
from models.catalogue.offers import Catalogue, load_catalogue
from models.experiments.allocation import of_catalogue
from models.experiments.definition import Experiments
from service.delivery.templates import Templates, load_templates, templates_path
from service.rules.rulebook import Rulebook, load_rulebook, rulebook_path
from service.settings import catalogue_path

Kept = TypeVar("Kept", bound=BaseModel)


def served_catalogue(client: redis.Redis) -> Catalogue:
    """The catalogue that serves; raises CatalogueError if it cannot be read or no one does."""
    kept = kept_of_served(client, "catalogue")
    return load_catalogue(catalogue_path()) if kept is None else read_kept(Catalogue, kept)


def served_rulebook(client: redis.Redis) -> Rulebook:
    """The rulebook that serves; raises CatalogueError if it cannot be read or no one does."""
    kept = kept_of_served(client, "rules")
    return load_rulebook(rulebook_path()) if kept is None else read_kept(Rulebook, kept)


def served_experiments(client: redis.Redis) -> Experiments:
    """The experiments that serve: those that were released, else the catalogue's own.

    Raises:
        StoreError: What was released is not there.
        CatalogueError: It cannot be read by this build.
    """
    kept = promoted(client, "experiments")
    if kept is None and client.exists(pointer_key("experiments")):
        raise StoreError("the store lacks the experiments that it says were released: roll back to earlier ones")
    return of_catalogue(served_catalogue(client).experiment) if kept is None else read_kept(Experiments, kept)


def served_templates(client: redis.Redis) -> Templates:
    """The templates of messages that serve; raises CatalogueError if they cannot be read."""
    kept = promoted(client, "templates")
    return load_templates(templates_path()) if kept is None else read_kept(Templates, kept)


def kept_by_hash(client: redis.Redis, name: str) -> bytes | None:
    """A catalogue or a rulebook by the content hash that decisions name; None if the store keeps none."""
    return cast("bytes | None", client.get(bundle_key(name))) or published(client, name)


def promoted(client: redis.Redis, kind: str) -> bytes | None:
    """The bundle that a kind's pointer names; None while files serve."""
    pointer = cast("bytes | None", client.get(pointer_key(kind)))
    return cast("bytes | None", client.get(bundle_key(pointer.decode()))) if pointer else None


def read_kept(model: type[Kept], data: bytes) -> Kept:
    """A catalogue, a rulebook or experiments from their bytes; raises CatalogueError if this build cannot read them."""
    try:
        return model.model_validate_json(data)
    except ValueError as error:
        raise CatalogueError(f"{model.__name__.lower()} of the store cannot be read by this build") from error


def read_by_hash(client: redis.Redis, model: type[Kept], name: str) -> Kept | None:
    """What the store keeps under a content hash; None for a name that is none, or of which it keeps nothing.

    Raises:
        CatalogueError: This build cannot read it.
    """
    held = kept_by_hash(client, name) if re.fullmatch(r"[0-9a-f]{12}", name) else None
    return None if held is None else read_kept(model, held)


def bytes_of(kept: BaseModel) -> bytes:
    """A catalogue, a rulebook or experiments as the store keeps them."""
    return kept.model_dump_json(by_alias=True).encode()


def kept_of_served(client: redis.Redis, kind: str) -> bytes | None:
    """The bytes of what serves; None if nothing says what does, so that files count."""
    reported = sorted({name for name in serving_hashes(client, HASH_OF[kind]) if name})
    if len(reported) == 1 and (kept := kept_by_hash(client, reported[0])) is not None:
        return kept
    if (bundle := promoted(client, kind)) is not None:
        return bundle
    if reported:
        raise CatalogueError(f"no one {kind} serves: processes report {', '.join(reported)}; look at their settings")
    return None
