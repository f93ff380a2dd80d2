"""OpenTelemetry traces: one span per request, RPC and LLM call, around those of Genkit and httpx.

Imported only if an exporter was found. Names and attributes follow OpenTelemetry's semantic conventions (http, rpc,
gen_ai). No span contains callers' input or model output.
"""

import threading
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import structlog
from opentelemetry import context, propagate, trace
from opentelemetry.propagators.textmap import Getter, TextMapPropagator, default_getter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.errors import as_service_error
from src.llm import LlmUsage
from src.logs.redaction import MAX_CLIENT_TEXT, client_text
from src.operations import OPERATIONS
from src.rpc.hooks import Rpc, RpcHook
from src.util.probe_paths import PROBE_PATHS
from src.util.scope import METHODS, headers_of, route_path

MAX_FLUSH_SECONDS = 2.0  # at exit, for a collector that does not answer
MIN_FLUSH_SECONDS = 0.4  # even after the grace period
SERVER_ERROR = 500
# Genkit's attributes that name what ran. The others contain inputs, outputs and exception messages.
GENKIT_KEPT = frozenset(
    f"genkit:{name}" for name in ("name", "path", "type", "state", "isRoot", "metadata:subtype", "metadata:flow:name")
)
ROUTES = frozenset(operation.path for operation in OPERATIONS)
OTHER = "_OTHER"  # the conventions' name for an unknown method
RPCS = frozenset(f"genkit.sample.v1.GenkitService/{operation.rpc}" for operation in OPERATIONS)
# Codes that are the server's fault (OpenTelemetry's conventions for RPCs).
SERVER_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


def provide_traces(service: str, *, xray_ids: bool = False) -> TracerProvider:
    """Create the tracer provider of the process, once. The `OTEL_TRACES_SAMPLER` variables set the sampling.

    Args:
        service: The service's name.
        xray_ids: Generate trace ids in the format of AWS X-Ray.
    """
    ids = None
    if xray_ids:
        from opentelemetry.sdk.extension.aws.trace import AwsXRayIdGenerator

        ids = AwsXRayIdGenerator()
    propagate.set_global_textmap(_ReceiveOnly(propagate.get_global_textmap()))
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: service}), id_generator=ids, shutdown_on_exit=False
    )
    provider.sampler = OwnDecision(provider.sampler)
    trace.set_tracer_provider(provider)
    return provider


class OwnDecision(Sampler):
    """Samples a caller's trace as if it began here: the caller chooses its ids, but not whether it is exported.

    A ratio sampler decides by the trace id, so it gets a random one. Spans of this process follow their parent.

    Args:
        sampler: Decides for traces that begin here.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._ids = RandomIdGenerator()

    def should_sample(
        self, parent_context: context.Context | None, trace_id: int, name: str, *rest: Any, **named: Any
    ) -> SamplingResult:
        parent = trace.get_current_span(parent_context).get_span_context()
        if not parent.is_valid:
            return self._sampler.should_sample(parent_context, trace_id, name, *rest, **named)
        if not parent.is_remote:
            follow = ALWAYS_ON if parent.trace_flags.sampled else ALWAYS_OFF
            return follow.should_sample(parent_context, trace_id, name, *rest, **named)
        own = self._sampler.should_sample(context.Context(), self._ids.generate_trace_id(), name, *rest, **named)
        return SamplingResult(own.decision, own.attributes, parent.trace_state)

    def get_description(self) -> str:
        return f"OwnDecision{{{self._sampler.get_description()}}}"


class _IdGetter(Getter[Any]):
    """Reads trace ids only. OpenTelemetry parses baggage in quadratic time, and logs invalid baggage."""

    def __init__(self, getter: Getter[Any]) -> None:
        self._getter = getter

    def get(self, carrier: Any, key: str) -> list[str] | None:
        if key in ("baggage", "tracestate"):
            return None
        return [value for value in self._getter.get(carrier, key) or () if len(value) <= MAX_CLIENT_TEXT] or None

    def keys(self, carrier: Any) -> list[str]:
        return self._getter.keys(carrier)


class _ReceiveOnly(TextMapPropagator):
    """Accepts the ids of a caller's trace but sends none: the LLM's provider and image hosts must not get them."""

    def __init__(self, propagator: TextMapPropagator) -> None:
        self._propagator = propagator

    def extract(
        self, carrier: Any, context: context.Context | None = None, getter: Getter[Any] = default_getter
    ) -> context.Context:
        return self._propagator.extract(carrier, context, _IdGetter(getter))

    def inject(self, carrier: Any, *args: Any, **named: Any) -> None: ...

    @property
    def fields(self) -> set[str]:
        return self._propagator.fields


def instrument_httpx() -> None:
    """Make httpx create a span for each request, also those of the SDKs."""
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    HTTPXClientInstrumentor().instrument()


def export_to(provider: TracerProvider, exporter: SpanExporter) -> None:
    """Send the provider's spans to this exporter, in batches, from a thread."""
    provider.add_span_processor(BatchSpanProcessor(RedactingExporter(exporter)))


def flush(provider: TracerProvider, seconds_left: float) -> None:
    """Send the remaining spans and stop. Gives up after two seconds, or when no time is left."""
    thread = threading.Thread(target=provider.shutdown, daemon=True)
    thread.start()
    thread.join(min(MAX_FLUSH_SECONDS, max(MIN_FLUSH_SECONDS, seconds_left)))


