"""One interceptor around every RPC, and its hooks, among them the access log and the rate limit."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote

import grpc
import structlog
from google.rpc import status_pb2

from src.errors import RateLimited, ServiceError, ShuttingDown, TimedOut, as_service_error
from src.logs.access import CallListener, EndedCall, report_call
from src.logs.failures import log_failure
from src.rate_limit import RateLimit
from src.rpc.errors import Context, RpcRefused, abort, to_grpc_status
from src.rpc.hooks import (
    PROBE_METHODS,
    PROBE_SECONDS,
    UNKNOWN_OPERATION,
    Metadata,
    Rpc,
    RpcHook,
    begin_rpc,
    current_rpc,
)
from src.rpc.requests import Reader, RequestReaders
from src.util.client_address import TrustedProxies
from src.util.deadlines import Deadline, Deadlines
from src.util.request_id import new_request_id, validated_request_id

QUIET_CODES = frozenset({"OK", "CANCELLED"})  # of probes that ended normally

ABORT_SECONDS = 1.0  # to send the status of a failure, which waits behind messages that the client does not read

Work: TypeAlias = Callable[[Context, Rpc, Deadline], Awaitable[bytes | None]]


class RpcInterceptor(grpc.aio.ServerInterceptor):
    """Runs every RPC between its hooks, within a time limit, and determines its status once.

    grpc.aio sends clients the text of any exception, so none may pass this interceptor. A failure before the first
    message sends no initial metadata, because the client's retry policy could not retry then (gRFC A6).

    Args:
        hooks: Outermost first.
        timeout: Seconds for a whole RPC. If the client's own deadline is sooner, it cancels the handler.
        operations: Names of operations by the full names of their RPCs.
    """

    def __init__(
        self, hooks: Sequence[RpcHook], *, timeout: float, proxies: TrustedProxies, operations: Mapping[str, str]
    ) -> None:
        self._hooks = tuple(hooks)
        self._deadlines = Deadlines(timeout)
        self._probe_deadlines = Deadlines(min(timeout, PROBE_SECONDS))
        self._proxies = proxies
        self._operations = operations
        self._readers = RequestReaders()
        # Registered methods only: clients can invent any number of names.
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._refuse: grpc.RpcMethodHandler[Any, Any] = grpc.stream_unary_rpc_method_handler(
            self._enclosed(_refuse_unknown, self._hooks, self._deadlines)
        )

    def stop(self) -> None:
        """End the RPCs whose request message has not arrived; they are not in flight yet."""
        self._readers.stop()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        try:
            return await self._find(continuation, handler_call_details)
        except Exception as error:
            return _failing(error)

    async def _find(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata or ()
        request_id = validated_request_id(metadata_values(metadata, "x-request-id"))
        rpc = Rpc(method, self._operations.get(method, method), metadata, request_id)
        rpc.trailers.append(("x-request-id", request_id))
        begin_rpc(rpc)
        handler = self._handlers.get(method)
        if handler is None:
            registered = await continuation(handler_call_details)
            if registered is None:
                rpc.operation = UNKNOWN_OPERATION
                return self._refuse
            handler = self._handlers[method] = self._wrap(registered, method)
        return handler

    def _wrap(self, handler: Any, method: str) -> "grpc.RpcMethodHandler[Any, Any]":
        is_probe = method in PROBE_METHODS
        hooks = [hook for hook in self._hooks if not (is_probe and hook.skips_probes)]
        deadlines = self._probe_deadlines if is_probe else self._deadlines
        read = self._readers.reader(handler, method)
        # All become handlers of request streams: grpc calls these when the RPC begins, and the others only when
        # the message has arrived, which may be never.
        if handler.response_streaming:
            work = _streaming(handler, read)
            return grpc.stream_stream_rpc_method_handler(self._enclosed(work, hooks, deadlines))
        return grpc.stream_unary_rpc_method_handler(self._enclosed(_unary(handler, read), hooks, deadlines))

    def _enclosed(
        self, work: Work, hooks: Sequence[RpcHook], deadlines: Deadlines
    ) -> Callable[[Any, Context], Awaitable[bytes | None]]:
        """Wrap `work` in the hooks, in the form that grpc calls."""

        async def run(_requests: Any, context: Context) -> bytes | None:
            rpc = current_rpc()
            started: list[tuple[RpcHook, Any]] = []
            deadline = rpc.deadline = deadlines.begin()
            try:
                with deadline:
                    rpc.client = self._client(context, rpc)
                    for hook in hooks:
                        started.append((hook, await hook.on_start(rpc)))
                    message = await work(context, rpc, deadline)
                context.set_trailing_metadata(tuple(rpc.trailers))
            except asyncio.CancelledError:
                rpc.code = "DEADLINE_EXCEEDED" if context.time_remaining() == 0 else "CANCELLED"
                raise
            except grpc.aio.AbortError:
                rpc.code = _code_name(context.code())
                raise
            except grpc.aio.InternalError:  # from grpc's core: the client disconnected while a message was sent
                rpc.code = "CANCELLED"
                raise asyncio.CancelledError from None
            except Exception as error:
                is_late = deadline.expired and isinstance(error, TimeoutError)
                failure = self._timed_out(deadline) if is_late else error
                status = to_grpc_status(failure, rpc.operation, rpc.request_id)
                rpc.code = _code_name(status.code)
            else:
                return message
            finally:
                _end(started, rpc)
            # After the hooks: a slow client may delay it, and the server's stop does not wait for this task.
            await _send_status(context, status, rpc.trailers)

        return run

    def _timed_out(self, deadline: Deadline) -> ServiceError:
        is_early = asyncio.get_running_loop().time() < deadline.due
        return ShuttingDown() if is_early and self._readers.is_stopping else TimedOut()

    def _client(self, context: Context, rpc: Rpc) -> str:
        """Return the client's address. `x-forwarded-for` in the metadata counts like the header over REST."""
        forwarded = metadata_values(rpc.metadata, "x-forwarded-for") if self._proxies else ()
        return self._proxies.client(peer_address(context.peer()), forwarded)


