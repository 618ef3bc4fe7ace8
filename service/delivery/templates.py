"""Templates: the texts of messages as a folder and as a release: layout, brands, parts that laws demand, locales.

    templates/settings.yaml  brands, fallback locale      templates/parts.yaml  helplines, address, opting out
    templates/layout.mjml    what every mail looks like   templates/NAME/template.yaml, en.yaml, de.yaml, ...

A template says which parameters of its offers and which fields of the player it uses, and which parts it contains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, StringConstraints, model_validator

from features.events import Brand, Jurisdiction, Locale
from features.files import CatalogueError, load_yaml
from features.settings.environment import environment
from models.catalogue.limits import Name
from service.delivery.networks import bare

EVERYWHERE: Final = "*"
_TEXT: Final = 20_000
"""Characters that a text has at most."""
_COLOUR: Final = r"^#[0-9a-f]{6}$"
Text = Annotated[str, StringConstraints(max_length=_TEXT)]
Site = Annotated[HttpUrl, AfterValidator(bare)]
VariableType = Literal["whole", "number", "text", "flag", "money"]
"""Of a parameter of an offer; `money` is in minor units of the house's currency."""
PlayerField = Literal["name"]
Form = Literal["long", "short"]
"""Of a part: in mails, and in what has less room."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Notice(_Part):
    """A short message with a title: push, inbox, task; `url` is where the one who taps it is led."""

    title: Text
    body: Text
    url: Text = ""


class LocaleTexts(_Part):
    """The texts of a template in one locale, Liquid; those of channels that it is not for are left out.

    Attributes:
        subject, mail, text: Of a mail: `mail` is MJML between the layout's head and foot, `text` the alternative.
        sms: Of an SMS.
        push, in_app, call: Of the others.
    """

    subject: Text = ""
    mail: Text = ""
    text: Text = ""
    sms: Text = ""
    push: Notice | None = None
    in_app: Notice | None = None
    call: Notice | None = None

    @model_validator(mode="after")
    def _whole_mail(self) -> Self:
        if len({bool(self.subject), bool(self.mail), bool(self.text)}) > 1:
            raise ValueError("a mail has subject, mail and text, all three")
        return self

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels that it has a text for."""
        held = {"email": self.mail, "sms": self.sms, "push": self.push, "in_app": self.in_app, "call": self.call}
        return tuple(channel for channel, text in held.items() if text)


class TemplateHead(_Part):
    """What a template says of itself.

    Attributes:
        variables: Parameters of its offers that it uses, and their types.
        player: Fields of the player that it uses.
        contains: Parts that stand in it, as offers' `tags` name them.
    """

    variables: dict[Name, VariableType] = Field(default_factory=dict)
    player: tuple[PlayerField, ...] = ()
    contains: tuple[Name, ...] = ()


class MessageTemplate(TemplateHead):
    """A template with its texts by locale."""

    locales: dict[Locale, LocaleTexts] = Field(min_length=1)


class PartText(_Part):
    """A part in one locale: how it stands in mails, and where there is less room."""

    long: Text = ""
    short: Text = ""


class BrandLook(_Part):
    """How a brand shows itself. `address` are the lines of its postal address, `accent` its colour for buttons."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    site: Site
    address: tuple[Annotated[str, StringConstraints(min_length=1, max_length=200)], ...] = Field(min_length=1)
    accent: Annotated[str, StringConstraints(pattern=_COLOUR)] = "#1d4ed8"
    locale: Locale = "en"


class TemplateSettings(_Part):
    """What holds for all templates. A locale falls back to its language, its brand's locale, then this one."""

    version: Literal[1]
    fallback: Locale = "en"
    brands: dict[Brand, BrandLook] = Field(min_length=1)


class Parts(_Part):
    """Parts by name, jurisdiction (`*` for every other) and locale."""

    parts: dict[Name, dict[str, dict[Locale, PartText]]] = Field(default_factory=dict)


class Templates(_Part):
    """All templates of a house, as its folder defines them."""

    settings: TemplateSettings
    layout: Text
    parts: dict[Name, dict[Jurisdiction | Literal["*"], dict[Locale, PartText]]]
    templates: dict[Name, MessageTemplate]

    @cached_property
    def hash(self) -> str:
        """Content hash; releases are known by it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def look(self, brand: str) -> BrandLook | None:
        """How a brand shows itself; that of the first brand where the house has only one."""
        held = self.settings.brands
        return held.get(brand) or (next(iter(held.values())) if len(held) == 1 else None)

    def texts(self, name: str, locale: str, brand: str) -> tuple[str, LocaleTexts] | None:
        """The texts of a template in the nearest locale that it has, and which that is; None for no such template."""
        if (template := self.templates.get(name)) is None:
            return None
        for one in self.locales(locale, brand):
            if one in template.locales:
                return one, template.locales[one]
        return next(iter(template.locales.items()))

    def part(self, name: str, jurisdiction: str | None, locale: str, brand: str) -> PartText | None:
        """A part as a place and a locale have it; None where there is none."""
        places = self.parts.get(name, {})
        where = jurisdiction or EVERYWHERE
        for place in (where, where.partition("-")[0], EVERYWHERE):
            held = places.get(place, {})
            for one in self.locales(locale, brand):
                if one in held:
                    return held[one]
        return None

    def locales(self, locale: str, brand: str) -> Iterator[str]:
        """Locales in the order in which texts are looked for."""
        look = self.look(brand)
        yield from dict.fromkeys(
            (locale, locale.partition("-")[0], "" if look is None else look.locale, self.settings.fallback)
        )


def templates_path() -> Path:
    """The folder of templates in force: CROUPIER_TEMPLATES, or the one that comes with the service."""
    return environment().templates or Path(str(resources.files("service").joinpath("templates")))


def load_templates(folder: Path) -> Templates:
    """Read a folder of templates; raises CatalogueError naming file and field."""
    try:
        layout = (folder / "layout.mjml").read_text("utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{folder / 'layout.mjml'} cannot be read: {type(error).__name__}") from error
    held = {one.parent.name: _template(one.parent) for one in sorted(folder.glob("*/template.yaml"))}
    told = {
        "settings": load_yaml(folder / "settings.yaml", TemplateSettings),
        "layout": layout,
        "parts": load_yaml(folder / "parts.yaml", Parts).parts,
        "templates": held,
    }
    try:
        return Templates.model_validate(told)
    except ValueError as error:
        raise CatalogueError(f"{folder}: {error}") from error


def _template(folder: Path) -> MessageTemplate:
    head = load_yaml(folder / "template.yaml", TemplateHead)
    files = sorted(one for one in folder.glob("*.yaml") if one.name != "template.yaml")
    locales = {one.stem: load_yaml(one, LocaleTexts) for one in files}
    try:
        return MessageTemplate(**_fields(head), locales=locales)
    except ValueError as error:
        raise CatalogueError(f"{folder}: {error}") from error


def _fields(head: TemplateHead) -> Mapping[str, object]:
    return {name: getattr(head, name) for name in TemplateHead.model_fields}