class RedactingExporter(SpanExporter):
    """Exports spans without callers' input and without exception messages."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([redact_span(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def redact_span(span: ReadableSpan) -> ReadableSpan:
    """Return the span if it holds types and places only, otherwise a copy that does."""
    attributes = dict(span.attributes or {})
    quiet_attributes = _quiet_attributes(attributes)
    if quiet_attributes == attributes and not span.events and not span.status.description:
        return span
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=quiet_attributes,
        events=[Event(event.name, _quiet_attributes(event.attributes or {}), event.timestamp) for event in span.events],
        links=span.links,
        kind=span.kind,
        instrumentation_scope=span.instrumentation_scope,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
    )


def _quiet_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in attributes.items():
        if name.startswith("genkit:") and name not in GENKIT_KEPT:
            continue
        if name in ("exception.message", "exception.stacktrace", "url.query"):
            continue
        kept[name] = client_text(value.partition("?")[0]) if name in ("url.full", "http.url") else value
    return kept


class _HeaderGetter(Getter[Scope]):
    """Reads the headers of an ASGI scope."""

    def get(self, carrier: Scope, key: str) -> list[str] | None:
        return headers_of(carrier, key.encode()) or None

    def keys(self, carrier: Scope) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier["headers"]]


class TracingMiddleware:
    """A server span around every request except health probes, around the whole chain."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._tracer = trace.get_tracer("src")
        self._getter = _HeaderGetter()
        self._propagated = frozenset(name.encode() for name in propagate.get_global_textmap().fields)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) in PROBE_PATHS:
            await self.app(scope, receive, send)
            return
        span = self._start(scope)
        # An unsampled span must exist too, so that its children are not sampled either.
        token = context.attach(trace.set_span_in_context(span))
        try:
            if span.is_recording():
                with _ids_in_log(span):
                    await self.app(scope, receive, _send_noting_status(span, send))
            else:
                await self.app(scope, receive, send)
        finally:
            context.detach(token)
            span.end()

    def _start(self, scope: Scope) -> trace.Span:
        method = scope["method"] if scope["method"] in METHODS else OTHER
        path = scope["path"]
        attributes = {
            "http.request.method": method,
            "url.scheme": scope.get("scheme", "http"),
            "url.path": client_text(path),
            "network.protocol.version": scope.get("http_version", "1.1"),
        }
        name = "HTTP" if method == OTHER else method
        if (route := route_path(scope)) in ROUTES:
            attributes["http.route"] = route
            name = f"{method} {route}"
        is_continued = any(header in self._propagated for header, _ in scope["headers"])
        parent = propagate.extract(scope, getter=self._getter) if is_continued else None
        return self._tracer.start_span(name, context=parent, kind=SpanKind.SERVER, attributes=attributes)


def _send_noting_status(span: trace.Span, send: Send) -> Send:
    def send_and_note_status(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            status = message["status"]
            span.set_attribute("http.response.status_code", status)
            if status >= SERVER_ERROR:
                span.set_attribute("error.type", str(status))
                span.set_status(StatusCode.ERROR)
        return send(message)

    return send_and_note_status


class RpcTracing(RpcHook):
    """Makes a server span of every RPC except health checks."""

    skips_probes = True

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("src")

    async def on_start(self, rpc: Rpc) -> tuple[trace.Span, ExitStack]:
        """Start the span and add its ids to the log lines of the RPC."""
        name = rpc.method.removeprefix("/")
        if name not in RPCS:
            name = OTHER
        span = self._tracer.start_span(
            name,
            context=propagate.extract({key: value for key, value in rpc.metadata if isinstance(value, str)}),
            kind=SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": name},
        )
        scopes = ExitStack()
        scopes.callback(context.detach, context.attach(trace.set_span_in_context(span)))
        scopes.enter_context(_ids_in_log(span))
        return span, scopes

    def on_end(self, token: tuple[trace.Span, ExitStack], rpc: Rpc) -> None:
        span, scopes = token
        scopes.close()
        span.set_attribute("rpc.response.status_code", rpc.code)
        if rpc.code in SERVER_FAULTS:
            span.set_attribute("error.type", rpc.code)
            span.set_status(StatusCode.ERROR)
        span.end()


@contextmanager
def _ids_in_log(span: trace.Span) -> Iterator[None]:
    """Bind the span's ids to the log lines of this request."""
    ids = span.get_span_context()
    tokens = structlog.contextvars.bind_contextvars(
        trace_id=trace.format_trace_id(ids.trace_id), span_id=trace.format_span_id(ids.span_id)
    )
    try:
        yield
    finally:
        structlog.contextvars.reset_contextvars(**tokens)


class LlmTracing:
    """A client span around every LLM call (semantic conventions for generative AI).

    Args:
        provider: The provider's name in the conventions.
        model: The provider's name of the model.
    """

    def __init__(self, provider: str, model: str) -> None:
        self._tracer = trace.get_tracer("src")
        self._name = f"chat {model}"
        self._attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
        }

    @contextmanager
    def __call__(self, call: LlmUsage) -> Iterator[None]:
        """Trace one call, as a context manager."""
        with self._tracer.start_as_current_span(
            self._name,
            kind=SpanKind.CLIENT,
            attributes=self._attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as error:
                span.set_attribute("error.type", as_service_error(error).slug)
                span.set_status(StatusCode.ERROR)
                raise
            finally:
                span.set_attribute("gen_ai.usage.input_tokens", call.input_tokens)
                span.set_attribute("gen_ai.usage.output_tokens", call.output_tokens)
                if call.finish_reason:
                    span.set_attribute("gen_ai.response.finish_reasons", [call.finish_reason])
