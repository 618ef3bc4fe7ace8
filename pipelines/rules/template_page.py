"""All templates as one page to look at: each mail as it is shown, in each locale, with its text and short messages."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from models.catalogue.offers import Catalogue
from service.delivery.rendering import Rendered, RenderingError, rendered
from service.delivery.template_lint import occasion_of
from service.delivery.templates import Templates

_STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:2rem;max-width:80rem}"
    "iframe{width:100%;height:44rem;border:1px solid #8895a5;border-radius:8px;background:#fff}"
    "pre{white-space:pre-wrap;border-left:3px solid #8895a5;padding-left:1rem}section{margin-bottom:3rem}"
)


def page(templates: Templates, catalogue: Catalogue, place: str | None = None) -> str:
    """The page: styles inside, no scripts, nothing fetched; mails stand in frames that may do nothing.

    Args:
        templates: Those to show.
        catalogue: Its offers give the parameters.
        place: Jurisdiction whose parts are shown; None for no particular.
    """
    body = "".join(_sections(templates, catalogue, place))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>Templates {templates.hash}</title><style>{_STYLE}</style>'
        f"</head><body><main><h1>Templates {templates.hash}</h1>{body}</main></body></html>"
    )


def _sections(templates: Templates, catalogue: Catalogue, place: str | None) -> Iterator[str]:
    brand = next(iter(templates.settings.brands))
    for name, template in templates.templates.items():
        offer = next((one for one in catalogue.offers if one.template == name), None)
        for locale, texts in template.locales.items():
            yield f"<section><h2>{escape(name)} <small>{escape(locale)}</small></h2>"
            for channel in texts.channels:
                parameters = {} if offer is None else offer.parameters
                occasion = occasion_of(
                    name,
                    parameters,
                    locale,
                    channel,
                    brand,
                    player="Anna",
                    currency=catalogue.currency,
                    jurisdiction=place,
                )
                try:
                    yield _shown(channel, rendered(templates, occasion), f"{name} {locale}")
                except RenderingError as error:
                    yield f"<p><strong>{channel}</strong>: {escape(str(error))}</p>"
            yield "</section>"


def _shown(channel: str, texts: Rendered, title: str) -> str:
    if channel == "email":
        frame = f'<iframe sandbox title="{escape(title)}" srcdoc="{escape(texts.html)}"></iframe>'
        return f"<h3>{escape(texts.subject)}</h3>{frame}<pre>{escape(texts.text)}</pre>"
    title = f"{escape(texts.title)}: " if texts.title else ""
    return f"<p><strong>{channel}</strong> {title}{escape(texts.body)} {escape(texts.url)}</p>"
