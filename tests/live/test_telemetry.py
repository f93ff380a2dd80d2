"""Traces over OTLP: each call is one connected trace, its id is in the log, and it says nothing of what was said."""

import json
import socket
import subprocess
import sys
from typing import Any

import pytest

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.fakes.sinks import OtlpOverGrpc, OtlpOverHttp, Spans
from testing.service import COMMANDS, ROOT, Service
from testing.small_service import pb

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CHAT, RPC = "POST /translate", "genkit.sample.v1.GenkitService/TranslateText"


def traced(upstream: GeminiStandIn, collector: OtlpOverGrpc | OtlpOverHttp, command: str, **env: str) -> Service:
    export = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": collector.protocol,
    }
    return Service(COMMANDS[command], **upstream.env, **export, CACHE_ENABLED="false", **env)


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def is_connected(spans: Spans, root: Any) -> bool:
    """Return True if all spans of the root's trace hang together below it."""
    mine = [span for span in spans.all if span.trace_id == root.trace_id]
    ids = {span.span_id for span in mine}
    return all(span.span_id == root.span_id or span.parent_span_id in ids for span in mine)


@pytest.mark.parametrize(
    ("make", "command"), [(OtlpOverHttp, "python -m src"), (OtlpOverGrpc, "python -m src, uvicorn")]
)
def test_a_call_is_one_trace_over_either_protocol(
    make: type[OtlpOverGrpc | OtlpOverHttp], command: str, upstream: GeminiStandIn
) -> None:
    with make() as collector, traced(upstream, collector, command) as service:
        headers = {"traceparent": PARENT, "x-request-id": "traced-1"}
        service.http.post("/translate", json={"text": "canary prompt"}, headers=headers)
        service.stub.TranslateText(pb.TranslateRequest(text="canary prompt"))
        service.http.get("/health")
        upstream.script(gemini.error(500, details=({"canary": "canary answer"},)))
        service.http.post("/chat", json={"question": "canary prompt"})
        logged = service.access_line("traced-1")
        service.terminate()
        assert service.wait() == 0
        spans = collector.spans
        collector.wait_for(lambda: bool(spans.named("POST /chat")))
    [rest], [rpc], [failed] = spans.named(CHAT), spans.named(RPC), spans.named("POST /chat")
    assert (rest.trace_id.hex(), rest.parent_span_id.hex()) == (TRACE_ID, "b7ad6b7169203331")
    assert (logged["trace_id"], logged["span_id"]) == (TRACE_ID, rest.span_id.hex())
    for root in (rest, rpc, failed):
        assert is_connected(spans, root)
        names = [span.name for span in spans.all if span.trace_id == root.trace_id]
        assert {"chat gemini-flash-latest", "POST"} <= set(names), names
    assert not spans.named("GET")
    assert attributes(rest)["http.response.status_code"] == 200
    assert attributes(rest)["http.route"] == "/translate"
    assert attributes(rpc)["rpc.response.status_code"] == "OK"
    assert (attributes(failed)["http.response.status_code"], failed.status.code) == (502, 2)
    llm = next(span for span in spans.named("chat gemini-flash-latest") if span.trace_id == rest.trace_id)
    assert attributes(llm)["gen_ai.usage.input_tokens"] == 7
    assert attributes(llm)["gen_ai.provider.name"] == "gcp.gemini"
    [step] = [span for span in spans.named("sanitize-input") if span.trace_id == rest.trace_id]
    assert step
    assert "canary" not in str(spans.all)


def test_without_a_platform_there_is_no_trace() -> None:
    with Service() as service:
        output = service.output_with('"telemetry"')
        [line] = [json.loads(line) for line in output.splitlines() if '"telemetry"' in line]
        assert line["state"] == "off: no platform found"


@pytest.mark.parametrize(
    "module",
    [
        "src.telemetry.traces",
        "src.telemetry.metrics",
        "sentry_sdk",
    ],
)
def test_what_is_off_is_not_imported(module: str) -> None:
    code = f"import sys, src.asgi; src.asgi.create_app(); sys.exit({module!r} in sys.modules)"
    env = {"MODEL": "offline/demo", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, timeout=30)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("command", "protocol"), [("python -m src", "http/protobuf"), ("python -m src, uvicorn", "grpc")]
)
def test_a_collector_that_hangs_holds_up_neither_the_start_nor_the_stop(command: str, protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        export = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        }
        with Service(COMMANDS[command], **export, SHUTDOWN_GRACE="1") as service:
            assert service.http.post("/chat", json={}).status_code == 200
            service.terminate()
            assert service.wait(3) == 0
            for line in service.output().splitlines():
                json.loads(line)
