"""What a worker delivers with: the templates that serve, followed, and the connectors of the file."""

from __future__ import annotations

from collections.abc import Mapping

import redis

from features.store.deployment import House
from features.store.keys import pointer_key
from pipelines.served import served_templates
from pipelines.worker.lanes import Delivery, OpenSenders
from service.decisions.kept import KeptDecision
from service.decisions.serving import Serving
from service.delivery.connectors_file import Connectors
from service.delivery.links import Links
from service.delivery.message import Message, Refused
from service.delivery.rendering import Renderer
from service.delivery.senders import senders
from service.players import identity


class ServedRendering:
    """Renders by the templates that serve.

    Args:
        client: The store; its calls block.
        house: Whose messages.
        told: The file of connectors.
    """

    def __init__(self, client: redis.Redis, house: House, told: Connectors) -> None:
        self._client, self._house, self._told = client, house, told
        self._links = Links.of(house)
        self._served: object = None
        self._renderer: Renderer | None = None

    def look(self, serving: Serving) -> None:
        """Take up what serves now; raises CroupierError if the templates cannot be read."""
        currency = serving.layout.catalogue.currency
        served = self._client.get(pointer_key("templates")), currency
        if served != self._served:
            templates = served_templates(self._client)
            self._renderer = Renderer(templates, self._told, self._links, currency)
            self._served = served

    def message(self, kept: KeptDecision, facts: Mapping[bytes, bytes], key: bytes | None) -> Message | Refused:
        """See `Renderer`; facts as the store has them."""
        if self._renderer is None:
            return Refused("nothing says by which templates", permanent=False)
        return self._renderer.message(kept, identity.together(facts), key)


def delivery_of(client: redis.Redis, house: House, told: Connectors) -> Delivery | None:
    """What a house delivers with; None where it has no connectors.

    A sandbox house sends to its own catcher only: its other connectors are never opened, whatever the file says.
    """
    if not told.connectors:
        return None
    opened: OpenSenders = lambda clock, keepers: senders(told, clock, keepers, sandbox=house.sandbox)  # noqa: E731 - one line
    return Delivery(told, ServedRendering(client, house, told), opened)
