"""Traces of requests by OpenTelemetry, where its extra is installed and an endpoint is named. Its one room.

    POST /v1/decisions                  the caller's span is its parent
      decision                          each of a batch; its id, and what came of it
        read, compose, reserve          its stages; the calls to the store below each

No attribute names a player or holds what an exception says. Spans wait in a bounded queue for a thread of their own:
while the collector is away or slow they are dropped, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import structlog
from fastapi import Response
from structlog.contextvars import bind_contextvars

from features.settings.environment import Environment
from features.store.connection import Store, word_of
from service.api.trail import Parent, Trail
from service.decisions.decide import Decided, Stages

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExportResult
    from opentelemetry.trace import Span

EXPORT_SECONDS: Final = 2.0
"""What the collector may take for what it is sent at once, and what it is waited for when the process ends."""
TOLD_SECONDS: Final = 60.0
"""How often it is logged that spans were lost."""
_NEXT: Final = {"": "read", "read": "compose", "compose": "reserve", "reserve": "read"}
"""The stage that follows each."""
_LOG: Final = structlog.get_logger()


def open_tracing(wanted: Environment) -> Tracing | None:
    """Traces where an endpoint is named, None otherwise; says so where the extra is missing."""
    if wanted.telemetry is None and wanted.traces is None:
        return None
    try:
        from opentelemetry import context, trace  # noqa: PLC0415 - only where traces are wanted
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _LOG.warning("traces", trouble=f"none are kept: {error.name} is missing, which the extra `traces` brings")
        return None
    here = Resource.create({"service.version": version("croupier")})
    if str(here.attributes["service.name"]).startswith("unknown"):  # the environment may name it
        here = here.merge(Resource({"service.name": "croupier"}))
    provider = TracerProvider(resource=here, shutdown_on_exit=False)
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it would tell of each batch
    sender: Any = Sender(OTLPSpanExporter(timeout=EXPORT_SECONDS))
    provider.add_span_processor(BatchSpanProcessor(sender))
    return Tracing(provider, trace, context)


class Sender:
    """Sends spans, and says now and then that they did not arrive."""

    def __init__(self, exporter: OTLPSpanExporter) -> None:
        self._exporter = exporter
        self._lost, self._told_at = 0, -inf
        self.shutdown, self.force_flush = exporter.shutdown, exporter.force_flush

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send some spans."""
        done = self._exporter.export(spans)
        self._lost += 0 if done.name == "SUCCESS" else len(spans)
        if self._lost and monotonic() - self._told_at >= TOLD_SECONDS:
            _LOG.warning("traces", trouble=f"{self._lost} spans did not reach the collector")
            self._lost, self._told_at = 0, monotonic()
        return done


