"""The REST endpoints, as ASGI apps: from the request body to the response.

Pydantic parses and serializes directly, which is faster than FastAPI, and all invalid JSON gets the same kind of
response.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import orjson
import structlog
from pydantic import BaseModel, ValidationError
from starlette.types import Message, Receive, Scope, Send

from src.errors import ServiceError, public_validation_errors
from src.middleware.responses import JSON, guarded, send_invalid, send_response, send_status
from src.operations import Operation
from src.rest.disconnect import ClientGone, while_connected
from src.runner import EncodedOutput, KeepAlive, Runner
from src.schemas import HealthResponse
from src.util.scope import CLIENT_LEFT, first_header
from src.util.surrogates import replace_lone_escapes

KEEP_ALIVE_SECONDS = 15.0  # proxies close connections that are silent for a minute
KEEP_ALIVE: Message = {"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True}
TRUNCATED = {"x-truncated": "1"}

log = structlog.get_logger(__name__)

InputT = TypeVar("InputT", bound=BaseModel)


class HealthEndpoint:
    """Answers GET and HEAD with `{"status": "ok"}` while `is_healthy` returns True, otherwise with 503."""

    def __init__(self, is_healthy: Callable[[], bool]) -> None:
        self._is_healthy = is_healthy
        self._ok = HealthResponse().model_dump_json().encode()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            send = without_body(send)
        if self._is_healthy():
            await send_response(send, HTTPStatus.OK, JSON, self._ok)
        else:
            await send_status(scope, send, HTTPStatus.SERVICE_UNAVAILABLE)


class OperationEndpoint:
    """One operation: its input is the JSON body (none is `{}`), its output JSON or server-sent events.

    Args:
        tells_cache: Send `Cache-Status` (RFC 9211), which shows callers whether others have sent the same request.
    """

    def __init__(self, operation: Operation, runner: Runner, *, tells_cache: bool = False) -> None:
        self._tells_cache = tells_cache
        self._operation = operation
        self._runner = runner
        self._events = EventStream(operation, runner) if operation.streamed else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response, send = guarded(scope, send)
        try:
            if not is_json(first_header(scope["headers"], b"content-type")):
                await send_status(scope, send, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
                return
            with self._runner.receiving():
                body = await read_body(receive)
            input = parse_input(self._operation.input, body or b"{}")
            if self._events is not None:
                await self._events.send(input, receive, send)
            else:
                await self._send_output(input, receive, send)
        except BrokenOff:
            await send_status(scope, send, HTTPStatus.BAD_REQUEST)
        except ClientGone:
            scope["state"][CLIENT_LEFT] = True
        except ValidationError as error:
            errors = public_validation_errors(error.errors(include_url=False))
            await send_invalid(send, [{**e, "loc": ["body", *e["loc"]]} for e in errors])
        except ServiceError as failure:
            await response.fail(scope, send, failure)

    async def _send_output(self, input: BaseModel, receive: Receive, send: Send) -> None:
        result, use = await self._runner.run(self._operation, input, partial(while_connected, receive))
        headers = {"cache-status": f"flow-cache; {use}"} if self._tells_cache and use else {}
        if result.marks.truncated:
            headers |= TRUNCATED
        await send_response(send, HTTPStatus.OK, JSON, result.encoded(_to_json), headers)


def without_body(send: Send) -> Send:
    """Wrap `send` to leave out bodies, for responses to HEAD (RFC 9110, 9.3.2)."""

    def head(message: Message) -> Awaitable[None]:
        return send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return head


def _to_json(output: BaseModel) -> bytes:
    return output.__pydantic_serializer__.to_json(output, by_alias=True)


class BrokenOff(Exception):
    """The client disconnected during its request, or sent a malformed body. granian does not distinguish them."""


async def read_body(receive: Receive) -> bytes:
    """Read the whole body of a request. Raises BrokenOff if it does not end properly."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BrokenOff
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def parse_input(model: type[InputT], body: bytes) -> InputT:
    """Parse the input from a JSON body; lone surrogates in it are replaced. Raises ValidationError."""
    try:
        return model.model_validate_json(body)
    except ValidationError:
        mended = replace_lone_escapes(body)
        if mended == body:
            raise
    return model.model_validate_json(mended)


def is_json(content_type: bytes) -> bool:
    """Return True for a JSON media type. Pages of other sites can send other types, or none, without a preflight."""
    if content_type == JSON:
        return True
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type == JSON or (media_type.startswith(b"application/") and media_type.endswith(b"+json"))


class EventStream:
    """A streamed flow as server-sent events (WHATWG HTML, 9.2): `{"chunk"}` per text, then `{"done": true, ...}`.

    The headers are sent at once, and a comment after each 15 seconds of silence. nginx is asked not to buffer. After a
    failure the response's guard sends an `error` event with the problem as its data. A client that disconnects ends the
    flow and its LLM call.
    """

    def __init__(self, operation: Operation, runner: Runner) -> None:
        self._operation = operation
        self._runner = runner

    async def send(self, input: BaseModel, receive: Receive, send: Send) -> None:
        """Send the events of one run. A ServiceError is raised after the events before the failure."""
        keep_alive = KeepAlive(KEEP_ALIVE_SECONDS, lambda: send({**KEEP_ALIVE}))
        items = self._runner.stream(self._operation, input, keep_alive)  # raises before the response has a status
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": int(HTTPStatus.OK), "headers": headers})
        try:
            async with self._runner.sending():
                await while_connected(receive, self._send_events(items, send))
        except ClientGone:
            log.info("client left the stream", operation=self._operation.name)

    async def _send_events(self, items: AsyncGenerator[str | EncodedOutput, None], send: Send) -> None:
        async with aclosing(items):
            async for item in items:
                event = _event({"chunk": item} if isinstance(item, str) else self._last(item))
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _last(self, result: EncodedOutput) -> dict[str, Any]:
        marks = {"truncated": True} if result.marks.truncated else {}
        return {"done": True, **result.text(self._operation), **marks}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"
