"""Hostile bytes get a 4xx or a closed connection, and the service still answers."""

import re
import socket
import ssl
from collections.abc import Iterator

import httpx
import pytest

from testing.service import Service
from testing.small_service import pb

JSON = b"content-type: application/json\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, GOAWAY, WINDOW_UPDATE = 4, 7, 8  # types of frames
ACK = 1  # flag of SETTINGS
EMPTY_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(TRUSTED_HOSTS="api.test", REQUEST_TIMEOUT="1", MAX_BODY_SIZE="100000") as running:
        yield running
        assert "Traceback" not in running.output()


def exchange(port: int, attack: bytes, timeout: float = 1.5) -> tuple[bytes, bool]:
    """Send bytes, and read until the server closes the connection or falls silent.

    Returns:
        What came back, and whether the server closed the connection.
    """
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        try:
            client.sendall(attack)
            while chunk := client.recv(65_536):
                received += chunk
        except TimeoutError:
            return received, False
        except OSError:
            pass
    return received, True


def raw(port: int, attack: bytes, timeout: float = 1.5) -> bytes:
    """Send bytes; returns what came back."""
    return exchange(port, attack, timeout)[0]


def post(path: bytes, headers: bytes, body: bytes = b"") -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\nhost: api.test\r\nconnection: close\r\n" + headers + b"\r\n" + body


def still_answers(service: Service) -> bool:
    rest = httpx.get(f"{service.rest_url}/health").json() == {"status": "ok"}
    return rest and bool(service.stub.Health(pb.HealthRequest()).status == "ok")


REFUSED_BY_SERVICE = [
    pytest.param(post(b"/chat", JSON + b"content-length: 2\r\n", b'{"question":1}'), id="body longer than declared"),
    pytest.param(
        post(b"/chat", JSON + b"transfer-encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n"), id="chunk of no size"
    ),
    pytest.param(
        post(b"/chat", JSON + b"transfer-encoding: chunked\r\n", b"fffffffffffffffff\r\n{}"), id="chunk of absurd size"
    ),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
    pytest.param(b"GET / HTTP/1.1\r\nhost: evil.test\r\nconnection: close\r\n\r\n", id="wrong host"),
    pytest.param(b"GET http://evil.test/ HTTP/1.1\r\nhost: evil.test\r\nconnection: close\r\n\r\n", id="absolute URL"),
    pytest.param(b"GET /health/..%2fdocs HTTP/1.1\r\nhost: evil.test\r\nconnection: close\r\n\r\n", id="traversal"),
    pytest.param(b"GET //health HTTP/1.1\r\nhost: evil.test\r\nconnection: close\r\n\r\n", id="double slash"),
    pytest.param(b"GET /health;x HTTP/1.1\r\nhost: evil.test\r\nconnection: close\r\n\r\n", id="path parameter"),
    pytest.param(b"GET /health%00 HTTP/1.1\r\nhost: evil.test\r\nconnection: close\r\n\r\n", id="null byte"),
    pytest.param(post(b"/chat", JSON + b"content-length: 3\r\n", b'{"\xff'), id="no UTF-8"),
    pytest.param(post(b"/chat", JSON + b"content-length: 5000\r\n", b'{"a":' * 1000), id="1,000 deep"),
    pytest.param(post(b"/chat", JSON + b"content-length: 17\r\n", b'{"question":NaN}\n'), id="NaN"),
]
# granian refuses these itself.
REFUSED_BY_SERVER = [
    pytest.param(post(b"/chat", JSON + b"content-length: -1\r\n", b"{}"), id="negative length"),
    pytest.param(post(b"/chat", JSON + b"content-length: 1e3\r\n", b"{}"), id="length in other notation"),
    pytest.param(post(b"/chat", JSON + b"content-length: 2\r\ncontent-length: 3\r\n", b"{}x"), id="two lengths"),
    pytest.param(post(b"/chat", JSON + b"x-big: " + b"a" * 65_536 + b"\r\n", b""), id="64 KB header"),
    pytest.param(post(b"/chat", b"".join(b"x-%d: y\r\n" % n for n in range(5000))), id="5,000 headers"),
    pytest.param(post(b"/chat", b"x-request-id: a\r\n b\r\n"), id="folded header"),
    pytest.param(post(b"/chat", b"x bad: y\r\n"), id="space in a header's name"),
    pytest.param(b"GET /health HTTP/9.9\r\n\r\n", id="unknown HTTP version"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="TLS hello"),
    pytest.param(b"\x00" * 1000, id="zeros"),
    pytest.param(HTTP2 + b"\xff" * 200, id="broken HTTP/2"),
    pytest.param(HTTP2 + EMPTY_SETTINGS * 2000, id="HTTP/2 settings flood"),
    pytest.param(HTTP2 + b"\x7f\xff\xff\x00\x00\x00\x00\x00\x01", id="HTTP/2 frame too large"),
]


