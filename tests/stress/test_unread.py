"""Clients that ask and do not read: ended and logged in time, their calls of the model with them."""

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.service import COMMANDS, Service
from tests.live.test_lifecycle import EXIT_STATUS

CLIENTS = 8
REQUEST_SECONDS = 2.0
SLACK_SECONDS = 4.0  # beyond the time limit: half a second to tell the client, and a busy machine
CHUNK, SENT = "w" * 50_000, 200  # more than any buffer on the way holds
SPEAKS_HTTP2 = {"granian": ["--http", "auto"], "hypercorn": []}

Ask = Callable[[int, str, ExitStack], None]


@pytest.fixture(autouse=True)
def never_ending(upstream: GeminiStandIn) -> None:
    """Let the model say much, and never come to an end."""
    gate = gemini.Gate()
    gate.release(SENT * CLIENTS)
    upstream.default(gemini.text(*[CHUNK] * SENT, *["end"] * CLIENTS * SENT, gate=gate))


def started(server: str, upstream: GeminiStandIn, *options: str, **env: str) -> Service:
    return Service([*COMMANDS[server], *options], **upstream.env, **env)


def ask_over_http1(port: int, path: str, clients: ExitStack) -> None:
    for _ in range(CLIENTS):
        client = clients.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
        client.connect(("127.0.0.1", port))
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
        client.sendall(head.encode() + b"{}")


def ask_over_http2(port: int, path: str, clients: ExitStack) -> None:
    client = clients.enter_context(socket.create_connection(("127.0.0.1", port)))
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.sendall(connection.data_to_send())
    for _ in range(CLIENTS):
        stream = connection.get_next_available_stream_id()
        names = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
        connection.send_headers(stream, [*names, ("content-type", "application/json")])
        connection.send_data(stream, b"{}", end_stream=True)
    client.sendall(connection.data_to_send())


def durations(service: Service, path: str) -> list[float]:
    """The seconds of each request for the path that has ended."""
    whole = [line for line in service.output().splitlines(keepends=True) if line.endswith("\n")]
    lines = [json.loads(line) for line in whole if line.startswith("{")]
    return [line["duration_ms"] / 1000 for line in lines if line["event"] == "request" and line["path"] == path]


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("path", ["/tell-story/stream", "/translate"])
def test_clients_that_do_not_read_are_ended_in_time(
    server: str, version: str, path: str, upstream: GeminiStandIn
) -> None:
    if version == "HTTP/2" and server not in SPEAKS_HTTP2:
        server = "hypercorn"
    options = SPEAKS_HTTP2[server] if version == "HTTP/2" else []
    ask: Ask = ask_over_http2 if version == "HTTP/2" else ask_over_http1
    if path == "/translate":
        upstream.default(gemini.HANG)  # its 504 is what nobody reads
    with started(server, upstream, *options, REQUEST_TIMEOUT=str(REQUEST_SECONDS)) as service, ExitStack() as clients:
        ask(service.port, path, clients)
        wait_until(lambda: len(durations(service, path)) == CLIENTS, REQUEST_SECONDS + SLACK_SECONDS)
        assert max(durations(service, path)) < REQUEST_SECONDS + SLACK_SECONDS
        upstream.wait_for(lambda: upstream.open_calls == 0)
        assert service.http.get("/health").status_code == 200


def test_clients_that_do_not_read_are_ended_with_the_grace(server: str, upstream: GeminiStandIn) -> None:
    with started(server, upstream, SHUTDOWN_GRACE="1") as service, ExitStack() as clients:
        ask_over_http1(service.port, "/tell-story/stream", clients)
        upstream.wait_for(lambda: upstream.open_calls == CLIENTS)
        time.sleep(1)  # until what they don't read has filled the buffers
        service.terminate()
        wait_until(lambda: len(durations(service, "/tell-story/stream")) == CLIENTS, 1 + SLACK_SECONDS)
        upstream.wait_for(lambda: upstream.open_calls == 0)
        # The servers' commands wait 11 seconds for the connections.
        assert service.wait(11 + SLACK_SECONDS) in (0, EXIT_STATUS.get(server, 0))
        # The last work, such as sending spans, comes after all requests, and so does the end of the process.
        _, after_the_last_request = service.output().rsplit('"event":"request"', 1)
        assert '"stopped"' in after_the_last_request
        assert "Traceback" not in service.output()
