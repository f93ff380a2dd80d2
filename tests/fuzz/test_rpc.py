"""Hostile input on the gRPC port, and HTTP/2 frames on both."""

from collections.abc import Callable
from typing import Any

import grpc
from hypothesis import strategies as st

from testing.service import Service
from testing.small_service import OPERATIONS, SERVICE
from tests.fuzz import wire
from tests.fuzz.checks import CANARY, check_rpc
from tests.fuzz.conftest import Hunt
from tests.fuzz.strategies import bytes_or_text, mutated, texts

Watched = Callable[[Callable[[], None]], None]

METHODS = {f"/{SERVICE.full_name}/{operation.rpc}": operation.streamed for operation in OPERATIONS}
OTHERS = (
    *(f"/{SERVICE.full_name}/Health", f"/{SERVICE.full_name}/Nothing", "/", "//", "/a/b/c", "/a b/{{x}}"),
    *("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Nothing"),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
FIELDS = 6  # one more than any request message has
TIMEOUT = 8.0


def _wire_field(number: int, value: bytes | int) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return bytes((number << 3,)) + _varint(value)
    return bytes((number << 3 | 2,)) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    written = b""
    while value > 127:
        written, value = written + bytes((value & 127 | 128,)), value >> 7
    return written + bytes((value,))


_field_values = texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.integers(0, 2**64 - 1)
_messages = st.lists(st.builds(_wire_field, st.integers(1, FIELDS), _field_values), max_size=5).map(b"".join)
messages = _messages | mutated(_messages) | st.binary(max_size=60)

_text_keys = st.sampled_from(
    (
        *("x-request-id", "authorization", "x-api-key", "x-forwarded-for", "traceparent", "tracestate", "baggage"),
        *("sentry-trace", "cookie", "grpc-previous-rpc-attempts", "x-", "a.b_c", "accept-encoding"),
    )
)
_text_values = st.sampled_from((CANARY, f"Bearer {CANARY}", "", "a", "127.0.0.1, ::1", "9" * 400)) | st.text(
    st.characters(min_codepoint=32, max_codepoint=126), max_size=200
)
metadata = st.lists(
    st.tuples(_text_keys, _text_values)
    | st.tuples(st.sampled_from(("x-bin", "grpc-tags-bin")), st.binary(max_size=300)),
    max_size=12,
)


class Rpc:
    """Calls by bytes, any method."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def check(self, method: str, message: bytes, sent: list[Any]) -> None:
        """Call, and check how it ends."""
        call = self._channel.unary_stream(method)(message, timeout=TIMEOUT, metadata=tuple(sent))
        try:
            for _ in call:
                pass
        except grpc.RpcError:
            pass
        received = (*call.initial_metadata(), *call.trailing_metadata())
        ids = [str(value) for key, value in received if key == "x-request-id"]
        check_rpc(call.code(), call.details() or "", ids)


def test_messages_of_any_kind(service: Service, hunt: Hunt, watched: Watched) -> None:
    rpc = Rpc(service.channel)
    cases = st.tuples(st.sampled_from(sorted(METHODS)), messages)
    hunt(cases, lambda case: watched(lambda: rpc.check(*case, [])))


def test_metadata_and_methods_of_any_kind(service: Service, hunt: Hunt, watched: Watched) -> None:
    rpc = Rpc(service.channel)
    cases = st.tuples(st.sampled_from((*sorted(METHODS), *OTHERS)), metadata)
    hunt(cases, lambda case: watched(lambda: rpc.check(case[0], b"", case[1])))


def _call_frames(path: bytes, extra: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"api.test"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *extra,
    ]
    data = b"\x00" + len(body).to_bytes(4, "big") + body
    return (
        wire.PREFACE
        + wire.frame(wire.SETTINGS, 0, 0)
        + wire.frame(wire.HEADERS, wire.END_HEADERS, 1, wire.field_block(fields))
        + wire.frame(wire.DATA, wire.END_STREAM, 1, data)
    )


_chat = f"/{SERVICE.full_name}/PirateChat".encode()
_extra = st.lists(
    st.tuples(
        st.sampled_from((b"authorization", b"x-request-id", b"grpc-timeout", b"grpc-encoding", b"x")), bytes_or_text
    ),
    max_size=3,
)
_calls = st.builds(_call_frames, st.just(_chat) | mutated(st.just(_chat)), _extra, st.binary(max_size=20))
_frames = st.builds(
    wire.frame, st.integers(0, 12), st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=30)
)
_connections = _calls | mutated(_calls) | st.lists(_frames, max_size=20).map(lambda some: wire.PREFACE + b"".join(some))


def test_frames_of_any_kind(service: Service, hunt: Hunt, watched: Watched) -> None:
    """Both ports: clients that respect no rule of HTTP/2 get what they get, the others go on."""

    def check(case: tuple[bool, bytes]) -> None:
        over_grpc, sent = case
        port = service.grpc_port if over_grpc else service.port
        wire.send_and_leave(("127.0.0.1", port), sent, timeout=0.1)

    hunt(st.tuples(st.booleans(), _connections), lambda case: watched(lambda: check(case)))
    Rpc(service.channel).check(f"/{SERVICE.full_name}/Health", b"", [])
