"""HTTP responses as ASGI messages, and the guard that completes a response after a failure."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.errors import InvalidInput, ServiceError, ShuttingDown, as_service_error
from src.logs.failures import log_failure
from src.util.deadlines import Deadlines
from src.util.request_id import request_id_of
from src.util.scope import first_header, forget_marks, route_path

JSON = b"application/json"
PROBLEM = b"application/problem+json"
SECONDS_TO_SEND = 0.5  # servers kill workers a second after the grace period
_GUARD = "response_guard"
_sending = Deadlines(SECONDS_TO_SEND)  # a flood of refusals would make a timer for each


class ResponseGuard:
    """Tracks one response, so that a failure gets the response that still fits: a problem, an error event, or nothing.

    It holds the start of the response until the first body message, so that a failure between them can replace it. The
    start of an event stream is sent at once. A replaced start passes the layers between the guard and its sender twice.

    Args:
        send: Receives the messages.
        operations: The flow's name by path, for the log.

    Attributes:
        has_started: True if the start has been sent.
    """

    __slots__ = ("_ended", "_has_failed", "_held", "_is_event_stream", "_operations", "_send", "has_started")

    def __init__(self, send: Send, operations: Mapping[str, str] | None = None) -> None:
        self._send = send
        self._operations = operations
        self._held: Message | None = None
        self.has_started = self._ended = self._has_failed = self._is_event_stream = False

    async def send(self, message: Message) -> None:
        """Send a message, or hold it if it is the start."""
        if message["type"] == "http.response.start":
            content_type = first_header(message.get("headers", ()), b"content-type")
            self._is_event_stream = content_type.startswith(b"text/event-stream")
            if not self._is_event_stream:
                self._held = message
                return
            self.has_started = True
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
            if self._held is not None:
                start, self._held = self._held, None
                self.has_started = True
                await self._send(start)
        await self._send(message)

    async def fail(self, scope: Scope, send: Send, failure: ServiceError) -> None:
        """Log the failure and end the response with it. Later failures are consequences and ignored.

        A started event stream ends with an `error` event. Any other started body stays incomplete, so that the client
        can't take it for complete.

        Args:
            send: The caller's own, because the failure must pass the layers outside the caller.
        """
        if self._has_failed and self.has_started:
            return
        self._has_failed = True
        log_failure(failure, (self._operations or {}).get(route_path(scope), ""))
        if not self.has_started:
            self._held = None
            forget_marks(scope)  # the failure has not passed the layers that the held start has
            await in_time(send_failure(scope, send, failure))
        elif self._is_event_stream and not self._ended:
            event = b"event: error\ndata: " + orjson.dumps(failure.problem(request_id_of(scope))) + b"\n\n"
            await in_time(send({"type": "http.response.body", "body": event}))


def guard(scope: Scope, send: Send, operations: Mapping[str, str] | None = None) -> ResponseGuard:
    """Create the guard of a request's response. `release` it at the end: it and the scope refer to each other."""
    made = scope.setdefault("state", {})[_GUARD] = ResponseGuard(send, operations)
    return made


def release(scope: Scope) -> None:
    """Break the reference cycle of scope and guard, which would otherwise wait for garbage collection."""
    del scope["state"][_GUARD]


def guarded(scope: Scope, send: Send) -> tuple[ResponseGuard, Send]:
    """Return the guard of the response; the outermost layer that asks creates it.

    Returns:
        The guard, and the `send` for the app.
    """
    found: ResponseGuard | None = scope.setdefault("state", {}).get(_GUARD)
    if found is not None:
        return found, send
    made = guard(scope, send)
    return made, made.send


async def in_time(sending: Awaitable[None]) -> None:
    """Wait at most half a second for sending that the request's time limit does not cover.

    A client that does not read must not keep its request open longer.
    """
    with suppress(TimeoutError), _sending.begin():
        await sending


async def send_response(
    send: Send, status: int, content_type: bytes, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """Send a whole response."""
    fields = [(b"content-length", b"%d" % len(body)), (b"content-type", content_type)]
    if headers:
        fields += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def send_problem(send: Send, problem: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
    """Send problem details (RFC 9457) with their status."""
    await send_response(send, problem["status"], PROBLEM, orjson.dumps(problem), headers)


async def send_status(scope: Scope, send: Send, status: int, headers: Mapping[str, str] | None = None) -> None:
    """Send the problem details of a plain HTTP status."""
    await send_problem(send, status_problem(status, request_id_of(scope)), headers)


def status_problem(status: int, request_id: str) -> dict[str, Any]:
    """Return the problem details of a plain HTTP status."""
    phrase = HTTPStatus(status).phrase
    return {
        "type": "about:blank",
        "title": phrase,
        "status": int(status),
        "detail": phrase,
        "request_id": request_id,
    }


async def send_invalid(send: Send, errors: list[dict[str, Any]]) -> None:
    """Send a 422 in FastAPI's format."""
    await send_response(send, HTTPStatus.UNPROCESSABLE_ENTITY, JSON, orjson.dumps({"detail": errors}))


async def send_failure(scope: Scope, send: Send, failure: ServiceError) -> None:
    """Send the response that the table of errors has for the failure."""
    if isinstance(failure, InvalidInput):
        await send_invalid(send, failure.as_validation_errors())
    else:
        await send_problem(send, failure.problem(request_id_of(scope)), failure.headers())


class ExceptionHandlerMiddleware:
    """Turns any exception of the app into the response from the table of errors.

    Args:
        has_cut: Returns True once a stop cancels the requests that outlive the grace period. They get the response of
            a service that shuts down.
    """

    def __init__(self, app: ASGIApp, has_cut: Callable[[], bool]) -> None:
        self.app = app
        self._has_cut = has_cut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        response, send = guarded(scope, send)
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._has_cut():
                raise
            await response.fail(scope, send, ShuttingDown())
        except Exception as error:
            await response.fail(scope, send, as_service_error(error))
