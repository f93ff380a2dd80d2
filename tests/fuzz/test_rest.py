"""Hostile input on the REST port."""

import socket
import time
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.service import Service
from testing.small_service import OPERATIONS
from tests.fuzz import wire
from tests.fuzz.checks import CANARY, check_answer
from tests.fuzz.conftest import Hunt
from tests.fuzz.strategies import bodies, bytes_or_text, mutated

Watched = Callable[[Callable[[], None]], None]

HOST = (b"host", b"api.test")
JSON = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")
SECRET = CANARY.encode()

_OTHER_TYPES = (b"application/json; charset=utf-16", b"application/x+json", b"text/plain", b"", b"a/b/c")
_types = st.sampled_from((*[b"application/json"] * 15, *_OTHER_TYPES))
_names = st.sampled_from(
    (
        *(b"host", b"content-length", b"content-type", b"transfer-encoding", b"connection", b"expect", b"upgrade"),
        *(b"origin", b"access-control-request-method", b"access-control-request-headers", b"accept-encoding"),
        *(b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto", b"forwarded", b"traceparent", b"tracestate"),
        *(b"baggage", b"sentry-trace", b"authorization", b"x-api-key", b"cookie", b"range", b"http2-settings", b"te"),
        *(b"accept", b"if-none-match", b"x-http-method-override", b"content-encoding", b"trailer", b":path"),
    )
)
_values = st.sampled_from(
    (
        *(b"", b"*", b"null", b"chunked", b"gzip;q=0", b"gzip, chunked", b"100-continue", b"h2c", b"websocket"),
        *(b"0", b"-1", b"1e3", b"18446744073709551616", b"2, 2", b"bytes=0-0,-1", b"api.test", b"api.test:x", b"[::1"),
        *(b"http://api.test", b"for=127.0.0.1", b"127.0.0.1, ::1", b"POST", b"Bearer " + SECRET, SECRET, b"utf-8"),
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
)
_fields = st.tuples(_names | mutated(_names), _values | mutated(_values) | bytes_or_text)
_heads = st.lists(_fields | st.sampled_from((HOST, JSON, CLOSE)), max_size=12)
_methods = st.sampled_from((b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"TRACE", b"CONNECT", b"PRI", b"get"))
_paths = st.sampled_from(
    (
        *(operation.path.encode() for operation in OPERATIONS),
        *(b"/", b"*", b"/health", b"/ready", b"/docs", b"/openapi.json", b"/metrics", b"//health", b"/health/"),
        *(b"/../health", b"/%2e%2e/%00", b"http://evil.test/health", b"api.test:443", b"/?" + SECRET, b"/#", b"/%ff"),
    )
)
_requests = st.builds(
    wire.request,
    _methods | mutated(_methods),
    _paths | mutated(_paths),
    st.lists(st.sampled_from((HOST, CLOSE, JSON, (b"content-length", b"2"))), max_size=4),
    st.sampled_from((b"", b"{}")),
    st.sampled_from((b"1.1", b"1.0", b"0.9", b"2.0", b"1.2")),
)
_WHOLE = wire.post("/chat", b'{"question":"%s"}' % SECRET, [HOST, JSON, (b"authorization", b"Bearer " + SECRET)])
_CHUNKED = wire.request(
    b"POST", b"/chat", [HOST, JSON, (b"transfer-encoding", b"chunked")], b"2\r\n{}\r\n0\r\nx-trailer: a\r\n\r\n"
)


def test_bodies_of_any_kind(service: Service, hunt: Hunt, watched: Watched) -> None:
    def check(case: tuple[tuple[str, bytes], bytes]) -> None:
        (path, body), content_type = case
        request = wire.post(path, body, [HOST, (b"content-type", content_type)])
        answer = wire.exchange(service.port, request)
        assert answer is not None, "a whole request got no answer"
        check_answer(answer)

    hunt(st.tuples(bodies, _types), lambda case: watched(lambda: check(case)))


def test_headers_of_any_kind(service: Service, hunt: Hunt, watched: Watched) -> None:
    def check(head: list[tuple[bytes, bytes]]) -> None:
        request = wire.request(b"POST", b"/chat", head, b"{}")
        answer = wire.exchange(service.port, request, timeout=0.3)
        if answer is not None:
            check_answer(answer, is_request=False)

    hunt(_heads, lambda head: watched(lambda: check(head)))


def test_request_lines_of_any_kind(service: Service, hunt: Hunt, watched: Watched) -> None:
    def check(request: bytes) -> None:
        answer = wire.exchange(service.port, request, timeout=0.3)
        if answer is not None:
            check_answer(answer, is_request=False)

    hunt(_requests, lambda request: watched(lambda: check(request)))


def test_bytes_of_any_kind(service: Service, hunt: Hunt, watched: Watched) -> None:
    """Mutated requests in two parts, so that a cut is anywhere."""

    def check(case: tuple[bytes, int]) -> None:
        request, cut = case
        answer = wire.exchange(service.port, request[:cut], request[cut:], timeout=0.3)
        if answer is not None:
            check_answer(answer, is_request=False)

    whole = st.sampled_from((_WHOLE, _CHUNKED, _WHOLE + _CHUNKED))
    cases = st.tuples(mutated(whole) | st.binary(max_size=200), st.integers(0, 400))
    hunt(cases, lambda case: watched(lambda: check(case)))


def test_readers_that_are_slow_or_leave(
    service: Service, upstream: GeminiStandIn, hunt: Hunt, watched: Watched
) -> None:
    """They read a few bytes at a time, then close, reset or half-close: no call of the model outlives them."""
    streamed = [operation.path for operation in OPERATIONS if operation.streamed]
    upstream.default(gemini.text(*("word " * 200 for _ in range(50))))

    def check(case: dict[str, Any]) -> None:
        with socket.create_connection(("127.0.0.1", service.port), timeout=5) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(wire.post(case["path"], b"{}", [HOST, JSON]))
            for size, pause in case["reads"]:
                client.recv(size)
                time.sleep(pause)
            if case["end"] == "reset":
                wire.reset(client)
            elif case["end"] == "half-close":
                client.shutdown(socket.SHUT_WR)
        upstream.wait_for(lambda: upstream.open_calls == 0)

    reads = st.lists(st.tuples(st.integers(1, 3000), st.sampled_from((0.0, 0.0, 0.01))), max_size=8)
    cases = st.fixed_dictionaries(
        {"path": st.sampled_from(streamed), "reads": reads, "end": st.sampled_from(("close", "reset", "half-close"))}
    )
    try:
        hunt(cases, lambda case: watched(lambda: check(case)))
    finally:
        upstream.default(gemini.ECHO)
