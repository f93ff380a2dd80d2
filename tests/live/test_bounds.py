"""Bounds that a server keeps by itself: its own, as it was told them."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.service import Service
from testing.small_service import pb

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
STREAMS = 100  # of one connection


@pytest.fixture(scope="module")
def service(shared_upstream: GeminiStandIn) -> Iterator[Service]:
    pools = {"LLM_MAX_CONCURRENCY": "1000", "LLM_MAX_PER_CLIENT": "1000", "HTTPX_POOL_MAX": "1000"}
    with Service(KEEP_ALIVE_TIMEOUT="1", **pools, **shared_upstream.env) as running:
        yield running


def test_metadata_over_the_limit_is_refused(service: Service) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service.stub.PirateChat(pb.ChatRequest(), metadata=[("x-big", "a" * 40_000)], timeout=5)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert service.stub.Health(pb.HealthRequest()).status == "ok"


@pytest.mark.parametrize("protocol", ["REST", "gRPC"])
def test_an_idle_connection_is_closed(service: Service, protocol: str) -> None:
    port = service.port if protocol == "REST" else service.grpc_port
    first = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n" if protocol == "REST" else PREFACE
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(first)
        assert client.recv(65_536)
        began = time.monotonic()
        while client.recv(65_536):
            pass
        assert 0.5 < time.monotonic() - began < 8


def test_rpcs_beyond_what_a_connection_takes_wait(service: Service, upstream: GeminiStandIn) -> None:
    """The client's own library holds them back: the server has named its maximum."""
    gate = gemini.Gate()
    upstream.default(gemini.text("told", gate=gate))
    calls = [service.stub.PirateChat.future(pb.ChatRequest(question=f"{n}"), timeout=30) for n in range(STREAMS + 1)]
    upstream.wait_for(lambda: upstream.open_calls == STREAMS)
    late = threading.Timer(0.3, gate.release, [STREAMS + 1])
    late.start()
    answers = [call.result().answer for call in calls]
    late.join()
    assert answers == ["told"] * (STREAMS + 1)
    assert upstream.max_open_calls == STREAMS
