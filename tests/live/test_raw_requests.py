"""Requests written by hand get the same answer from every server."""

import socket
from collections.abc import Iterator

import pytest

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.service import COMMANDS, Service
from tests.live.test_attacks import raw

SERVERS = [name for name in COMMANDS if not name.startswith("python")]
JSON = b"Content-Type: application/json\r\n"
CHUNKED = JSON + b"Host: a\r\nTransfer-Encoding: chunked\r\n"
OVERFLOW = b"10000000000000002\r\n{}\r\n0\r\n\r\n"


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with Service(COMMANDS[request.param], REQUEST_TIMEOUT="1") as running:
        yield running


def post(headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST /chat HTTP/" + version + b"\r\nConnection: close\r\n" + headers + b"\r\n" + body


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        pytest.param(post(JSON + b"Host: a\r\nContent-Length: 2\r\n", b"{}"), {200}, id="one host"),
        pytest.param(post(JSON + b"Host: a\r\nHost: a\r\nContent-Length: 2\r\n", b"{}"), {400}, id="two hosts"),
        pytest.param(post(JSON + b"Content-Length: 2\r\n", b"{}"), {400}, id="no host"),
        pytest.param(post(JSON + b"Content-Length: 2\r\n", b"{}", b"1.0"), {200}, id="no host, HTTP/1.0"),
        pytest.param(post(b"Host: a\r\nContent-Length: 0\r\n"), {415}, id="empty, of no type"),
        pytest.param(post(b"Host: a\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n"), {415}, id="empty text"),
        # Where a server takes it for a length, what follows is a body that never ends.
        pytest.param(post(CHUNKED, OVERFLOW), {400, 504}, id="overflowing chunk size"),
        pytest.param(post(CHUNKED, b"2\r\n{}\r\nzz\r\n\r\n"), {400}, id="broken chunk"),
        # uvicorn and gunicorn hand over what they have read as one piece.
        pytest.param(post(CHUNKED, b"1\r\n \r\n" * 5000 + b"2\r\n{}\r\n0\r\n\r\n"), {200, 413}, id="many chunks"),
    ],
)
def test_a_raw_request(service: Service, sent: bytes, statuses: set[int]) -> None:
    answer = raw(service.port, sent, timeout=5)
    assert answer.startswith(b"HTTP/1.")
    assert int(answer[9:12]) in statuses
    assert answer.count(b"HTTP/1.") == 1


@pytest.mark.parametrize("server", SERVERS)
def test_a_client_that_closes_its_sending_side_has_left(server: str, upstream: GeminiStandIn) -> None:
    """TCP does not tell the two apart, and nobody may wait for the answer."""
    upstream.default(gemini.text("one", gate=gemini.Gate()))
    sent = post(JSON + b"Host: a\r\nX-Request-ID: half\r\nContent-Length: 2\r\n", b"{}")
    with (
        Service(COMMANDS[server], **upstream.env) as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=10) as client,
    ):
        client.sendall(sent)
        upstream.wait_for(lambda: upstream.open_calls == 1)
        client.shutdown(socket.SHUT_WR)
        # hypercorn sends the response that stands for none: status 499 is for the log alone.
        assert client.recv(65_536)[9:12] == (b"400" if server == "hypercorn" else b"")
        assert service.access_line("half")["status"] == 499
        upstream.wait_for(lambda: upstream.open_calls == 0)
