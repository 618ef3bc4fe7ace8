"""The page at /docs, where people read and try the API: Swagger's, without what is the same for every operation."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

PATH: Final = "/docs"
_STATIC: Final = "/static-offline-docs"
_PARAMETERS: Final[dict[str, Any]] = {
    "defaultModelsExpandDepth": -1,
    "displayRequestDuration": True,
    "tryItOutEnabled": True,
}
"""How the page shows itself: no list of schemas, every example ready to be sent."""
_STYLE: Final = (
    "<style>.response-col_links,.model-container+.models{display:none}"
    ".responses-wrapper{overflow-x:auto}.swagger-ui .info{margin:25px 0}"
    ".swagger-ui .scheme-container{padding:10px 0;box-shadow:none}"
    + "".join(
        f'tr.response[data-code="{status}"] :is(.response-controls,.model-example,.headers-wrapper,.headers,h5)'
        "{display:none}"
        for status in (400, 401, 403, 413, 415, 421, 429, 500, 503)
    )
    + "</style>"
)
"""Hides the examples of problems that every operation has alike; their codes stay."""
_NOW: Final = (
    "<script>function fresh(answer){if(answer.url.endsWith('/openapi.json')){"
    "const now=new Date().toISOString();"
    'answer.text=answer.text.replace(/"occurred_at":\\s*"[^"]+"/g,\'"occurred_at":"\'+now+\'"\')}'
    "return answer}</script>"
)
"""Moments of examples are the reader's now: those that were recorded grow too old to be taken."""


async def get_page() -> HTMLResponse:
    """The page."""
    shown = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Croupier: the API",
        swagger_js_url=f"{_STATIC}/swagger-ui-bundle.js",
        swagger_css_url=f"{_STATIC}/swagger-ui.css",
        swagger_favicon_url=f"{_STATIC}/favicon.png",
        swagger_ui_parameters=_PARAMETERS,
    )
    text = bytes(shown.body).decode()
    text = text.replace("</head>", f"{_STYLE}{_NOW}</head>", 1)
    return HTMLResponse(text.replace('"dom_id":', '"responseInterceptor": fresh,\n    "dom_id":', 1))


def add(app: FastAPI) -> None:
    """Add the page, which does not show itself."""
    app.router.add_api_route(PATH, get_page, methods=["GET"], include_in_schema=False)