def _end(started: Sequence[tuple[RpcHook, Any]], rpc: Rpc) -> None:
    for hook, token in reversed(started):
        try:
            hook.on_end(token, rpc)
        except Exception as error:  # the RPC has ended, and the other hooks must still run
            log_failure(as_service_error(error), rpc.operation)


async def _send_status(context: Context, status: status_pb2.Status, trailers: Metadata) -> NoReturn:
    try:
        async with asyncio.timeout(ABORT_SECONDS):
            await abort(context, status, trailers)
    except (TimeoutError, grpc.aio.InternalError):
        # The client has disconnected, or does not read the messages before the status.
        raise asyncio.CancelledError from None


def _unary(handler: Any, read: Reader) -> Work:
    behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
    serialize = handler.response_serializer or bytes

    async def work(context: Context, rpc: Rpc, deadline: Deadline) -> bytes:
        message: bytes = serialize(await behaviour(await read(context, rpc, deadline), context))
        rpc.sent_bytes = len(message)
        return message

    return work


def _streaming(handler: Any, read: Reader) -> Work:
    behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
    if not inspect.isasyncgenfunction(behaviour):
        raise TypeError(f"{behaviour.__qualname__}: handlers of streams have to be asynchronous generators")
    serialize = handler.response_serializer or bytes

    async def work(context: Context, rpc: Rpc, deadline: Deadline) -> None:
        has_begun = False
        async with aclosing(behaviour(await read(context, rpc, deadline), context)) as messages:
            async for message in messages:
                sent = serialize(message)
                if not has_begun:
                    has_begun = True
                    await context.send_initial_metadata((("x-request-id", rpc.request_id),))
                await context.write(sent)
                rpc.sent_bytes += len(sent)

    return work


def _failing(error: Exception) -> "grpc.RpcMethodHandler[Any, Any]":
    """Return a handler for an RPC whose own handler can't be found because of a bug."""

    async def fail(_requests: Any, context: Context) -> NoReturn:
        await abort(context, to_grpc_status(error, UNKNOWN_OPERATION, new_request_id()), ())

    return grpc.stream_unary_rpc_method_handler(fail)


async def _refuse_unknown(_context: Context, _rpc: Rpc, _deadline: Deadline) -> NoReturn:
    raise RpcRefused("UNIMPLEMENTED", "Method not found!")


class GrpcLoggingInterceptor(RpcHook):
    """Reports each RPC when it has ended. Binds its request id to the log lines until then.

    Args:
        listeners: Get the record of the ended RPC, the access log among them.
    """

    def __init__(self, listeners: Sequence[CallListener]) -> None:
        self._listeners = listeners

    async def on_start(self, rpc: Rpc) -> None:
        structlog.contextvars.bind_contextvars(request_id=rpc.request_id)

    def on_end(self, _token: None, rpc: Rpc) -> None:
        name, is_quiet = rpc.method, rpc.method in PROBE_METHODS and rpc.code in QUIET_CODES
        call = EndedCall(
            "grpc", name, "", name, rpc.code, rpc.seconds, rpc.sent_bytes, rpc.client, rpc.request_id, is_quiet
        )
        report_call(call, self._listeners)


class GrpcRateLimitInterceptor(RpcHook):
    """Refuses RPCs over the rate, from the same buckets as REST. Health checks are exempt."""

    skips_probes = True

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit

    async def on_start(self, rpc: Rpc) -> None:
        """Take a token. Raises RateLimited if there is none."""
        decision = await self._limit.admit(rpc.client)
        if not decision.allowed:
            raise RateLimited(decision.retry_after)


def metadata_values(metadata: Metadata, key: str) -> list[str]:
    return [str(value) for name, value in metadata if name == key]


@lru_cache(maxsize=1024)
def peer_address(peer: str) -> str:
    """Return the address of a gRPC peer name: `ipv4:192.0.2.1:1234` or `ipv6:%5B2001:db8::1%5D:1234`."""
    return unquote(peer.partition(":")[2])


def _code_name(code: Any) -> str:
    """Return the name of a status code, which grpc.aio gives as an enum member or a number. No code yet is INTERNAL."""
    for known in grpc.StatusCode:
        if code in (known, known.value[0]) and known is not grpc.StatusCode.OK:
            return known.name
    return "INTERNAL"
