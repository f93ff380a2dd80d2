"""The REST adapter: a FastAPI app made from the operation rows.

FastAPI routes, and documents from the endpoints' types; the bytes of a request and of an answer are parsed and
written by pydantic directly, which is faster and refuses bad JSON of any kind in the one way clients know.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from src.config import Settings
from src.errors import InvalidInput, ServiceError, as_service_error, public_validation_errors
from src.observability.failures import log_failure
from src.operations import OPERATIONS, Operation
from src.runner import Runner
from src.schemas import HealthResponse, Problem, ValidationFailures
from src.util.disconnect import ClientGone, while_connected
from src.util.probes import LIVENESS_PATHS, READINESS_PATHS
from src.util.request_id import request_id_of

log = structlog.get_logger(__name__)

# Ours sees the whole chain; FastAPI's would make a second span, and records what people sent.
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
CLIENT_GONE = 499  # what nginx logs for it; nobody receives it
SCHEMA_REF = "#/components/schemas/{model}"
# What any operation may be answered with instead of its output.
FAILURES = {
    413: "The request is larger than allowed.",
    415: "The body is not declared as JSON.",
    422: "The input is invalid, or the language model refused its content.",
    429: "The client's rate limit is used up.",
    500: "The service failed.",
    502: "The language model failed to give a usable answer.",
    503: "The language model is failing, too many calls are under way, or the service is shutting down.",
    504: "The answer took longer than allowed.",
}


def build_rest(
    settings: Settings,
    runner: Runner,
    is_ready: Callable[[], bool],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> FastAPI:
    """The REST app. API docs exist in debug only.

    Args:
        is_ready: Whether the process can serve now: what /ready tells.
    """
    app = FastAPI(
        title="Genkit sample service",
        version="1.0.0",
        lifespan=lifespan,
        docs_url="/docs" if settings.debug else None,
        redoc_url="/redoc" if settings.debug else None,
        openapi_url="/openapi.json" if settings.debug else None,
        redirect_slashes=False,  # it would lead where the Host header says
        telemetry=NO_TELEMETRY,
    )
    for operation in OPERATIONS:
        _add_operation(app, operation, runner)
    _add_health(app, is_ready)
    _describe_failures(app)

    async def on_error(request: Request, error: Exception) -> Response:
        return error_response(request.scope, error)

    async def leave_to_the_chain(_request: Request, error: Exception) -> Response:
        raise error

    for expected in (ServiceError, HTTPException):
        app.add_exception_handler(expected, on_error)
    # Starlette would answer a bug itself, in plain text and outside its own middleware.
    app.add_exception_handler(Exception, leave_to_the_chain)
    return app


def _add_health(app: FastAPI, is_ready: Callable[[], bool]) -> None:
    ok = HealthResponse().model_dump_json().encode()

    async def health() -> Response:
        """The process runs."""
        return Response(ok, media_type="application/json")

    async def ready() -> Response:
        """The process can serve."""
        if is_ready():
            return Response(ok, media_type="application/json")
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE)

    for paths, endpoint in ((LIVENESS_PATHS, health), (READINESS_PATHS, ready)):
        for path in paths:
            app.add_api_route(path, endpoint, methods=["GET"], response_model=HealthResponse, tags=["health"])


def _add_operation(app: FastAPI, operation: Operation, runner: Runner) -> None:
    async def answer(request: Request, body: BaseModel) -> Response:
        result = await while_connected(request.receive, runner.run(operation, body))
        return Response(result.encoded(_to_json), media_type="application/json")

    async def stream(_request: Request, body: BaseModel) -> Response:
        runner.check_accepting()
        return EventStream(operation, runner, body)

    endpoint = stream if operation.streamed else answer
    endpoint.__annotations__["body"] = operation.input
    app.router.add_api_route(
        operation.path,
        endpoint,
        methods=["POST"],
        status_code=HTTPStatus.OK,
        name=operation.name,
        operation_id=operation.name,
        description=operation.flow.__doc__,
        response_model=None if operation.streamed else operation.output,
        response_class=EventStream if operation.streamed else JSONResponse,
        responses=_documented_answers(operation),
        openapi_extra={"requestBody": {"required": False}},
        route_class_override=_OperationRoute,
        tags=["flows"],
    )


def _to_json(output: BaseModel) -> bytes:
    return output.__pydantic_serializer__.to_json(output, by_alias=True)


def _documented_answers(operation: Operation) -> dict[int | str, dict[str, Any]]:
    """All that may come, as OpenAPI has it."""
    problem = {"application/problem+json": {"schema": {"$ref": SCHEMA_REF.format(model="Problem")}}}
    invalid = {"application/json": {"schema": {"$ref": SCHEMA_REF.format(model="ValidationFailures")}}}
    wait = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
    answers: dict[int | str, dict[str, Any]] = {
        status: {"description": description, "content": problem} for status, description in FAILURES.items()
    }
    answers[400] = {"description": "Not a request for this host.", "content": {"text/plain": {}}}
    answers[422]["content"] = invalid | problem
    for status in (429, 503):
        answers[status]["headers"] = wait
    if operation.streamed:
        events = {"text/event-stream": {"itemSchema": _event_schema(operation.text_field or "")}}
        answers[200] = {"description": "Server-sent events.", "content": events}
    return answers


def _event_schema(field: str) -> dict[str, Any]:
    """One event, as FastAPI and OpenAPI 3.2 describe them."""
    text = {"type": "string"}
    data = [
        {"type": "object", "properties": {"chunk": text}, "required": ["chunk"]},
        {"type": "object", "properties": {"done": {"const": True}, field: text}, "required": ["done", field]},
        {"$ref": SCHEMA_REF.format(model="Problem")},
    ]
    return {
        "type": "object",
        "properties": {
            "event": {"enum": ["message", "error"]},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": data}},
        },
        "required": ["data"],
    }


def _describe_failures(app: FastAPI) -> None:
    """Add to the OpenAPI document what FastAPI can't derive: it takes every model for a plain JSON answer."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        _, shapes = models_json_schema(
            [(Problem, "serialization"), (ValidationFailures, "serialization")], ref_template=SCHEMA_REF
        )
        document["components"]["schemas"].update(shapes["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]


class _OperationRoute(APIRoute):
    """A route whose body pydantic reads from the raw bytes: an empty one is `{}`, a bad one 422."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        model: type[BaseModel] = self.endpoint.__annotations__["body"]

        async def handle(request: Request) -> Response:
            try:
                raw = await request.body()
            except ClientDisconnect:
                return Response(status_code=CLIENT_GONE)
            if raw and not _is_json(request.headers.get("content-type", "")):
                raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
            try:
                body = model.model_validate_json(raw or b"{}")
            except ValidationError as error:
                return _unprocessable(public_validation_errors(error.errors(include_url=False)))
            try:
                answer: Response = await self.endpoint(request, body)
            except ClientGone:
                return Response(status_code=CLIENT_GONE)
            return answer

        return handle


def _is_json(content_type: str) -> bool:
    """Anything else could come from a form on another site, which a browser sends without asking."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


class EventStream(Response):
    """A streamed flow as server-sent events (WHATWG HTML, 9.2): `{"chunk"}` each, at the end `{"done": true, ...}`.

    The headers leave at once. A failure becomes an `error` event with the problem as its data; a client that
    leaves ends the flow and its LLM call.
    """

    def __init__(self, operation: Operation, runner: Runner, body: BaseModel) -> None:
        self._operation = operation
        self._runner = runner
        self._input = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            await while_connected(receive, self._send_events(scope, send))
        except ClientGone:
            log.info("client left the stream", operation=self._operation.name)

    async def _send_events(self, scope: Scope, send: Send) -> None:
        async with aclosing(self._events(scope)) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self, scope: Scope) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._runner.stream(self._operation, self._input)) as items:
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


def _unprocessable(errors: list[dict[str, Any]]) -> Response:
    """FastAPI's own shape of a 422, each location led by `body`, without an echo of the input."""
    details = [{**e, "loc": ["body", *e["loc"]]} for e in errors]
    return Response(orjson.dumps({"detail": details}), 422, media_type="application/json")


def error_response(scope: Scope, error: Exception) -> Response:
    """The answer to a failure that was foreseen: problem details (RFC 9457), or for invalid input FastAPI's 422."""
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        return _problem(
            {
                "type": "about:blank",
                "title": phrase,
                "status": error.status_code,
                "detail": phrase,
                "request_id": request_id_of(scope),
            },
            error.headers,
        )
    failure = as_service_error(error)
    route = scope.get("route")
    log_failure(failure, route.name if isinstance(route, _OperationRoute) else scope["path"])
    if isinstance(failure, InvalidInput):
        return Response(orjson.dumps({"detail": failure.as_validation_errors()}), 422, media_type="application/json")
    return _problem(failure.problem(request_id_of(scope)), failure.headers())


def _problem(body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), body["status"], headers=headers, media_type="application/problem+json")
