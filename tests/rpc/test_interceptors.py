"""Hooks run in order around an RPC, which ends with one status and hides the text of exceptions from the client."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc
import pytest
import structlog
from structlog.testing import LogCapture
from structlog.typing import EventDict

from src.errors import CircuitOpen
from src.rpc.aio import Server
from src.rpc.hooks import Rpc, RpcHook, current_rpc
from src.rpc.interceptors import RpcInterceptor
from src.util.client_address import TrustedProxies

CANARY = "canary-7041"
Check = Callable[[Any], Awaitable[None]]  # takes a channel


class Noting(RpcHook):
    """Notes what it sees."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self._name = name
        self._seen = seen

    async def on_start(self, rpc: Rpc) -> str:
        self._seen.append(f"{self._name} starts {rpc.method}")
        return f"token of {self._name}"

    def on_end(self, token: str, rpc: Rpc) -> None:
        self._seen.append(f"{token}: {rpc.code}")


class Failing(RpcHook):
    """Fails at one point."""

    def __init__(self, point: str) -> None:
        self._point = point

    async def on_start(self, _rpc: Rpc) -> None:
        fail_at(self._point, "start of a hook")

    def on_end(self, _token: None, _rpc: Rpc) -> None:
        fail_at(self._point, "end of a hook")


def fail_at(point: str, here: str) -> None:
    if point == here:
        raise LookupError(CANARY)


def play(
    check: Check,
    handlers: dict[str, Any],
    *hooks: RpcHook,
    find: Any = None,
    timeout: float = 5,
    options: Sequence[tuple[str, str]] = (),
) -> None:
    """Serve the handlers as the service `s.S`, and run the check on a channel to it.

    Args:
        find: Takes the place of the look-up of handlers.
        options: The channel's.
    """

    async def main() -> None:
        interceptor = RpcInterceptor(hooks, timeout=timeout, proxies=TrustedProxies(), operations={})
        if find is not None:
            interceptor._find = find  # type: ignore[method-assign]
        server = Server((interceptor,), ())
        server.add_registered_method_handlers("s.S", handlers)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                await check(channel)
        finally:
            await server.stop(None)

    asyncio.run(main())


async def consume(call: Any) -> None:
    """Wait for the end of an RPC of any kind."""
    if isinstance(call, grpc.aio.UnaryUnaryCall):
        await call
        return
    async for _ in call:
        pass


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await consume(call)
    return caught.value


def test_hooks_start_in_order_and_end_in_reverse_with_the_status() -> None:
    seen: list[str] = []

    async def refuse(_request: bytes, _context: Any) -> bytes:
        raise CircuitOpen(1.0)

    async def check(channel: Any) -> None:
        assert await channel.unary_unary("/s.S/Good")(b"") == b"fine"
        error = await failure(channel.unary_unary("/s.S/Bad")(b""))
        assert error.code() == grpc.StatusCode.UNAVAILABLE

    async def answer(_request: bytes, _context: Any) -> bytes:
        return b"fine"

    handlers: dict[str, Any] = {
        "Good": grpc.unary_unary_rpc_method_handler(answer),
        "Bad": grpc.unary_unary_rpc_method_handler(refuse),
    }
    play(check, handlers, Noting("one", seen), Noting("two", seen))
    assert seen == [
        *("one starts /s.S/Good", "two starts /s.S/Good", "token of two: OK", "token of one: OK"),
        *("one starts /s.S/Bad", "two starts /s.S/Bad", "token of two: UNAVAILABLE", "token of one: UNAVAILABLE"),
    ]


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[EventDict]:
    """The log lines of failures. Loggers keep their first configuration, so another test's would stay."""
    capture = LogCapture()
    log = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.BoundLogger)
    monkeypatch.setattr("src.logs.failures.log", log)
    entries: list[EventDict] = capture.entries
    return entries


POINTS = ["look-up", "start of a hook", "handler", "serializer", "in mid-stream"]


@pytest.mark.parametrize("point", POINTS)
def test_whatever_is_raised_around_an_rpc_is_internal_and_logged(point: str, failures: list[EventDict]) -> None:
    async def look_up(*_: Any) -> None:
        raise LookupError(CANARY)

    async def unary(_request: bytes, _context: Any) -> bytes:
        fail_at(point, "handler")
        return b""

    async def stream(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"one"
        fail_at(point, "in mid-stream")

    def serialize(message: bytes) -> bytes:
        fail_at(point, "serializer")
        return message

    async def check(channel: Any) -> None:
        make = channel.unary_stream if point == "in mid-stream" else channel.unary_unary
        error = await failure(make("/s.S/Stream" if point == "in mid-stream" else "/s.S/Unary")(b""))
        assert error.code() == grpc.StatusCode.INTERNAL
        sent = f"{error.details()} {error.trailing_metadata()} {error.initial_metadata()}"
        assert not any(word in sent for word in (CANARY, "Lookup", "Error", "class"))

    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary, response_serializer=serialize),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    play(check, handlers, Failing(point), find=look_up if point == "look-up" else None)
    [line] = [line for line in failures if line["log_level"] == "error"]
    assert repr(line["exc_info"].__cause__) == f"LookupError('{CANARY}')"


