"""Lint of templates: each in every locale, with values at the edges, and what laws demand of offers' tags. Pure.

It renders as sending does, so that what it passes can be sent: for every offer, channel and place that a rule names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from models.catalogue.offers import Catalogue, Offer
from service.decisions.record import ChosenContact
from service.delivery.links import NO_LINKS
from service.delivery.rendering import FollowUps, Occasion, Rendered, RenderingError, rendered
from service.delivery.templates import EVERYWHERE, MessageTemplate, Templates
from service.rules.rulebook import Rulebook
from service.rules.types import ContentRequired

NAMES: Final = ("", "A" * 100, "محمد علي", "<b>\"&'", "Zoë 🎲")
"""What players are called: nothing, the longest, from right to left, markup, signs."""
CURRENCIES: Final = ("EUR", "JPY", "KWD", "GBP", "SEK")
"""With two, no and three digits after the point."""
_EDGES: Final[Mapping[str, tuple[Any, ...]]] = {
    "whole": (0, 1, 10**9),
    "number": (0, 1.5, 10**9),
    "text": ("", "W" * 200, "محمد"),
    "flag": (True, False),
    "money": (0, 1, 10**9),
}
SMS_MOST: Final = 1_600
"""Characters that an SMS has at most."""
_LONG: Final = {"email"}


class Finding(NamedTuple):
    """What is wrong with a template: an error keeps it from being released."""

    template: str
    locale: str
    channel: str
    sentence: str
    error: bool = True


def linted(templates: Templates, catalogue: Catalogue, book: Rulebook) -> list[Finding]:
    """Everything that is wrong, each once, in order."""
    found = [
        *(one for name, template in templates.templates.items() for one in _texts(templates, name, template)),
        *(one for offer in catalogue.offers for one in _of_offer(templates, offer, book)),
    ]
    return list(dict.fromkeys(found))


# --- What a template is by itself


def _texts(templates: Templates, name: str, template: MessageTemplate) -> Iterator[Finding]:
    if templates.settings.fallback not in template.locales:
        yield Finding(name, templates.settings.fallback, "", "has no text in the fallback locale")
    channels = {channel for texts in template.locales.values() for channel in texts.channels}
    for locale, texts in template.locales.items():
        for channel in sorted(channels - set(texts.channels)):
            yield Finding(name, locale, channel, "has no text for this channel, and other locales do")
        for channel in texts.channels:
            yield from _rendered(templates, name, template, locale, channel)


def _rendered(
    templates: Templates, name: str, template: MessageTemplate, locale: str, channel: str
) -> Iterator[Finding]:
    for brand in templates.settings.brands:
        for occasion in _occasions(template, name, locale, channel, brand):
            try:
                texts = rendered(templates, occasion)
            except RenderingError as error:
                yield Finding(name, locale, channel, str(error))
                return
            yield from _too_long(name, locale, channel, texts)


def _too_long(name: str, locale: str, channel: str, texts: Rendered) -> Iterator[Finding]:
    if channel == "sms" and len(texts.body) > SMS_MOST:
        yield Finding(name, locale, channel, f"can be longer than the {SMS_MOST:,} characters of an SMS")
    if channel == "email" and not texts.subject:
        yield Finding(name, locale, channel, "can have an empty subject")


def _occasions(template: MessageTemplate, name: str, locale: str, channel: str, brand: str) -> Iterator[Occasion]:
    """Occasions at the edges: every kind of name and currency, and each variable from end to end."""
    most = max(len(NAMES), len(CURRENCIES), *(len(_EDGES[kind]) for kind in template.variables.values()), 1)
    for at in range(most):
        values = {one: _EDGES[kind][at % len(_EDGES[kind])] for one, kind in template.variables.items()}
        yield occasion_of(
            name,
            values,
            locale,
            channel,
            brand,
            player=NAMES[at % len(NAMES)],
            currency=CURRENCIES[at % len(CURRENCIES)],
        )


def occasion_of(  # noqa: PLR0913 - what a message is rendered from
    template: str,
    parameters: Mapping[str, Any],
    locale: str,
    channel: str,
    brand: str,
    *,
    player: str = "",
    currency: str = "EUR",
    jurisdiction: str | None = None,
    offer: str = "Offer",
) -> Occasion:
    """An occasion that never was, to look at what a template makes of it."""
    sent = ChosenContact(
        offer="offer",
        name=offer,
        template=template,
        parameters=dict(parameters),
        purpose="marketing",
        channel=channel,
        timing_slot="morning",
        send_us=0,
        valid_until_us=0,
    )
    return Occasion(
        sent=sent,
        brand=brand,
        jurisdiction=jurisdiction,
        locale=locale,
        currency=currency,
        name=player,
        unsubscribe_url="https://crm.example/unsubscribe/TOKEN",
        follow_ups=FollowUps(NO_LINKS, "https://crm.example/c/", "000-" + "a" * 24),
    )


# --- What offers and laws ask of it


def _of_offer(templates: Templates, offer: Offer, book: Rulebook) -> Iterator[Finding]:
    template = templates.templates.get(offer.template)
    if template is None:
        yield Finding(offer.template, "", "", f"the offer {offer.id} names it, and there is none", error=False)
        return
    for name in template.variables.keys() - offer.parameters.keys():
        yield Finding(offer.template, "", "", f"it uses {name}, which the offer {offer.id} has not")
    claimed = set(offer.tags or ()) & (templates.parts.keys() | demanded(book))
    for tag in sorted(claimed - set(template.contains)):
        yield Finding(
            offer.template, "", "", f"the offer {offer.id} is tagged {tag}, and the template does not contain it"
        )
    for tag in template.contains:
        yield from _part_is_there(templates, offer, template, tag, book)


def demanded(book: Rulebook) -> set[str]:
    """Tags that some rule of the book demands of templates."""
    return {tag for pack in book.packs for rule in pack.rules if isinstance(rule, ContentRequired) for tag in rule.must}


def _part_is_there(
    templates: Templates, offer: Offer, template: MessageTemplate, tag: str, book: Rulebook
) -> Iterator[Finding]:
    """Whether a part has a text wherever the offer goes, for each channel that a rule demands it on."""
    for place in offer.jurisdictions or (EVERYWHERE,):
        channels = set(_channels(tag, place, book)) | _LONG
        for locale, texts in template.locales.items():
            for brand in templates.settings.brands:
                part = templates.part(tag, None if place == EVERYWHERE else place, locale, brand)
                for channel in sorted(channels & set(texts.channels)):
                    if part is None or not (part.long if channel in _LONG else part.short):
                        yield Finding(offer.template, locale, channel, f"its part {tag} has no text for {place}")


def _channels(tag: str, place: str, book: Rulebook) -> Iterable[str]:
    """Channels on which a rule that binds in a place demands a part."""
    for pack in book.packs:
        for rule in pack.rules:
            if isinstance(rule, ContentRequired) and tag in rule.must:
                where = rule.jurisdictions or pack.jurisdictions
                if {place, place.partition("-")[0], EVERYWHERE} & set(where) or place == EVERYWHERE:
                    yield from rule.channels or ("email", "sms", "push", "in_app", "call")
