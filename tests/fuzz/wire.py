"""HTTP/1.1 and HTTP/2 frames byte by byte, without a client library."""

import http.client
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4

RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Answer:
    """A response as it came over the wire, headers in order and with duplicates."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Each value of a header."""
        return [value for key, value in self.headers if key.lower() == name]


def request(method: bytes, target: bytes, headers: RawHeaders, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    """The bytes of a request, as they are given: nothing is checked, completed or escaped."""
    head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return method + b" " + target + b" HTTP/" + version + b"\r\n" + head + b"\r\n" + body


def post(path: str, body: bytes, headers: RawHeaders) -> bytes:
    """A whole, well-formed POST with these headers beside the length."""
    return request(b"POST", path.encode(), [*headers, (b"content-length", b"%d" % len(body))], body)


def exchange(port: int, *parts: bytes, timeout: float = 5.0) -> Answer | None:
    """Send the parts and read one response; None where the server closes, resets or stays silent instead."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        with suppress(ConnectionError):  # it may have answered, and closed, before it has read everything
            for part in parts:
                client.sendall(part)
        return read_answer(client)


def read_answer(client: socket.socket) -> Answer | None:
    """The response that comes on this connection."""
    response = http.client.HTTPResponse(client)
    try:
        response.begin()
        return Answer(response.status, response.getheaders(), response.read())
    except (OSError, http.client.HTTPException):
        return None


def send_and_leave(address: tuple[str, int], sent: bytes, timeout: float = 0.2) -> bytes:
    """Send, read what comes at once, and close."""
    with socket.create_connection(address, timeout=timeout) as client, suppress(OSError):
        client.sendall(sent)
        return client.recv(65_536)
    return b""


def reset(client: socket.socket) -> None:
    """Close so that the other side gets a reset instead of an end."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind & 255, flags & 255)) + stream.to_bytes(4, "big") + payload


def field_block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header fields as literals that are never indexed (RFC 7541, 6.2.3)."""
    return b"".join(b"\x10" + _literal(name) + _literal(value) for name, value in headers)


def _literal(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes((len(text),)) + text
    length, more = b"\x7f", len(text) - 127
    while more >= 128:
        length += bytes((more % 128 + 128,))
        more //= 128
    return length + bytes((more,)) + text
