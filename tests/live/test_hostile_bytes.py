"""Clients' bytes appear in log lines only as path, method and valid id, whoever writes the line."""

import json
import socket
from contextlib import suppress
from typing import Any

import grpc
import h2.config
import h2.connection
import httpx
import pytest

from testing.fakes.sinks import OtlpOverHttp
from testing.ports import free_port
from testing.service import COMMANDS, Service
from tests.live.test_attacks import HTTP2, raw

ALLOWED = ("path", "method", "request_id", "operation")

# Each is sent as it is to both ports. None of them is a request that ends well.
MALFORMED = [
    b"canary-line\r\n\r\n",
    b"GET /canary-path HTTP/9.9\r\n\r\n",
    b"GET /canary\xff\xfe path HTTP/1.1\r\nhost: x\r\n\r\n",
    b"CANARY\x01METHOD / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: canary-host\r\ncanary name: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nx-bad: canary\x00value\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nx-folded: a\r\n canary-folded\r\n\r\n",
    b"POST /chat HTTP/1.1\r\nhost: x\r\ncontent-length: canary-length\r\n\r\n",
    b"POST /chat HTTP/1.1\r\nhost: x\r\ntransfer-encoding: canary-coding\r\n\r\n",
    b"POST /chat HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\ncanary-chunk\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: canary-upgrade\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nx-long: " + b"canary" * 20_000 + b"\r\n\r\n",
    HTTP2 + b"canary-frame" * 20,
    b"\x16\x03\x01\x00\x40canary-tls" + b"\x00" * 60,
]
# Values of headers that somebody reads, and of one that nobody does.
HEADERS = (
    *("authorization", "cookie", "user-agent", "origin", "referer", "accept", "accept-encoding", "content-type"),
    *("x-forwarded-for", "x-forwarded-proto", "x-api-key", "traceparent", "tracestate", "baggage", "sentry-trace"),
    *("if-none-match", "range", "expect", "x-anything", "x-canary-name"),
)
BODIES = [
    b'{"question": "canary-body"',
    b'{"question": 1, "canary-field": 2}',
    b'{"question": "canary' + b"-long" * 5000 + b'"}',
    b"\xffcanary-bytes",
    b"canary-text",
]
# A caller's own trace, which Sentry's SDK would continue.
TRACE = {
    "sentry-trace": "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
    "baggage": "sentry-trace_id=0af7651916cd43dd8448eb211c80319c,sentry-release=canary-release,"
    "sentry-public_key=canary,sentry-transaction=canary,sentry-user_id=canary,other=canary",
}
IDS = ["canary id", "canary\xff", "canary" * 40]
NO_UTF8 = b"canary-\xff\xfe-metadata"


def over_rest(service: Service) -> None:
    """Requests that are well-formed HTTP, with hostile contents."""
    for name in HEADERS:
        for value in (b"canary-value", b"canary-\xff"):
            with suppress(Exception):
                service.http.post("/chat?canary-query=canary", json={}, headers=[(name.encode(), value)])
    for body in BODIES:
        for path in ("/chat", "/tell-story/stream", "/canary-path"):
            service.http.post(path, content=body, headers={"content-type": "application/json"})
    service.http.post("/chat", json={}, headers=TRACE)
    for request_id in IDS:
        service.http.get("/canary-path", headers=[(b"x-request-id", request_id.encode("latin-1"))])
    service.http.request("CANARYMETHOD", "/canary-path")


def over_grpc(service: Service) -> None:
    """RPCs with hostile metadata, messages and names."""
    chat = "/genkit.sample.v1.GenkitService/PirateChat"
    for method in (chat, "/canary.Service/Canary", "/genkit.sample.v1.GenkitService/Canary"):
        for message in (b"", b"canary-message", b"\x0a\x06canary", b"\x0a\x04\xff\xfe\xfd\xfc"):
            metadata: Any = [
                ("x-canary", "canary-value"),
                ("x-canary-bin", b"canary\xff"),
                ("x-request-id", "canary id"),
            ]
            call: Any = service.channel.unary_unary(method)
            with suppress(grpc.RpcError):
                call(message, metadata=metadata, timeout=5)


def over_http2(service: Service) -> None:
    """RPCs and requests whose headers are no UTF-8, which no client library sends."""
    for port in (service.grpc_port, service.port):
        for name in (b"x-canary", b"x-request-id", b"authorization", b"user-agent", b"grpc-timeout", b"grpc-encoding"):
            connection = h2.connection.H2Connection(
                h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
            )
            connection.initiate_connection()
            headers = [(":method", "POST"), (":scheme", "http"), (":authority", "x")]
            headers += [(":path", "/genkit.sample.v1.GenkitService/PirateChat"), ("te", "trailers")]
            headers += [("content-type", "application/grpc"), (name, NO_UTF8)]  # type: ignore[list-item]
            connection.send_headers(1, headers)
            connection.send_data(1, b"\x00\x00\x00\x00\x00", end_stream=True)
            raw(port, connection.data_to_send(), timeout=0.5)


def attack(service: Service) -> None:
    """Send it everything."""
    over_rest(service)
    over_grpc(service)
    over_http2(service)
    for malformed in MALFORMED:
        for port in (service.port, service.grpc_port):
            with suppress(socket.timeout, OSError):
                raw(port, malformed, timeout=0.3)
    assert service.http.get("/health").status_code == 200


def assert_log_quotes_no_client(service: Service) -> None:
    """Look at the whole log; its access lines alone have clients' paths and methods."""
    entries = [json.loads(line) for line in service.output().splitlines()]
    assert sum("canary" in json.dumps(entry).lower() for entry in entries) >= 5, "paths and methods are logged"
    for entry in entries:
        rest = {field: value for field, value in entry.items() if field not in ALLOWED}
        assert "canary" not in json.dumps(rest).lower(), entry
        assert all(len(str(entry.get(field, ""))) <= 257 * 12 for field in ALLOWED)
        assert "canary" not in str(entry.get("request_id", ""))


@pytest.mark.parametrize("name", ["python -m src", "uvicorn", "hypercorn"])
def test_the_log_quotes_no_client(name: str) -> None:
    with Service(COMMANDS[name]) as service:
        attack(service)
        service.terminate()
        service.wait()
        assert_log_quotes_no_client(service)


def test_neither_do_traces_and_metrics() -> None:
    port = free_port()
    with OtlpOverHttp() as collector:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": collector.protocol,
            "METRICS_PORT": str(port),
        }
        with Service(COMMANDS["python -m src"], **env) as service:
            attack(service)
            metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
            service.terminate()
            service.wait()
            assert_log_quotes_no_client(service)
    assert "http_server_request_duration_seconds" in metrics
    assert "canary" not in metrics.lower()
    assert collector.spans.all
    for span in collector.spans.all:
        quoting = {each.key for each in span.attributes if "canary" in str(each.value).lower()}
        assert quoting <= {"url.path"}, span
        assert "canary" not in span.name.lower()
        assert not span.events