def test_a_hook_that_fails_at_the_end_spoils_neither_the_answer_nor_the_other_hooks(failures: list[EventDict]) -> None:
    seen: list[str] = []

    async def answer(_request: bytes, _context: Any) -> bytes:
        return b"fine"

    async def check(channel: Any) -> None:
        assert await channel.unary_unary("/s.S/Good")(b"") == b"fine"

    handlers: dict[str, Any] = {"Good": grpc.unary_unary_rpc_method_handler(answer)}
    play(check, handlers, Noting("outer", seen), Failing("end of a hook"))
    assert seen[-1] == "token of outer: OK"
    assert [line["log_level"] for line in failures] == ["error"]


def test_the_id_is_in_the_trailers_and_in_the_headers_of_a_stream_that_has_begun() -> None:
    async def unary(request: bytes, _context: Any) -> bytes:
        if request:
            raise CircuitOpen(1.0)
        return b""

    async def stream(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        if request == b"before":
            raise CircuitOpen(1.0)
        yield b"one"
        if request == b"after":
            raise CircuitOpen(1.0)

    async def ids(call: Any) -> tuple[Any, Any]:
        with suppress(grpc.aio.AioRpcError):
            await consume(call)
        headers, trailers = dict(await call.initial_metadata()), dict(await call.trailing_metadata())
        return headers.get("x-request-id"), trailers.get("x-request-id")

    async def check(channel: Any) -> None:
        metadata = (("x-request-id", "r1"),)
        one, many = channel.unary_unary("/s.S/Unary"), channel.unary_stream("/s.S/Stream")
        assert await ids(one(b"", metadata=metadata)) == (None, "r1")
        assert await ids(one(b"fail", metadata=metadata)) == (None, "r1")
        assert await ids(many(b"", metadata=metadata)) == ("r1", "r1")
        assert await ids(many(b"before", metadata=metadata)) == (None, "r1")
        assert await ids(many(b"after", metadata=metadata)) == ("r1", "r1")

    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    play(check, handlers)


def test_a_retry_policy_recovers_from_a_failure_before_the_first_message() -> None:
    attempts: dict[str, int] = {"unary": 0, "stream": 0}

    def fail_twice(kind: str) -> None:
        attempts[kind] += 1
        if attempts[kind] <= 2:
            raise CircuitOpen(0.01)

    async def unary(_request: bytes, _context: Any) -> bytes:
        fail_twice("unary")
        return b"fine"

    async def stream(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        fail_twice("stream")
        yield b"fine"

    async def check(channel: Any) -> None:
        assert await channel.unary_unary("/s.S/Unary")(b"") == b"fine"
        assert [message async for message in channel.unary_stream("/s.S/Stream")(b"")] == [b"fine"]

    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    play(check, handlers, options=[("grpc.service_config", json.dumps(RETRYING))])
    assert attempts == {"unary": 3, "stream": 3}


RETRYING = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@pytest.mark.parametrize(("count", "code"), [(1000, grpc.StatusCode.OK), (1001, grpc.StatusCode.RESOURCE_EXHAUSTED)])
def test_a_stream_of_requests_has_a_bound_on_its_messages(count: int, code: grpc.StatusCode) -> None:
    read = 0

    async def drain(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        nonlocal read
        async for _ in requests:
            read += 1
        return b""

    async def messages() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x"

    async def check(channel: Any) -> None:
        assert await channel.stream_unary("/s.S/Drain")(messages()).code() == code

    play(check, {"Drain": grpc.stream_unary_rpc_method_handler(drain)})
    assert read == 1000


def test_the_time_limit_is_lifted_for_those_that_have_another() -> None:
    async def slow(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        if request:
            current_rpc().lift_deadline()
        await asyncio.sleep(0.3)
        yield b"done"

    async def check(channel: Any) -> None:
        call = channel.unary_stream("/s.S/Slow")
        assert (await failure(call(b""))).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert [message async for message in call(b"lift")] == [b"done"]

    play(check, {"Slow": grpc.unary_stream_rpc_method_handler(slow)}, timeout=0.1)


def test_a_stop_ends_what_waits_for_its_message_and_leaves_the_time_limit_of_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[RpcInterceptor] = []
    monkeypatch.setattr(RpcInterceptor, "intercept_service", noting(made))

    async def slow(_request: bytes, _context: Any) -> bytes:
        made[0].stop()
        await asyncio.sleep(5)
        return b""

    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def check(channel: Any) -> None:
        silent = channel.stream_unary("/s.S/Slow")(nothing())
        await asyncio.sleep(0)
        running = channel.unary_unary("/s.S/Slow")(b"")
        codes = {"silent": await silent.code(), "running": await running.code()}
        late = channel.stream_unary("/s.S/Slow")(nothing())
        codes["late"] = await late.code()
        assert codes == {
            "silent": grpc.StatusCode.UNAVAILABLE,
            "running": grpc.StatusCode.DEADLINE_EXCEEDED,
            "late": grpc.StatusCode.UNAVAILABLE,
        }

    play(check, {"Slow": grpc.unary_unary_rpc_method_handler(slow)}, timeout=1)


def noting(made: list[RpcInterceptor]) -> Any:
    """An `intercept_service` that notes whose it is."""
    original = RpcInterceptor.intercept_service

    async def intercept(self: RpcInterceptor, *arguments: Any) -> Any:
        made.append(self)
        return await original(self, *arguments)

    return intercept
