"""Requests, RPCs and LLM calls are spans, with names that no client chooses."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import SpanKind, StatusCode
from starlette.types import Receive, Scope, Send

from src.errors import ModelFailed
from src.llm import LlmUsage
from src.rpc.hooks import Rpc
from src.telemetry import traces
from src.telemetry.traces import (
    LlmTracing,
    OwnDecision,
    RedactingExporter,
    RpcTracing,
    TracingMiddleware,
    flush,
)
from src.util.probe_paths import PROBE_PATHS
from testing.asgi import http_scope, play

WORDS = "what-a-caller-wrote"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
Record = Callable[[Sampler], InMemorySpanExporter]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    """Record the spans of this process."""

    def recording(sampler: Sampler) -> InMemorySpanExporter:
        exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=OwnDecision(sampler), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(RedactingExporter(exporter)))
        monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
        return exporter

    return recording


@pytest.fixture
def spans(record: Record) -> InMemorySpanExporter:
    return record(ALWAYS_ON)


def only(spans: InMemorySpanExporter) -> tuple[ReadableSpan, dict[str, Any]]:
    """Return the one span and its attributes."""
    [span] = spans.get_finished_spans()
    return span, dict(span.attributes or {})


def answering(status: int, logged: list[dict[str, Any]]) -> TracingMiddleware:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        logged.append(structlog.contextvars.get_contextvars())
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return TracingMiddleware(app)


@pytest.mark.parametrize(
    ("status", "code"), [(200, StatusCode.UNSET), (404, StatusCode.UNSET), (503, StatusCode.ERROR)]
)
def test_a_request_is_a_span_with_its_route_and_status(
    spans: InMemorySpanExporter, status: int, code: StatusCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "ROUTES", frozenset({"/chat"}))
    play(answering(status, []), http_scope("/api/chat", method="POST", root_path="/api"))
    span, attributes = only(spans)
    assert (span.name, span.kind, span.status.status_code) == ("POST /chat", SpanKind.SERVER, code)
    assert (attributes["http.route"], attributes["http.response.status_code"]) == ("/chat", status)
    assert attributes.get("error.type") == (str(status) if code is StatusCode.ERROR else None)


def test_a_method_and_a_path_that_nobody_knows_name_no_span(spans: InMemorySpanExporter) -> None:
    play(answering(404, []), http_scope(f"/{WORDS}", method="BREW"))
    span, attributes = only(spans)
    assert (span.name, attributes["http.request.method"]) == ("HTTP", "_OTHER")
    assert "http.route" not in attributes


@pytest.mark.parametrize("path", sorted(PROBE_PATHS))
def test_a_probe_is_no_span(spans: InMemorySpanExporter, path: str) -> None:
    assert play(answering(200, []), http_scope(path)).status == 200
    assert spans.get_finished_spans() == ()


def test_log_lines_of_a_request_have_the_ids_of_its_span(spans: InMemorySpanExporter) -> None:
    logged: list[dict[str, Any]] = []
    play(answering(200, logged), http_scope("/x", headers=[(b"traceparent", TRACEPARENT.encode())]))
    context = only(spans)[0].get_span_context()
    assert context is not None
    assert logged == [{"trace_id": TRACE_ID, "span_id": trace.format_span_id(context.span_id)}]
    assert structlog.contextvars.get_contextvars() == {}


def test_below_a_request_that_is_not_sampled_there_is_no_span(record: Record) -> None:
    spans, logged = record(ALWAYS_OFF), list[dict[str, Any]]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trace.get_tracer("x").start_as_current_span("below"):
            await answering(200, logged).app(scope, receive, send)

    assert play(TracingMiddleware(app), http_scope("/x")).status == 200
    assert (spans.get_finished_spans(), logged) == ((), [{}])


@pytest.mark.parametrize(
    ("code", "status"),
    [("OK", StatusCode.UNSET), ("INVALID_ARGUMENT", StatusCode.UNSET), ("UNAVAILABLE", StatusCode.ERROR)],
)
def test_an_rpc_is_a_span_of_the_callers_trace_with_its_code(
    spans: InMemorySpanExporter, code: str, status: StatusCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "RPCS", frozenset({"s.S/Chat"}))
    rpc = Rpc("/s.S/Chat", "chat", [("traceparent", TRACEPARENT), ("x-bin", b"\xff")], "r-1")

    async def serve() -> dict[str, Any]:
        hook = RpcTracing()
        token = await hook.on_start(rpc)
        logged = structlog.contextvars.get_contextvars()
        rpc.code = code
        hook.on_end(token, rpc)
        assert structlog.contextvars.get_contextvars() == {}
        return logged

    assert asyncio.run(serve())["trace_id"] == TRACE_ID
    span, attributes = only(spans)
    assert (span.name, span.kind, span.status.status_code) == ("s.S/Chat", SpanKind.SERVER, status)
    assert attributes["rpc.response.status_code"] == code
    assert attributes.get("error.type") == (code if status is StatusCode.ERROR else None)


def test_an_rpc_that_nobody_knows_names_no_span(spans: InMemorySpanExporter) -> None:
    async def serve() -> None:
        hook, rpc = RpcTracing(), Rpc(f"/{WORDS}", "unknown", [], "r-1")
        hook.on_end(await hook.on_start(rpc), rpc)

    asyncio.run(serve())
    span, attributes = only(spans)
    assert (span.name, attributes["rpc.method"]) == ("_OTHER", "_OTHER")


def test_an_llm_call_is_a_span_with_its_usage(spans: InMemorySpanExporter) -> None:
    with LlmTracing("gcp.gemini", "flash")(usage := LlmUsage()):
        usage.input_tokens, usage.output_tokens, usage.finish_reason = 7, 5, "stop"
    span, attributes = only(spans)
    assert (span.name, span.kind, span.status.status_code) == ("chat flash", SpanKind.CLIENT, StatusCode.UNSET)
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "flash",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.finish_reasons": ("stop",),
    }


@pytest.mark.parametrize(("error", "slug"), [(ModelFailed(), "model-failed"), (LookupError(WORDS), "internal")])
def test_an_llm_call_that_fails_says_how_and_not_in_whose_words(
    spans: InMemorySpanExporter, error: Exception, slug: str
) -> None:
    with pytest.raises(type(error)), LlmTracing("x", "flash")(LlmUsage()):
        raise error
    span, attributes = only(spans)
    assert (span.status.status_code, attributes["error.type"]) == (StatusCode.ERROR, slug)
    assert WORDS not in span.to_json()


def test_a_collector_that_does_not_answer_holds_up_no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MIN_FLUSH_SECONDS", 0.01)
    asked, answers, ended = threading.Event(), threading.Event(), threading.Event()

    class Hanging(TracerProvider):
        def shutdown(self) -> None:
            asked.set()
            answers.wait(30)
            ended.set()

    flush(Hanging(shutdown_on_exit=False), seconds_left=-1)
    assert asked.is_set()
    assert not ended.is_set()
    answers.set()
