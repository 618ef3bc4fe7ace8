"""The front page of a house: where its API, reports and state are, for whoever opens its address in a browser."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse

from service.api.operation import serves
from service.api.routing import SIGN_IN

PATH: Final = "/"
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
_STYLE: Final = (
    ":root{color-scheme:light dark;--page:#f5f7fa;--card:#fff;--ink:#1f2933;--soft:#52606d;--line:#d9e0e7;"
    "--link:#1f5fa8;--good:#1a7f4b;--bad:#b42318}"
    "@media(prefers-color-scheme:dark){:root{--page:#14191f;--card:#1d242c;--ink:#e6ebf0;--soft:#a3b0bd;"
    "--line:#34404c;--link:#8ab8f0;--good:#5fce95;--bad:#ff9a8d}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);"
    'font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}'
    "main{max-width:46rem;margin:0 auto;padding:2rem 1rem 3rem}h1{font-size:1.7rem;margin:0}"
    "h2{font-size:1rem;margin:2rem 0 .6rem;color:var(--soft);font-weight:600}p{margin:.4rem 0}"
    "ul{list-style:none;margin:0;padding:0;display:grid;gap:.7rem;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr))}"
    "li a{display:block;height:100%;padding:.8rem 1rem;background:var(--card);border:1px solid var(--line);"
    "border-radius:8px;color:var(--soft);text-decoration:none}li b{display:block;color:var(--link)}"
    "li a:hover,li a:focus-visible{border-color:var(--link)}ol{margin:0;padding-left:1.3rem}li{margin:.2rem 0}"
    "code{overflow-wrap:anywhere}.state::before{content:'';display:inline-block;width:.6rem;height:.6rem;"
    "border-radius:50%;margin-right:.5rem;background:currentColor}.good{color:var(--good)}.bad{color:var(--bad)}"
)
_DOORS: Final = (
    ("/docs", "API", "Every request and answer, to read and to try"),
    ("/reports", "Reports", "What experiments brought; asks you to sign in"),
    ("/readyz", "Readiness", "Whether this process serves, for machines"),
    (f"{SIGN_IN}?next={PATH}", "Sign in", "With a key of this house, for twelve hours"),
)
_PAGES: Final = (
    ("docs/integrate.md", "from nothing to a first contact"),
    ("docs/exclusions.md", "why nobody is contacted, and what to tell"),
    ("docs/operate.md", "size, back up, upgrade and watch a house"),
)


async def get_front(request: Request) -> Response:
    """The page. It asks for no key, and tells nothing but whether the process is ready."""
    return HTMLResponse(_page(ready=await serves(request)), headers=_HEADERS)


def _page(*, ready: bool) -> str:
    state, told = ("good", "Ready to decide") if ready else ("bad", "Not ready")
    doors = "".join(f'<li><a href="{path}"><b>{name}</b>{about}</a></li>' for path, name, about in _DOORS)
    pages = "".join(f"<li><code>{path}</code>: {about}</li>" for path, about in _PAGES)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>Croupier</title><style>{_STYLE}</style></head><body><main>'
        "<h1>Croupier</h1><p>The next best action for each player, under the rules of the house.</p>"
        f'<p class="state {state}">{told}</p>'
        f"<h2>Here</h2><ul>{doors}</ul>"
        f"<h2>In the repository</h2><ol>{pages}</ol></main></body></html>"
    )


def add(app: FastAPI) -> None:
    """Add the page, which the page of the API leaves out."""
    app.router.add_api_route(PATH, get_front, methods=["GET"], include_in_schema=False, response_class=Response)
