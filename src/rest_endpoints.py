"""The REST endpoints, as ASGI apps: from the bytes of a request to those of its answer.

Pydantic parses and writes them directly, which is faster than through FastAPI and refuses bad JSON of any kind in the
one way that clients know.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from src.errors import InvalidInput, ServiceError, as_service_error, public_validation_errors
from src.observability.failures import log_failure
from src.operations import Operation
from src.runner import Runner
from src.schemas import HealthResponse
from src.util.disconnect import ClientGone, while_connected
from src.util.request_id import request_id_of
from src.util.scope import first_header

JSON = b"application/json"
PROBLEM = b"application/problem+json"
CLIENT_GONE = 499  # what nginx logs for it; nobody receives it

log = structlog.get_logger(__name__)


class HealthEndpoint:
    """`{"status": "ok"}` as long as `is_well`, else 503."""

    def __init__(self, is_well: Callable[[], bool]) -> None:
        self._is_well = is_well
        self._ok = HealthResponse().model_dump_json().encode()

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if self._is_well():
            await answer(send, HTTPStatus.OK, JSON, self._ok)
        else:
            await answer_status(scope, send, HTTPStatus.SERVICE_UNAVAILABLE)


class OperationEndpoint:
    """One operation: its input from the body (an empty one is `{}`), its output as JSON or as server-sent events."""

    def __init__(self, operation: Operation, runner: Runner) -> None:
        self._operation = operation
        self._runner = runner
        self._events = EventStream(operation, runner) if operation.streamed else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive)
            if body and not is_json(first_header(scope["headers"], b"content-type")):
                await answer_status(scope, send, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
                return
            input = self._operation.input.model_validate_json(body or b"{}")
            if self._events is not None:
                self._runner.check_accepting()
                await self._events.send(input, scope, receive, send)
            else:
                await answer(send, HTTPStatus.OK, JSON, await self._output(input, receive))
        except ClientGone:
            await answer(send, CLIENT_GONE, JSON, b"")
        except ValidationError as error:
            await answer_invalid(send, public_validation_errors(error.errors(include_url=False)))
        except ServiceError as failure:
            await answer_failure(scope, send, failure, self._operation.name)

    async def _output(self, input: BaseModel, receive: Receive) -> bytes:
        result = self._runner.kept(self._operation, input)
        if result is None:
            result = await while_connected(receive, self._runner.run(self._operation, input))
        return result.encoded(_to_json)


def _to_json(output: BaseModel) -> bytes:
    return output.__pydantic_serializer__.to_json(output, by_alias=True)


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request. Raises ClientGone if its client leaves first."""
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def is_json(content_type: bytes) -> bool:
    """Anything else could come from a form on another site, which a browser sends without asking."""
    if content_type == JSON:
        return True
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type == JSON or (media_type.startswith(b"application/") and media_type.endswith(b"+json"))


class EventStream:
    """A streamed flow as server-sent events (WHATWG HTML, 9.2): `{"chunk"}` each, at the end `{"done": true, ...}`.

    The headers leave at once. A failure becomes an `error` event with the problem as its data; a client that
    leaves ends the flow and its LLM call.
    """

    def __init__(self, operation: Operation, runner: Runner) -> None:
        self._operation = operation
        self._runner = runner

    async def send(self, input: BaseModel, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the events of one run."""
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": int(HTTPStatus.OK), "headers": headers})
        try:
            await while_connected(receive, self._send_events(input, scope, send))
        except ClientGone:
            log.info("client left the stream", operation=self._operation.name)

    async def _send_events(self, input: BaseModel, scope: Scope, send: Send) -> None:
        async with aclosing(self._events(input, scope)) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self, input: BaseModel, scope: Scope) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._runner.stream(self._operation, input)) as items:
                async for item in items:
                    yield _event(self._data(item))
        except ServiceError as failure:
            log_failure(failure, self._operation.name)
            yield b"event: error\n" + _event(failure.problem(request_id_of(scope)))

    def _data(self, item: str | BaseModel) -> dict[str, Any]:
        if isinstance(item, str):
            return {"chunk": item}
        field = self._operation.text_field or ""
        return {"done": True, field: getattr(item, field)}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


async def answer(
    send: Send, status: int, content_type: bytes, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    """Send a whole answer."""
    fields = [(b"content-length", b"%d" % len(body)), (b"content-type", content_type)]
    if headers:
        fields += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def answer_invalid(send: Send, errors: list[dict[str, Any]]) -> None:
    """FastAPI's own shape of a 422, each location led by `body`, without an echo of the input."""
    details = [{**e, "loc": ["body", *e["loc"]]} for e in errors]
    await answer(send, HTTPStatus.UNPROCESSABLE_ENTITY, JSON, orjson.dumps({"detail": details}))


async def answer_failure(scope: Scope, send: Send, error: Exception, operation: str) -> None:
    """Answer with what the table of errors has for it: problem details (RFC 9457), for invalid input FastAPI's 422."""
    failure = as_service_error(error)
    log_failure(failure, operation)
    if isinstance(failure, InvalidInput):
        body = orjson.dumps({"detail": failure.as_validation_errors()})
        await answer(send, HTTPStatus.UNPROCESSABLE_ENTITY, JSON, body)
    else:
        body = orjson.dumps(failure.problem(request_id_of(scope)))
        await answer(send, failure.http_status, PROBLEM, body, failure.headers())


async def answer_status(scope: Scope, send: Send, status: int, headers: Mapping[str, str] | None = None) -> None:
    """Answer with nothing but a status, as problem details."""
    phrase = HTTPStatus(status).phrase
    problem = {"type": "about:blank", "title": phrase, "status": int(status), "detail": phrase}
    body = orjson.dumps({**problem, "request_id": request_id_of(scope)})
    await answer(send, status, PROBLEM, body, headers)
