"""Rendering: a reserved contact becomes a message. Liquid, strict: an undefined value refuses to send. Pure.

contact, facts, addresses --texts of the nearest locale--> Liquid --> MJML --> Message

What a template is given is escaped where it goes into a mail's HTML; a template runs no code, and within bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from babel import Locale as BabelLocale
from babel.core import UnknownLocaleError
from babel.numbers import format_currency, get_currency_precision
from liquid import BoundTemplate, Environment, Mode, RenderContext, StrictUndefined
from liquid.exceptions import LiquidError
from liquid.filter import with_context
from markupsafe import Markup
from mjml import mjml2html

from features.unshown import Unshown
from models.catalogue.offers import PROMOTIONAL, Purpose
from service.decisions.kept import KeptDecision
from service.decisions.record import ChosenContact
from service.delivery.connectors_file import ConnectorRoute, Connectors
from service.delivery.links import CLICK, UNSUBSCRIBE, ClickToken, ContactToken, Links
from service.delivery.message import Message, Refused
from service.delivery.templates import BrandLook, Form, LocaleTexts, Templates
from service.players import addresses
from service.players.addresses import Recipient
from service.players.facts import text_of

_Facts = Mapping[bytes, bytes]
_SHORT: Final[Form] = "short"
_LINK: Final = "follow_up"
"""Name under which a template's context holds how links are made."""


class RenderingError(Exception):
    """A text cannot be rendered as it stands; the sentence holds nothing of a player.

    Outside the tree of errors: it becomes a refusal of the message, or a finding of the lint.
    """


class _Bounded(Environment):
    """Liquid within bounds: what a template may do in all."""

    context_depth_limit = 10
    loop_iteration_limit = 1_000
    output_stream_limit = 500_000
    local_namespace_limit = 100_000


@with_context
def _link(url: object, *, context: RenderContext) -> str:
    """The filter `link`: a URL as it leads through this house, which notes the click."""
    return cast("str", context.resolve(_LINK).made(str(url)))


def _environment(*, escaped: bool) -> Environment:
    made = _Bounded(autoescape=escaped, undefined=StrictUndefined, tolerance=Mode.STRICT)
    made.add_filter("link", _link)
    for name in ("include", "render", "extends", "block"):
        made.tags.pop(name, None)  # a text is whole: it reads no other
    return made


_PLAIN: Final = _environment(escaped=False)
_ESCAPED: Final = _environment(escaped=True)


@lru_cache(maxsize=2_000)
def parsed(source: str, *, escaped: bool) -> BoundTemplate:
    """A text as Liquid; raises RenderingError."""
    try:
        return (_ESCAPED if escaped else _PLAIN).from_string(source)
    except LiquidError as error:
        raise RenderingError(_said(error)) from error


def render(source: str, given: Mapping[str, Any], *, escaped: bool = False) -> str:
    """A text with what it is given; raises RenderingError for anything undefined."""
    if not source:
        return ""
    try:
        return str(parsed(source, escaped=escaped).render(**given))
    except LiquidError as error:
        raise RenderingError(_said(error)) from error


def _said(error: LiquidError) -> str:
    """What Liquid finds wrong, with the line of the text: its sentences name variables, never values."""
    line = getattr(getattr(error, "token", None), "start_index", None)
    text = str(error).splitlines()[0]
    return text if line is None else f"{text} (at character {line})"


class FollowUps(NamedTuple):
    """Makes the links of a message: each leads through this house, where that can be reached from outside."""

    links: Links
    root: str
    decision_id: str

    def made(self, url: str) -> str:
        """A URL through this house; raises RenderingError for one that browsers do not open."""
        parts = urlsplit(url)
        if parts.scheme not in {"https", "http"} or not parts.netloc:
            raise RenderingError("a link leads to an address with https:// only")
        return f"{self.root}{self.links.made(ClickToken(self.decision_id, url))}" if self.root else url


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Occasion(Unshown):
    """What a message is rendered from, beside the templates.

    Attributes:
        sent: The contact.
        brand, jurisdiction, locale: Whose.
        currency: Of amounts.
        name: What the player is called; "" for unknown.
        unsubscribe_url: "" where there is none.
        follow_ups: Makes its links.
    """

    sent: ChosenContact
    brand: str
    jurisdiction: str | None
    locale: str
    currency: str
    name: str
    unsubscribe_url: str
    follow_ups: FollowUps