@pytest.mark.parametrize("attack", REFUSED_BY_SERVICE)
def test_an_attack_on_the_rest_port_gets_a_4xx_and_a_log_line(service: Service, attack: bytes) -> None:
    received = raw(service.port, attack)
    status = status_of(received)
    request_id = re.search(rb"x-request-id: (\S+)", received)
    assert 400 <= status < 500
    assert request_id
    assert service.access_line(request_id[1].decode())["status"] == status
    assert b"Traceback" not in received
    assert still_answers(service)


@pytest.mark.parametrize("attack", REFUSED_BY_SERVER)
def test_bytes_that_are_no_request_get_a_4xx_or_nothing_and_end_the_connection(service: Service, attack: bytes) -> None:
    received, is_closed = exchange(service.port, attack)
    assert is_closed
    assert received == b"" or 400 <= status_of(received) < 500
    assert b"Traceback" not in received
    assert still_answers(service)


def status_of(received: bytes) -> int:
    version, status, _ = received.split(b" ", 2)
    assert version == b"HTTP/1.1"
    return int(status)


def test_what_a_client_gets_for_duplicate_keys_is_the_last(service: Service) -> None:
    body = b'{"question":"first","question":""}'
    received = raw(service.port, post(b"/chat", JSON + b"content-length: %d\r\n" % len(body), body))
    assert received.startswith(b"HTTP/1.1 422 ")


@pytest.mark.parametrize("given", [b"x" * 5000, b"a\x01b", b"\xc3\xa9", b"a b"])
def test_a_hostile_request_id_is_neither_echoed_nor_logged(service: Service, given: bytes) -> None:
    received = raw(service.port, post(b"/nowhere", b"x-request-id: " + given + b"\r\n"))
    assert given not in received
    assert received.startswith(b"HTTP/1.1 4")
    assert given.decode("latin-1") not in service.output()


def test_an_upload_that_stalls_is_ended_by_the_time_limit(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as client:
        client.sendall(post(b"/chat", JSON + b"content-length: 50\r\n", b'{"question":'))
        assert client.recv(65_536).startswith(b"HTTP/1.1 504 ")
    assert still_answers(service)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", id="HTTP/1.1"),
        pytest.param(b"\x00" * 1000, id="zeros"),
        pytest.param(HTTP2 + b"\xff" * 200, id="broken frames"),
        pytest.param(HTTP2 + b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"12345678", id="ping without settings"),
        pytest.param(HTTP2 + b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08" * 500, id="rapid resets"),
    ],
)
def test_an_attack_on_the_grpc_port_ends_the_connection(service: Service, attack: bytes) -> None:
    received, is_closed = exchange(service.grpc_port, attack)
    assert is_closed
    assert {kind for kind, _ in frames(received)} <= {SETTINGS, GOAWAY, WINDOW_UPDATE}  # no response
    assert still_answers(service)


def test_a_flood_of_settings_on_the_grpc_port_is_acknowledged_and_no_more(service: Service) -> None:
    flood = 2000
    received, _ = exchange(service.grpc_port, HTTP2 + EMPTY_SETTINGS * flood)
    assert frames(received).count((SETTINGS, ACK)) <= flood
    assert {kind for kind, _ in frames(received)} <= {SETTINGS, GOAWAY, WINDOW_UPDATE}
    assert still_answers(service)


def frames(received: bytes) -> list[tuple[int, int]]:
    """The types and flags of HTTP/2 frames (RFC 9113, 4.1)."""
    found = []
    while len(received) >= 9:
        found.append((received[3], received[4]))
        received = received[9 + int.from_bytes(received[:3], "big") :]
    return found


def test_tls_to_a_plain_port_fails_on_both(service: Service) -> None:
    context = ssl.create_default_context()
    for port in (service.port, service.grpc_port):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as client,
            pytest.raises(OSError, match=r"SSL|reset"),
        ):
            context.wrap_socket(client, server_hostname="api.test")
    assert still_answers(service)
