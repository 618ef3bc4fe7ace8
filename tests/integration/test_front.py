"""Pages for whoever opens a house in a browser: the front page, and that of the API."""

import re

import pytest
from conftest import Opened

from features.store.errors import StoreError
from service.api.contract import TAGS
from service.contacts.ledger import RedisLedger


async def test_the_front_page_needs_no_key_leads_on_and_brings_all_that_it_shows(opened: Opened) -> None:
    async with opened() as client:
        page = await client.get("/", headers={"authorization": ""})
        assert page.status_code == 200
        assert "Ready to decide" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert not re.search(r"<script|<link|src=|url\(|@import|https?:", page.text)
        assert "width=device-width" in page.text
        assert "prefers-color-scheme:dark" in page.text
        links = re.findall(r'href="([^"]+)"', page.text)
        assert {"/docs", "/reports", "/readyz"} <= set(links)
        for link in links:
            assert (await client.get(link)).status_code == 200, link


async def test_the_front_page_tells_no_more_than_readiness_does(opened: Opened) -> None:
    async with opened() as client:
        page = (await client.get("/", headers={"authorization": ""})).text
        detail = (await client.get("/readyz")).json()
        for told in (detail["rulebook"], detail["policy"], detail["clock"]["now"][:16]):
            assert str(told) not in page


async def test_a_process_that_does_not_serve_says_so_on_its_front_page(opened: Opened) -> None:
    async with opened() as client:
        client._transport.app.state.readiness.trouble = "it is slow"  # type: ignore[attr-defined]
        page = (await client.get("/")).text
        assert "Not ready" in page
        assert "it is slow" not in page


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_the_front_page_is_only_read(opened: Opened, method: str) -> None:
    async with opened() as client:
        refused = await client.request(method, "/")
        assert refused.status_code == 405
        assert refused.headers["allow"] == "GET, HEAD"


async def test_the_page_of_the_api_shows_decisions_first_and_scripts_of_this_house_only(opened: Opened) -> None:
    async with opened() as client:
        page = (await client.get("/docs", headers={"authorization": ""})).text
        assert '"responseInterceptor": fresh' in page
        for script in re.findall(r'(?:src|href)="([^"]+)"', page):
            assert (await client.get(script)).status_code == 200, script
        contract = (await client.get("/openapi.json")).json()
    assert [tag["name"] for tag in contract["tags"]] == [tag["name"] for tag in TAGS]
    assert TAGS[0]["name"] == "Decide"
    used = {tag for path in contract["paths"].values() for operation in path.values() for tag in operation["tags"]}
    assert used == {tag["name"] for tag in TAGS}


async def test_a_house_without_its_store_says_so_on_its_front_page(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only once readiness was looked at: whoever opens the page asks the store."""

    async def silent(_: object) -> int:
        raise StoreError("the store does not answer")

    async with opened() as client:
        monkeypatch.setattr(RedisLedger, "now_us", silent)
        page = await client.get("/", headers={"authorization": ""})
    assert page.status_code == 200
    assert "Not ready" in page.text