class Rendered(NamedTuple):
    """Texts of a message, those of its channel; the others are ""."""

    locale: str
    subject: str = ""
    html: str = ""
    text: str = ""
    title: str = ""
    body: str = ""
    url: str = ""


def rendered(templates: Templates, occasion: Occasion) -> Rendered:
    """The texts of a message; raises RenderingError if it has none, or one that is not whole."""
    sent, brand = occasion.sent, occasion.brand
    found, look = templates.texts(sent.template, occasion.locale, brand), templates.look(brand)
    if found is None:
        raise RenderingError(f"there is no template {sent.template}")
    if look is None:
        raise RenderingError(f"the templates know no brand {brand}")
    locale, texts = found
    if sent.channel not in texts.channels:
        raise RenderingError(f"the template {sent.template} has no text for {sent.channel} in {locale}")
    given = _given(templates, occasion, look, locale)
    if sent.channel == "email":
        return _mail(templates, texts, given, locale, occasion)
    parts = _parts(templates, occasion, locale, given, _SHORT).values()
    if sent.channel == "sms":
        return Rendered(locale, body=" ".join([render(texts.sms, given), *parts]))
    notice = texts.push if sent.channel == "push" else texts.in_app if sent.channel == "in_app" else texts.call
    if notice is None:
        raise RenderingError(f"the template {sent.template} has no text for {sent.channel} in {locale}")
    title, body, url = (render(text, given) for text in (notice.title, notice.body, notice.url))
    return Rendered(locale, title=title, body=" ".join([body, *parts]), url=url)


def _mail(
    templates: Templates, texts: LocaleTexts, given: Mapping[str, Any], locale: str, occasion: Occasion
) -> Rendered:
    parts = _parts(templates, occasion, locale, given, "long")
    subject, text = " ".join(render(texts.subject, given).split()), render(texts.text, given)
    content = Markup(render(texts.mail, given, escaped=True))  # noqa: S704 - it was escaped as it was rendered
    opt_out, url = parts.pop("unsubscribe", ""), occasion.unsubscribe_url
    own = {"content": content, "subject": subject, "direction": _direction(locale)}
    whole = {**given, **own, "parts": list(parts.values()), "unsubscribe": opt_out}
    try:
        html = str(mjml2html(render(templates.layout, whole, escaped=True)))
    except ValueError as error:
        raise RenderingError(f"the mail is no MJML: {error}") from error
    foot = [*parts.values(), *([f"{opt_out}: {url}"] if opt_out and url else [])]
    return Rendered(locale, subject=subject, html=html, text="\n\n".join([text.strip(), *foot]) + "\n")


def _parts(
    templates: Templates, occasion: Occasion, locale: str, given: Mapping[str, Any], form: Form
) -> dict[str, str]:
    """The parts that a template contains, for place, locale and room; those without a text are left out."""
    found = {}
    for name in templates.templates[occasion.sent.template].contains:
        part = templates.part(name, occasion.jurisdiction, locale, occasion.brand)
        if part is not None and (text := getattr(part, form)):
            found[name] = " ".join(render(text, given).split())
    return found


def _given(templates: Templates, occasion: Occasion, look: BrandLook, locale: str) -> dict[str, Any]:
    """What a template may use: what it declares, and what every template has."""
    template, sent = templates.templates[occasion.sent.template], occasion.sent
    held = {
        name: _value(sent.parameters[name], kind, occasion.currency, locale)
        for name, kind in template.variables.items()
        if name in sent.parameters
    }
    return held | {
        "player": {"name": occasion.name} if "name" in template.player else {},
        "brand": {
            "name": look.name,
            "site": str(look.site).rstrip("/"),
            "address": ", ".join(look.address),
            "accent": look.accent,
        },
        "offer": {"name": sent.name},
        "unsubscribe_url": occasion.unsubscribe_url,
        "locale": locale,
        _LINK: occasion.follow_ups,
    }


