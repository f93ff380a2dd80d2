"""Callers' trace headers: the ids are taken, the decision to sample is not, and nothing of them reaches a provider."""

import pytest

from testing.fakes.gemini import GeminiStandIn
from testing.fakes.sinks import OtlpOverHttp
from testing.service import Service
from testing.small_service import pb

# Low ids and a low number are what a ratio samples first.
FORGED = {
    "traceparent": f"00-{'0' * 31}1-b7ad6b7169203331-01",
    "sentry-trace": f"{'0' * 31}1-b7ad6b7169203331-1",
    "baggage": f"sentry-trace_id={'0' * 31}1,sentry-sample_rand=0.000001,sentry-sample_rate=1,sentry-sampled=true",
}
SENT_ON = ("traceparent", "tracestate", "baggage", "sentry-trace", "x-amzn-trace-id", "b3")


def ask(service: Service) -> None:
    """A call over each protocol."""
    assert service.http.post("/chat", json={}, headers=FORGED).status_code == 200
    assert service.stub.PirateChat(pb.ChatRequest(), metadata=tuple(FORGED.items())).answer


@pytest.mark.parametrize(("rate", "is_sampled"), [("0", False), ("1", True)])
def test_a_caller_decides_no_sampling_and_no_provider_gets_a_trace(
    rate: str, is_sampled: bool, upstream: GeminiStandIn
) -> None:
    with OtlpOverHttp() as collector:
        export = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}"}
        export |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": rate}
        with Service(**upstream.env, **export, CACHE_ENABLED="false") as service:
            ask(service)
            service.terminate()
            assert service.wait() == 0
    assert bool(collector.spans.all) == is_sampled
    assert_no_trace_is_sent_on(upstream)


def assert_no_trace_is_sent_on(upstream: GeminiStandIn) -> None:
    """Look at the requests of the two calls."""
    assert len(upstream.requests) == 2
    assert not [name for request in upstream.requests for name in SENT_ON if name in request.headers]
