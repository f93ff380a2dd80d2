"""What surrounds every RPC: its log line and id, and the rate limit."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf.message import DecodeError

from src.errors import RateLimited
from src.grpc_errors import Context, Rpc, abort, begin_rpc, current_rpc, status_of
from src.observability.access_log import AccessLines
from src.rate_limit import BucketStore
from src.util.client_address import TrustedProxies, bucket_key
from src.util.request_id import checked_request_id

MAX_KNOWN_RPCS = 128

PROBE_METHODS = frozenset(
    {"/genkit.sample.v1.GenkitService/Health", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}
)


class AroundRpcs(grpc.aio.ServerInterceptor):
    """Base of interceptors that enclose whole RPCs, unary or streaming.

    It wraps the handlers: `intercept_service` itself only sees them looked up.
    """

    exempt: ClassVar[frozenset[str]] = frozenset()  # full names of RPCs that are left alone

    def __init__(self) -> None:
        # It is the same for every call of an RPC; callers may invent names, so not all can be kept.
        self._enclosed = lru_cache(maxsize=MAX_KNOWN_RPCS)(self._enclose)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler that was looked up, inside of this interceptor."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        return handler if method in self.exempt else self._enclosed(handler, method)

    def _enclose(self, handler: Any, method: str) -> Any:
        return around(handler, lambda context: self.enclose(method, context), self.sending)

    def enclose(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        """Runs around one RPC."""
        raise NotImplementedError

    def sending(self, message: bytes) -> bytes:
        """Is given each message to the client, and returns what to send."""
        return message


class GrpcLoggingInterceptor(AroundRpcs):
    """One line an RPC when it has ended, however it ended; its id, as over REST, bound to every line and sent back."""

    def __init__(self, lines: AccessLines, proxies: TrustedProxies) -> None:
        super().__init__()
        self._lines = lines
        self._proxies = proxies

    def enclose(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        return _Logged(method, context, self._lines, self._proxies)

    def sending(self, message: bytes) -> bytes:
        """Count it."""
        current_rpc().sent_bytes += len(message)
        return message


class _Logged(AbstractAsyncContextManager[None]):
    """Around one RPC."""

    def __init__(self, method: str, context: Context, lines: AccessLines, proxies: TrustedProxies) -> None:
        self._method = method
        self._context = context
        self._lines = lines
        self._proxies = proxies

    async def __aenter__(self) -> None:
        self._began = time.perf_counter()
        metadata = self._context.invocation_metadata() or ()
        request_id = checked_request_id([str(value) for key, value in metadata if key == "x-request-id"])
        client = client_of_rpc(self._context, self._proxies)  # an RPC that is over has no peer any more
        self._rpc = Rpc(request_id, client)
        begin_rpc(self._rpc)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self._context.send_initial_metadata((("x-request-id", request_id),))
        except BaseException as error:
            self._write(code_of(error, self._context))
            raise

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._write("OK" if error is None else code_of(error, self._context))

    def _write(self, code: str) -> None:
        self._lines.write(
            "rpc",
            "debug" if self._method in PROBE_METHODS else "info",
            {
                "method": self._method,
                "code": code,
                "duration_ms": round((time.perf_counter() - self._began) * 1000, 2),
                "client": self._rpc.client,
                "request_id": self._rpc.request_id,
                "bytes": self._rpc.sent_bytes,
            },
        )


class GrpcRateLimitInterceptor(AroundRpcs):
    """Refuses RPCs over the rate, of any kind, from the same buckets as REST. Health checks are exempt."""

    exempt = PROBE_METHODS

    def __init__(self, buckets: BucketStore, proxies: TrustedProxies) -> None:
        super().__init__()
        self._buckets = buckets
        self._proxies = proxies

    def enclose(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        return _Limited(method, context, self._buckets, self._proxies)


class _Limited(AbstractAsyncContextManager[None]):
    """Around one RPC."""

    def __init__(self, method: str, context: Context, buckets: BucketStore, proxies: TrustedProxies) -> None:
        self._method = method
        self._context = context
        self._buckets = buckets
        self._proxies = proxies

    async def __aenter__(self) -> None:
        client = current_rpc().client or client_of_rpc(self._context, self._proxies)
        decision = await self._buckets.take(bucket_key(client))
        if not decision.allowed:
            await abort(self._context, status_of(RateLimited(decision.retry_after), self._method))

    async def __aexit__(self, *_: object) -> None: ...


def around(
    handler: Any,
    enter: Callable[[Context], AbstractAsyncContextManager[None]],
    sending: Callable[[bytes], bytes],
) -> Any:
    """A handler of the same kind whose whole RPC runs inside the context manager that `enter` makes.

    Args:
        sending: Is given each message to the client, as bytes, and returns what to send.
    """
    kinds = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }
    name, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
    behaviour = getattr(handler, name)
    parse = handler.request_deserializer

    def serialize(message: Any) -> bytes:
        return sending(handler.response_serializer(message) if handler.response_serializer else message)

    # Parsed in here: grpc would tell the client of a parser's exception in its own words, and nobody else of it.
    async def parsed(request: Any, context: Context) -> Any:
        try:
            return parse(request)
        except Exception:
            await abort(context, status_of(DecodeError(), ""))

    async def each_parsed(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for request in requests:
            yield await parsed(request, context)

    async def read(request: Any, context: Context) -> Any:
        if parse is None:
            return request
        return each_parsed(request, context) if handler.request_streaming else await parsed(request, context)

    async def answer(request: Any, context: Context) -> bytes:
        async with enter(context):
            return serialize(await behaviour(await read(request, context), context))

    async def write(request: Any, context: Context) -> None:
        async with enter(context):
            await behaviour(await read(request, context), context)

    async def generate(request: Any, context: Context) -> AsyncIterator[Any]:
        async with enter(context):
            async for message in behaviour(await read(request, context), context):
                yield message

    if not handler.response_streaming:
        return make(answer)
    return make(
        generate if inspect.isasyncgenfunction(behaviour) else write,
        response_serializer=serialize,
    )


def client_of_rpc(context: Context, proxies: TrustedProxies) -> str:
    """The address of an RPC's client; `x-forwarded-for` in the metadata counts as the header does over REST."""
    metadata = (context.invocation_metadata() or ()) if proxies else ()
    forwarded = [str(value) for key, value in metadata if key == "x-forwarded-for"]
    return proxies.client(peer_address(context.peer()), forwarded)


@lru_cache(maxsize=1024)
def peer_address(peer: str) -> str:
    """The address in a peer name of gRPC: `ipv4:192.0.2.1:1234` or `ipv6:%5B2001:db8::1%5D:1234`."""
    return unquote(peer.partition(":")[2])


def code_of(error: BaseException, context: Context) -> str:
    """The name of the status that an RPC ends with whose handler raised this."""
    if isinstance(error, asyncio.CancelledError):
        remaining = context.time_remaining()
        return "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"
    return _code_name(context.code())


def _code_name(code: Any) -> str:
    """The name of a status code, which grpc.aio gives as an enum's member or as its number; none yet is INTERNAL."""
    for known in grpc.StatusCode:
        if code in (known, known.value[0]) and known is not grpc.StatusCode.OK:
            return known.name
    return "INTERNAL"
