"""Traces: spans of requests, decisions, stages and store calls reach a real receiver; without one nothing waits"""

import gzip
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import structlog
from conftest import Opened, app_of
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.players import adult_events

from features.settings.environment import Environment
from service.api.tracing import open_tracing
from service.decisions import decide as deciding

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PLAYER = "marked-player-4711"
SENT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Received:
    """What a collector was sent.

    Attributes:
        bodies: Each request's body as it came.
        address: Of the collector.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.bodies: list[bytes] = []

    def spans(self) -> list[Any]:
        read = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for one in read
            for of_resource in one.resource_spans
            for scope in of_resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans() if span.name == name]


@contextmanager
def receiving() -> Iterator[Received]:
    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            found.bodies.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        found = Received(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Received]:
    with receiving() as found:
        monkeypatch.setenv(SENT, found.address)
        yield found


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


async def known(client: httpx.AsyncClient, player: str) -> None:
    for event in adult_events(player):
        assert (await client.post("/v1/events", json=event)).status_code == 200


async def test_a_decision_is_a_tree_of_spans_below_the_callers(opened: Opened, collector: Received) -> None:
    async with opened() as client:
        await known(client, PLAYER)
        asked = {"player_id": PLAYER, "request_id": "r1"}
        named = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": "order-1"}
        answer = await client.post("/v1/decisions", json=asked, headers=named)
        assert answer.headers["x-request-id"] == "order-1"
        await client.post("/v1/decisions", json=asked)
    (root,) = [span for span in collector.named("POST /v1/decisions") if span.trace_id.hex() == TRACE]
    assert root.parent_span_id.hex() == SPAN
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.route": "/v1/decisions",
        "http.response.status_code": 200,
        "croupier.request_id": "order-1",
    }
    own = [span for span in collector.spans() if span.trace_id.hex() == TRACE]
    (decision,) = [span for span in own if span.parent_span_id == root.span_id]
    answered = answer.json()
    said = "no_contact" if answered["action"] is None or "offer" not in answered["action"] else "contact"
    assert attributes(decision) == {"croupier.decision_id": answered["decision_id"], "croupier.outcome": said}
    stages = sorted(
        (one for one in own if one.parent_span_id == decision.span_id), key=lambda one: one.start_time_unix_nano
    )
    assert [one.name for one in stages] == ["read", "compose", "reserve"]
    read, compose, reserve = stages
    below = {one.name: one.parent_span_id for one in own if one.name.startswith(("croupier_", "MULTI"))}
    assert below["MULTI"] == read.span_id
    assert below["croupier_decide"] == reserve.span_id
    assert compose.span_id not in below.values()
    for inner, outer in ((decision, root), (read, decision), (reserve, decision)):
        assert outer.start_time_unix_nano <= inner.start_time_unix_nano <= inner.end_time_unix_nano
        assert inner.end_time_unix_nano <= outer.end_time_unix_nano
    assert [attributes(one)["croupier.outcome"] for one in collector.named("decision")].count("replayed") == 1


async def test_each_item_of_a_batch_is_a_decision_of_its_own(opened: Opened, collector: Received) -> None:
    async with opened() as client:
        requests = [{"player_id": f"{PLAYER}-{number}"} for number in range(20)]
        told = (await client.post("/v1/decisions/batch", json={"requests": [*requests, {}]})).json()["answers"]
    (root,) = collector.named("POST /v1/decisions/batch")
    decisions = collector.named("decision")
    assert {one.parent_span_id for one in decisions} == {root.span_id}
    assert {attributes(one)["croupier.decision_id"] for one in decisions} == {
        one["decision_id"] for one in told if "decision_id" in one
    }


async def test_nothing_sent_names_a_player(opened: Opened, collector: Received) -> None:
    async with opened() as client:
        await known(client, PLAYER)
        await client.post("/v1/decisions", json={"player_id": PLAYER})
        await client.get(f"/v1/players/{PLAYER}")
        await client.post("/v1/decisions", json={"player_id": PLAYER, "offers": [PLAYER]})
        await client.get(f"/v1/{PLAYER}/nowhere")
    assert len(collector.spans()) > 10
    everything = b"".join(collector.bodies)
    assert PLAYER.encode() not in everything
    assert not re.search(rb"\{p\d{3}\}", everything)


async def test_a_caller_whose_span_is_not_recorded_has_none_of_ours(opened: Opened, collector: Received) -> None:
    async with opened() as client:
        await client.post("/v1/decisions", json={"player_id": "p"}, headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
        await client.post("/v1/decisions", json={"player_id": "p"}, headers={"traceparent": "nonsense"})
    assert {span.trace_id.hex() for span in collector.spans()}.isdisjoint({TRACE})
    assert len(collector.named("POST /v1/decisions")) == 1


async def test_a_fault_is_marked_and_its_words_are_not_sent(
    opened: Opened, collector: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(PLAYER)

    async with opened() as client:
        monkeypatch.setattr(deciding, "compose", broken)
        with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logged:
            assert (await client.post("/v1/decisions", json={"player_id": PLAYER})).status_code == 500
            batch = {"requests": [{"player_id": PLAYER}, {"player_id": "q"}]}
            answers = (await client.post("/v1/decisions/batch", json=batch)).json()["answers"]
    assert [one["code"] for one in answers] == ["fault", "fault"]
    error = 2
    assert {one.status.code for name in ("compose", "decision") for one in collector.named(name)} == {error}
    assert PLAYER.encode() not in b"".join(collector.bodies)
    faults = [one for one in logged if one["event"] == "fault"]
    assert len({one["decision_id"] for one in faults}) == 3
    ids = {attributes(one)["croupier.decision_id"]: one.trace_id.hex() for one in collector.named("decision")}
    assert {one["decision_id"]: one["trace_id"] for one in faults} == ids
    assert all(one["request_id"] for one in faults)


@contextmanager
def deaf() -> Iterator[str]:
    """A collector that lets everybody in and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield f"http://127.0.0.1:{door.getsockname()[1]}"


@contextmanager
def dead() -> Iterator[str]:
    """A collector that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"http://127.0.0.1:{door.getsockname()[1]}"
    yield address


@pytest.mark.parametrize("collector_of", [deaf, dead])
async def test_a_collector_that_does_not_answer_neither_fails_a_decision_nor_holds_up_the_end(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, collector_of: Any
) -> None:
    with collector_of() as address:
        monkeypatch.setenv(SENT, address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
        with structlog.testing.capture_logs() as logged:
            async with opened() as client:
                for number in range(150):
                    answer = await client.post("/v1/decisions", json={"player_id": f"p{number}"})
                    assert answer.status_code == 200
                    assert answer.json()["recorded"]
                begun = time.monotonic()
            assert time.monotonic() - begun < 15
    assert len([one for one in logged if one["event"] == "traces"]) <= 1


async def test_without_an_endpoint_there_are_no_traces(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SENT, raising=False)
    async with opened() as client:
        assert app_of(client).state.deps.tracing is None


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    # The store's client looks for the API of its own accord.
    heavy = ("opentelemetry.sdk.trace", "opentelemetry.exporter")
    asked = f"import sys, service.api.app; print([name for name in sys.modules if name.startswith({heavy})])"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_the_extra_it_is_said_once_and_served_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with structlog.testing.capture_logs() as logged:
        assert open_tracing(Environment({SENT: "http://127.0.0.1:9"})) is None
    (told,) = logged
    assert "extra `traces`" in told["trouble"]
