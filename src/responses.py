"""HTTP responses as ASGI messages, and the guard that ends one when something fails on the way."""

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import orjson
from starlette.types import Message, Scope, Send

from src.errors import InvalidInput, ServiceError
from src.observability.failures import log_failure
from src.util.request_id import request_id_of
from src.util.scope import first_header, forget_marks, route_path

JSON = b"application/json"
PROBLEM = b"application/problem+json"
SECONDS_TO_SEND = 0.5  # servers use force a second after the grace
_GUARD = "response_guard"


class ResponseGuard:
    """Tracks one response, so that a failure gets the answer that still fits: a problem, an error event, or nothing.

    It holds the response's start until the first body message, so that a failure between them can replace it. The
    start of an event stream leaves at once. A replaced start passes the layers between the guard and its sender twice.

    Args:
        send: Where the messages go.
        operations: The flow's name by path, for the log.

    Attributes:
        has_started: The start has left.
    """

    __slots__ = ("_ended", "_has_failed", "_held", "_is_event_stream", "_operations", "_send", "has_started")

    def __init__(self, send: Send, operations: Mapping[str, str] | None = None) -> None:
        self._send = send
        self._operations = operations
        self._held: Message | None = None
        self.has_started = self._ended = self._has_failed = self._is_event_stream = False

    async def send(self, message: Message) -> None:
        """Pass a message on."""
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
        """Log the failure, and end the response with it. What fails after that is a consequence, and passed over.

        An event stream that has started ends with an `error` event. Any other body is left incomplete, so that its
        reader can't take it for whole.

        Args:
            send: That of the caller: the failure passes the layers outside of it.
        """
        if self._has_failed and self.has_started:
            return
        self._has_failed = True
        log_failure(failure, (self._operations or {}).get(route_path(scope), ""))
        if not self.has_started:
            self._held = None
            forget_marks(scope)  # the failure has not passed the layers that the held response has
            await in_time(send_failure(scope, send, failure))
        elif self._is_event_stream and not self._ended:
            event = b"event: error\ndata: " + orjson.dumps(failure.problem(request_id_of(scope))) + b"\n\n"
            await in_time(send({"type": "http.response.body", "body": event}))


def guard(scope: Scope, send: Send, operations: Mapping[str, str] | None = None) -> ResponseGuard:
    """Make the guard of a request's response. `release` it at the end: it refers to the scope that refers to it."""
    made = scope.setdefault("state", {})[_GUARD] = ResponseGuard(send, operations)
    return made


def release(scope: Scope) -> None:
    """Break the cycle of scope and guard, which would wait for the garbage collector."""
    del scope["state"][_GUARD]


def guarded(scope: Scope, send: Send) -> tuple[ResponseGuard, Send]:
    """Find the guard of the response, or make it: the outermost layer that asks does.

    Returns:
        The guard, and what the app is to send through.
    """
    found: ResponseGuard | None = scope.setdefault("state", {}).get(_GUARD)
    if found is not None:
        return found, send
    made = guard(scope, send)
    return made, made.send


async def in_time(sending: Awaitable[None]) -> None:
    """Wait half a second for what is sent outside of the request's time limit, or at its end.

    A client that does not read must not hold its request any longer.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS_TO_SEND):
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
    """Send problem details (RFC 9457); the response's status is the problem's."""
    await send_response(send, problem["status"], PROBLEM, orjson.dumps(problem), headers)


async def send_status(scope: Scope, send: Send, status: int, headers: Mapping[str, str] | None = None) -> None:
    """Send a status that needs no further explanation, as problem details."""
    await send_problem(send, status_problem(status, request_id_of(scope)), headers)


def status_problem(status: int, request_id: str) -> dict[str, Any]:
    """Make the problem details of a status that needs no further explanation."""
    phrase = HTTPStatus(status).phrase
    return {
        "type": "about:blank",
        "title": phrase,
        "status": int(status),
        "detail": phrase,
        "request_id": request_id,
    }


async def send_invalid(send: Send, errors: list[dict[str, Any]]) -> None:
    """Send a 422 in FastAPI's shape."""
    await send_response(send, HTTPStatus.UNPROCESSABLE_ENTITY, JSON, orjson.dumps({"detail": errors}))


async def send_failure(scope: Scope, send: Send, failure: ServiceError) -> None:
    """Send what the table of errors has for the failure."""
    if isinstance(failure, InvalidInput):
        await send_invalid(send, failure.as_validation_errors())
    else:
        await send_problem(send, failure.problem(request_id_of(scope)), failure.headers())