def _value(value: object, kind: str, currency: str, locale: str) -> object:
    if kind != "money":
        return value
    if not isinstance(value, int):
        raise RenderingError("an amount of money is a whole number of minor units")
    return format_currency(value / 10 ** get_currency_precision(currency), currency, locale=_babel(locale))


@lru_cache(maxsize=500)
def _babel(locale: str) -> BabelLocale:
    try:
        return BabelLocale.parse(locale, sep="-")
    except (UnknownLocaleError, ValueError) as error:
        raise RenderingError(f"nobody knows the locale {locale}") from error


def _direction(locale: str) -> str:
    return str(_babel(locale).text_direction)


# --- Messages


class Renderer(NamedTuple):
    """Renders the messages of a house.

    Attributes:
        templates: Those that serve.
        connectors: The file.
        links: Makes tokens.
        currency: Of the house.
    """

    templates: Templates
    connectors: Connectors
    links: Links
    currency: str

    def message(self, kept: KeptDecision, facts: _Facts, key: bytes | None) -> Message | Refused:
        """The message of a decision's contact, or why there is none.

        Args:
            kept: The decision; it contacts somebody.
            facts: The player's, as the store holds them, with linked ids merged.
            key: The player's own, which opens their addresses; None if it was destroyed.
        """
        sent = kept.action
        if sent is None:
            return Refused("the decision contacts nobody", permanent=True)
        jurisdiction = text_of(facts, "jurisdiction")
        route = self.connectors.route(sent.channel, kept.brand, jurisdiction)
        if route is None:
            return Refused(f"no connector sends {sent.channel} of {kept.brand} in {jurisdiction}", permanent=True)
        to = addresses.recipient(facts, kept.brand, sent.channel, key)
        if isinstance(to, str):
            return Refused(to, permanent=True)
        try:
            return self._made(kept, sent, route, to, facts)
        except RenderingError as error:
            return Refused(str(error), permanent=True)

    def _made(
        self, kept: KeptDecision, sent: ChosenContact, route: ConnectorRoute, to: Recipient, facts: _Facts
    ) -> Message:
        brand, jurisdiction = kept.brand, text_of(facts, "jurisdiction")
        token = self.links.made(ContactToken(kept.player, brand, sent.channel, kept.decision_id))
        promotional = sent.purpose in PROMOTIONAL
        unsubscribe_url = self.connectors.address(f"{UNSUBSCRIBE}{token}") if promotional else ""
        occasion = Occasion(
            sent=sent,
            brand=brand,
            jurisdiction=jurisdiction,
            locale=text_of(facts, f"locale:{brand}") or "",
            currency=self.currency,
            name=to.name,
            unsubscribe_url=unsubscribe_url,
            follow_ups=FollowUps(self.links, self.connectors.address(CLICK), kept.decision_id),
        )
        connector = self.connectors.connectors[route.connector]
        texts = self._texts(occasion, connector.kind)
        return Message(
            decision_id=kept.decision_id,
            player=kept.player,
            brand=brand,
            channel=sent.channel,
            purpose=cast("Purpose", sent.purpose),
            offer=sent.offer,
            template=sent.template,
            connector=route.connector,
            idempotency_key=kept.decision_id,
            valid_until_us=sent.valid_until_us,
            jurisdiction=jurisdiction,
            to=to.addresses,
            sender=route.sender,
            reply_to=route.reply_to,
            unsubscribe_url=unsubscribe_url,
            contact_token=token,
            placement=getattr(connector, "placement", "app"),
            parameters=sent.parameters,
            **texts._asdict(),
        )

    def _texts(self, occasion: Occasion, kind: str) -> Rendered:
        """The texts; a service of the house's own may have its own templates."""
        if kind == "webhook" and occasion.sent.template not in self.templates.templates:
            return Rendered(occasion.locale)
        return rendered(self.templates, occasion)
