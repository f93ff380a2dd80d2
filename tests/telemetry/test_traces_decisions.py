"""A caller chooses the ids of a trace, and nothing else about it."""

import pytest
from opentelemetry import propagate, trace
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)

from src.telemetry.traces import OwnDecision, _ReceiveOnly

# A ratio samples a low trace id first; the last digit says whether the caller samples.
CALLERS = [f"00-{low}-b7ad6b7169203331-0{flag}" for low in ("0" * 31 + "1", "f" * 32) for flag in (0, 1)]


def sampled(decides: Sampler, traceparent: str) -> tuple[bool, bool]:
    """Return whether the span of a request with this header is sampled, and the span below it."""
    provider = TracerProvider(sampler=OwnDecision(decides), shutdown_on_exit=False)
    tracer = provider.get_tracer("test")
    parent = propagate.extract({"traceparent": traceparent})
    span = tracer.start_span("request", context=parent)
    assert trace.format_trace_id(span.get_span_context().trace_id) == traceparent[3:35], "the ids are the caller's"
    child = tracer.start_span("call", context=trace.set_span_in_context(span))
    return span.get_span_context().trace_flags.sampled, child.get_span_context().trace_flags.sampled


@pytest.mark.parametrize("traceparent", CALLERS)
@pytest.mark.parametrize(
    ("decides", "expected"),
    [
        (ALWAYS_ON, True),
        (DEFAULT_ON, True),
        (ALWAYS_OFF, False),
        (DEFAULT_OFF, False),
        (TraceIdRatioBased(1), True),
        (ParentBasedTraceIdRatio(1), True),
        (TraceIdRatioBased(1e-9), False),
        (ParentBasedTraceIdRatio(1e-9), False),
    ],
)
def test_a_callers_trace_is_sampled_as_one_that_begins_here(decides: Sampler, expected: bool, traceparent: str) -> None:
    assert sampled(decides, traceparent) == (expected, expected)


def test_a_ratio_of_callers_traces_is_sampled_whatever_their_ids() -> None:
    results = [sampled(TraceIdRatioBased(0.5), CALLERS[0]) for _ in range(200)]
    assert 40 < sum(request for request, _ in results) < 160
    assert all(request == call for request, call in results)


def test_of_a_callers_headers_only_short_ids_are_read() -> None:
    """OpenTelemetry parses baggage in quadratic time, and keeps a trace state of any length on every span."""
    read: list[str] = []

    class Reading(Getter[dict[str, str]]):
        def get(self, carrier: dict[str, str], key: str) -> list[str] | None:
            read.append(key)
            return [carrier[key]]

        def keys(self, carrier: dict[str, str]) -> list[str]:
            return list(carrier)

    carrier = {"traceparent": CALLERS[0] + "-" + "0" * 300, "baggage": "a" + " " * 8000 + "b", "tracestate": "a=b"}
    found = _ReceiveOnly(propagate.get_global_textmap()).extract(carrier, getter=Reading())
    assert not trace.get_current_span(found).get_span_context().is_valid
    assert read == ["traceparent"]


def test_no_trace_is_sent_on() -> None:
    inner: TextMapPropagator = propagate.get_global_textmap()
    receiving = _ReceiveOnly(inner)
    carrier: dict[str, str] = {}
    receiving.inject(carrier, context=receiving.extract({"traceparent": CALLERS[1], "baggage": "a=b"}))
    assert (carrier, receiving.fields) == ({}, inner.fields)
