"""The REST adapter: a FastAPI app built from the operation rows.

FastAPI documents the endpoints and answers requests for unknown paths. The endpoints themselves are plain ASGI apps.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from src import __version__
from src.config import Settings
from src.middleware.responses import send_status
from src.operations import OPERATIONS, Operation
from src.rest.endpoints import HealthEndpoint, OperationEndpoint
from src.rest.openapi import add_failure_schemas, documented_responses
from src.runner import Runner
from src.schemas import HealthResponse
from src.util.probe_paths import LIVENESS_PATHS, READINESS_PATHS

# The service's own span covers the whole chain. FastAPI's would be a second one, and records input.
NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
# Exceptions that already have a handler: FastAPI's own and those of `build_rest`. The endpoints answer them themselves.
HANDLED = {HTTPException, RequestValidationError, WebSocketRequestValidationError, Exception}
Endpoints: TypeAlias = dict[tuple[str, str], ASGIApp]


def build_endpoints(runner: Runner, is_ready: Callable[[], bool], *, tells_cache: bool) -> Endpoints:
    """Return the endpoints of operations and health probes, by method and path.

    Args:
        is_ready: Returns True if the process can serve now, for /ready.
        tells_cache: True if responses have `Cache-Status`.
    """
    endpoints: Endpoints = {
        ("POST", operation.path): OperationEndpoint(operation, runner, tells_cache=tells_cache)
        for operation in OPERATIONS
    }
    for paths, is_healthy in ((LIVENESS_PATHS, lambda: True), (READINESS_PATHS, is_ready)):
        endpoint = HealthEndpoint(is_healthy)
        endpoints |= {(method, path): endpoint for path in paths for method in ("GET", "HEAD")}
    return endpoints


def build_rest(
    settings: Settings,
    endpoints: Endpoints,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]],
) -> FastAPI:
    """Return the REST app with these endpoints, and with API docs in debug only.

    Added middleware runs for every request. FastAPI's dependencies don't run for the operations.
    """
    app = FastAPI(
        title="Hardened Genkit service",
        version=__version__,
        lifespan=lifespan,
        docs_url="/docs" if settings.debug else None,
        redoc_url="/redoc" if settings.debug else None,
        openapi_url="/openapi.json" if settings.debug else None,
        redirect_slashes=False,  # it would redirect to the host of the Host header
        telemetry=NO_TELEMETRY,
    )
    for operation in OPERATIONS:
        _add_operation(app, operation, endpoints["POST", operation.path])
    _add_health(app, endpoints)
    add_failure_schemas(app)

    async def on_status(request: Request, error: Exception) -> Response:
        status = error if isinstance(error, HTTPException) else HTTPException(HTTPStatus.INTERNAL_SERVER_ERROR)
        return _Sent(lambda send: send_status(request.scope, send, status.status_code, status.headers))

    async def leave_to_the_chain(_request: Request, error: Exception) -> Response:
        raise error

    app.add_exception_handler(HTTPException, on_status)
    # Starlette would answer a bug itself, in plain text and outside the app's middleware.
    app.add_exception_handler(Exception, leave_to_the_chain)
    return app


class _Sent(Response):
    """A response that is sent by a function."""

    def __init__(self, write: Callable[[Send], Awaitable[None]]) -> None:
        self._write = write

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await self._write(send)


class FastPath:
    """Takes known requests directly to their endpoints, past FastAPI.

    A table look-up replaces FastAPI's three middlewares and a pattern match per route. FastAPI handles all other
    requests: API docs and unknown paths. It also handles every request if the app has more than endpoints: added
    middleware, exception handlers, or a mount path.
    """

    def __init__(self, app: FastAPI, endpoints: Endpoints) -> None:
        self.app = app
        self._all_endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope.get("root_path"):
            await self.app(scope, receive, send)
            return
        await self._endpoints.get((scope["method"], scope["path"]), self.app)(scope, receive, send)

    @cached_property
    def _endpoints(self) -> Endpoints:
        """Return the endpoints to use. Decided by the first request, like FastAPI's middleware stack."""
        is_extended = self.app.user_middleware or not self.app.exception_handlers.keys() <= HANDLED
        return {} if is_extended else self._all_endpoints


def _add_health(app: FastAPI, endpoints: Endpoints) -> None:
    async def health() -> None:
        """The process runs."""

    async def ready() -> None:
        """The process can serve."""

    for paths, documented in ((LIVENESS_PATHS, health), (READINESS_PATHS, ready)):
        for path in paths:
            _add_endpoint(
                app,
                path,
                endpoints["GET", path],
                documented,
                methods=["GET"],
                undocumented=["HEAD"],
                response_model=HealthResponse,
                tags=["health"],
            )


def _add_operation(app: FastAPI, operation: Operation, endpoint: ASGIApp) -> None:
    async def documented(body: BaseModel) -> None: ...

    documented.__annotations__["body"] = operation.input
    _add_endpoint(
        app,
        operation.path,
        endpoint,
        documented,
        methods=["POST"],
        status_code=HTTPStatus.OK,
        name=operation.name,
        operation_id=operation.name,
        description=operation.flow.__doc__,
        response_model=None if operation.streamed else operation.output,
        response_class=Response if operation.streamed else JSONResponse,
        responses=documented_responses(operation),
        tags=["flows"],
    )


def _add_endpoint(
    app: FastAPI,
    path: str,
    endpoint: ASGIApp,
    documented: Callable[..., Awaitable[None]],
    *,
    methods: list[str],
    undocumented: Sequence[str] = (),
    **documentation: Any,
) -> None:
    """Route to the endpoint. Its documentation, which takes time to prepare, is built only if API docs are on.

    Args:
        undocumented: Further methods.
    """
    plain = [*methods, *undocumented]
    if app.openapi_url:
        route = APIRoute(path, documented, methods=methods, **documentation)
        route.app = endpoint
        app.router.routes.append(route)
        plain = [*undocumented]
    if plain:
        app.router.routes.append(_NamedRoute(path, endpoint, methods=plain))


class _NamedRoute(Route):
    """Stores the route in the scope, as FastAPI's routes do: reporters name transactions by it."""

    def __init__(self, path: str, endpoint: ASGIApp, *, methods: list[str]) -> None:
        super().__init__(path, endpoint, methods=methods)
        self.methods = set(methods)  # Starlette adds HEAD

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, {**found, "route": self}