class Tracing:
    """Spans of this process.

    Args:
        provider: Makes them, and sends them where OpenTelemetry's own variables say.
        trace: OpenTelemetry's module of spans.
        context: That of what is current.
    """

    def __init__(self, provider: TracerProvider, trace: Any, context: Any) -> None:  # noqa: ANN401 - modules
        self.trace, self.context, self._provider = trace, context, provider
        self.tracer = provider.get_tracer("croupier")

    async def request(self, method: str, route: str, trail: Trail, answer: Awaitable[Response]) -> Response:
        """Answer a request within a span, whose trace is bound to what is logged meanwhile."""
        named = {"http.request.method": method, "http.route": route, "croupier.request_id": trail.request_id.decode()}
        kind, parent = self.trace.SpanKind.SERVER, self._parent(trail.parent)
        with self.current(f"{method} {route}", named, context=parent, kind=kind) as span:
            bind_contextvars(trace_id=f"{span.get_span_context().trace_id:032x}")
            answered = await answer
            span.set_attribute("http.response.status_code", answered.status_code)
            if answered.status_code >= 500:
                self.failed(span)
            return answered

    def _parent(self, parent: Parent | None) -> Context:
        """The context of the caller's span; of none, of a new trace."""
        span = self.trace.INVALID_SPAN
        if parent is not None:
            ids, flags = (int(parent.trace_id, 16), int(parent.span_id, 16)), self.trace.TraceFlags(parent.sampled)
            span = self.trace.NonRecordingSpan(self.trace.SpanContext(*ids, is_remote=True, trace_flags=flags))
        found: Context = self.trace.set_span_in_context(span)
        return found

    @contextmanager
    def current(self, name: str, attributes: Mapping[str, str], **how: Any) -> Iterator[Span]:  # noqa: ANN401 - as the API has it
        """A span around the block; what is raised marks it as failed."""
        with self.tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False, **how
        ) as span:
            try:
                yield span
            except BaseException:
                self.failed(span)
                raise

    def failed(self, span: Span) -> None:
        """Mark a span as failed, without the text of what failed: it may name anybody."""
        span.set_status(self.trace.StatusCode.ERROR)

    @property
    def of_request(self) -> bool:
        """Whether what runs now belongs to a request."""
        return bool(self.trace.get_current_span().get_span_context().is_valid)

    def stages(self, clock: Callable[[], float]) -> Stages:
        """Stages of a decision that are spans."""
        return TracedStages(self, clock)

    def store(self, url: str, most: int) -> Store:
        """The store, with a span for each call of a request."""
        return TracedStore(self, url, most)

    async def close(self) -> None:
        """Send what waits, for as long as the collector may take."""
        with suppress(TimeoutError):
            async with asyncio.timeout(EXPORT_SECONDS):
                await asyncio.to_thread(self._provider.shutdown)


class TracedStages(Stages):
    """Stages of a decision, each a span below that of the decision."""

    __slots__ = ("_decision", "_outer", "_span", "_token", "_tracing")

    def __init__(self, tracing: Tracing, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._tracing = tracing
        self._decision, self._outer = self._entered("decision")
        self._span, self._token = self._entered(_NEXT[""])

    def _entered(self, name: str) -> tuple[Span, Any]:
        """A new span, current from here on, and what gives the one before its place back."""
        span = self._tracing.tracer.start_span(name)
        return span, self._tracing.context.attach(self._tracing.trace.set_span_in_context(span))

    def over(self, stage: str) -> None:
        """End the span of a stage, and begin that of the next."""
        super().over(stage)
        self._span.end()
        self._tracing.context.detach(self._token)
        self._span, self._token = self._entered(_NEXT[stage])

    def end(self, done: Decided | None) -> None:
        """End the decision with its id and what came of it; a stage that was not begun is not told."""
        if done is None and sys.exception() is not None:
            for span in (self._span, self._decision):
                self._tracing.failed(span)
            self._span.end()
        self._tracing.context.detach(self._token)
        self._decision.set_attributes({"croupier.decision_id": self.decision_id, "croupier.outcome": outcome(done)})
        self._decision.end()
        self._tracing.context.detach(self._outer)


def outcome(done: Decided | None) -> str:
    """What came of a decision, in one word. Pure."""
    if done is None:
        return "none"
    if done.replayed:
        return "replayed"
    return "no_contact" if done.kept.action is None else "contact"


class TracedStore(Store):
    """The store, with a span for each call that a request makes; what runs in the background makes none."""

    def __init__(self, tracing: Tracing, url: str, most: int) -> None:
        super().__init__(url, most)
        self._tracing = tracing

    async def together(self, seconds: float, *commands: Sequence[Any]) -> Any:  # noqa: ANN401 - replies have the shape of the command
        """See `Store.together`."""
        if not self._tracing.of_request:
            return await super().together(seconds, *commands)
        word = word_of(commands)
        if word == "FCALL":
            word = str(commands[0][1])
        named = {"db.system.name": "redis", "db.operation.name": word}
        with self._tracing.current(word, named, kind=self._tracing.trace.SpanKind.CLIENT):
            return await super().together(seconds, *commands)
