"""SIGTERM: connections that ask for nothing hold nobody up, and one whose client does not read only for the grace."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.service import COMMANDS, Service
from tests.live.test_lifecycle import EXIT_STATUS

GRACE = 3
# Beyond what a Python process with gRPC takes to end on a busy machine: the grace itself is longer.
AT_ONCE, AFTER_GRACE = 1.5, GRACE + 2.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

Hold = Callable[[Service, ExitStack], None]


def connect(service: Service, stack: ExitStack, sent: bytes) -> socket.socket:
    client = stack.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(5)
    client.connect(("127.0.0.1", service.port))
    client.sendall(sent)
    return client


def idle_connection(service: Service, stack: ExitStack) -> None:
    connect(service, stack, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").recv(65_536)


def idle_http2(service: Service, stack: ExitStack) -> None:
    connect(service, stack, PREFACE).recv(65_536)


def half_a_head(service: Service, stack: ExitStack) -> None:
    connect(service, stack, b"GET /health HTTP/1.1\r\nHost: x\r\n")


def half_a_body(service: Service, stack: ExitStack) -> None:
    head = b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    connect(service, stack, head)


def open_watch(service: Service, stack: ExitStack) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel(service, stack))
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING


def silent_rpc(service: Service, stack: ExitStack) -> None:
    ended = threading.Event()
    stack.callback(ended.set)

    def nothing() -> Iterator[bytes]:
        ended.wait()
        yield from ()

    call: Any = channel(service, stack).stream_unary("/genkit.sample.v1.GenkitService/PirateChat")
    call.future(nothing())


def unread_stream(service: Service, stack: ExitStack) -> None:
    request = (
        b"POST /tell-story/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert connect(service, stack, request).recv(1) == b"H"


def channel(service: Service, stack: ExitStack) -> grpc.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}", options))


HOLDS: list[Hold] = [idle_connection, idle_http2, half_a_head, half_a_body, open_watch, silent_rpc]


def together(service: Service, stack: ExitStack) -> None:
    for hold in HOLDS:
        hold(service, stack)


def started(server: str, upstream: GeminiStandIn) -> Service:
    command = [*COMMANDS[server], *(["--http", "auto"] if server == "granian" else [])]
    return Service(command, **upstream.env, SHUTDOWN_GRACE=str(GRACE))


@pytest.mark.parametrize("hold", [*HOLDS, together])
def test_what_asks_for_nothing_does_not_hold_up_a_stop(hold: Hold, server: str) -> None:
    with GeminiStandIn() as upstream, started(server, upstream) as service, ExitStack() as stack:
        hold(service, stack)
        took, status = stopped(service)
        assert status == EXIT_STATUS.get(server, 0), service.output()
        assert took < AT_ONCE
        assert '"stopped"' in service.output()


@pytest.mark.parametrize("hold", [idle_connection, together])
def test_work_whose_client_does_not_read_ends_with_the_grace(hold: Hold, server: str) -> None:
    with GeminiStandIn() as upstream:
        upstream.default(gemini.text(*["x" * 20_000] * 400))
        with started(server, upstream) as service, ExitStack() as stack:
            hold(service, stack)
            unread_stream(service, stack)
            upstream.wait_for(lambda: len(upstream.requests) >= 1)
            time.sleep(0.5)  # the stream fills the buffers on its way
            took, status = stopped(service)
            assert status in (0, EXIT_STATUS.get(server, 0)), service.output()
            assert took < AFTER_GRACE
            assert '"stopped"' in service.output()


def stopped(service: Service) -> tuple[float, int]:
    """Seconds that it takes to stop, and its exit status."""
    time.sleep(0.3)  # what the connections sent has arrived
    began = time.monotonic()
    service.terminate()
    status = service.wait(30)
    return time.monotonic() - began, status
