"""The door of the API: hosts, pages of other sites, media types, methods; and what serving refuses to start with."""

import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from conftest import Opened

EVENT = {"type": "login", "event_id": "e-1", "player_id": "p-1", "occurred_at": datetime.now(UTC).isoformat()}
WRITES = ("/v1/events", "/v1/decisions", "/v1/decisions/batch", "/v1/outcomes")


@pytest.fixture
async def client(opened: Opened) -> AsyncIterator[httpx.AsyncClient]:
    async with opened() as made:
        yield made


async def refused(
    client: httpx.AsyncClient, status: int, code: str, method: str, path: str, **sent: Any
) -> httpx.Response:
    answer = await client.request(method, path, **sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code), path
    assert answer.headers["content-type"] == "application/problem+json"
    return answer


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "croupier", "10.0.0.7", ""]
)
async def test_a_foreign_host_is_told_that_this_is_not_it(client: httpx.AsyncClient, host: str) -> None:
    for method, path in (("POST", "/v1/events"), ("GET", "/healthz"), ("GET", "/docs"), ("GET", "/nowhere")):
        await refused(client, 421, "misdirected", method, path, headers={"host": host})


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:9", "[::1]:8000"])
async def test_the_own_host_is_answered_in_any_spelling(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "said",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://localhost", "sec-fetch-site": "cross-site"},
    ],
)
async def test_a_page_of_another_site_writes_nothing_and_learns_nothing(
    client: httpx.AsyncClient, said: dict[str, str]
) -> None:
    for path in (*WRITES, "/v1/decisions/x/confirm"):
        await refused(client, 403, "cross_site", "POST", path, json=EVENT, headers=said)
    for method, path in (("GET", "/healthz"), ("OPTIONS", "/v1/events")):
        answer = await client.request(method, path, headers=said | {"access-control-request-method": "POST"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_page_of_the_house_itself_writes(client: httpx.AsyncClient) -> None:
    for said in ({"origin": "http://LOCALHOST"}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert (await client.post("/v1/events", json=EVENT, headers=said)).status_code == 200


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "",
        "multipart/form-data",
        "application/json, text/plain",
    ],
)
async def test_a_body_is_sent_as_json(client: httpx.AsyncClient, kind: str) -> None:
    for path in WRITES:
        answer = await refused(
            client, 415, "unsupported_media_type", "POST", path, content="{}", headers={"content-type": kind}
        )
        assert answer.headers["accept-post"] == "application/json"


async def test_json_may_say_more_of_itself_and_is_gzipped_at_most(client: httpx.AsyncClient) -> None:
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"):
        assert (await client.post("/v1/events", content=_json(), headers={"content-type": kind})).status_code == 200
    for packing in ("br", "deflate", "zstd", "gzip, gzip"):
        packed = {"content-type": "application/json", "content-encoding": packing}
        await refused(client, 415, "unsupported_media_type", "POST", "/v1/events", content=_json(), headers=packed)


def _json() -> bytes:
    return httpx.Request("POST", "http://localhost", json=EVENT).content


async def test_another_method_is_told_which_there_are(client: httpx.AsyncClient) -> None:
    for method, path, allow in (
        ("PUT", "/v1/events", "POST"),
        ("GET", "/v1/events", "POST"),
        ("HEAD", "/v1/events", "POST"),
        ("OPTIONS", "/v1/events", "POST"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
        ("POST", "/v1/decisions/x", "GET, HEAD"),
        ("TRACE", "/healthz", "GET, HEAD"),
        ("POST", "/docs", "GET, HEAD"),
    ):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allow), (method, path)
        assert method == "HEAD" or answer.json()["code"] == "no_such_method"


async def test_head_is_get_without_the_body(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/v1/decisions/x", "/nowhere"):
        got, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        if path != "/readyz":  # it tells the time
            assert head.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize(
    ("host", "hosts", "sentence"),
    [
        ("0.0.0.0", None, "--host 0.0.0.0 listens on every address: say by which names"),  # noqa: S104 - refused
        ("::", None, "--host :: listens on every address: say by which names"),
        ("0", None, "--host 0 listens on every address: say by which names"),
        ("::0", None, "--host ::0 listens on every address: say by which names"),
        ("127.0.0.1", "*", "CROUPIER_HOSTS must be names or addresses"),
        ("127.0.0.1", "http://localhost", "CROUPIER_HOSTS must be names or addresses"),
        ("127.0.0.1", "croupier:8000", "CROUPIER_HOSTS must be names or addresses"),
        ("127.0.0.1", ",", "CROUPIER_HOSTS must be names or addresses"),
    ],
)
def test_serving_refuses_to_answer_for_anything(
    host: str, hosts: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROUPIER_KEYS", "some-key")
    if hosts is not None:
        monkeypatch.setenv("CROUPIER_HOSTS", hosts)
    command = [sys.executable, "-m", "pipelines", "serve", "--host", host, "--port", "22999"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"croupier: {sentence}")
