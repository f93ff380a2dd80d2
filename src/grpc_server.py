"""The gRPC adapter: a grpc.aio server made from the operation rows."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, TypeAlias
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health
from pydantic import BaseModel, ValidationError

from src.config import Settings
from src.errors import InvalidInput, TimedOut, as_service_error, public_validation_errors
from src.generated import service_pb2
from src.observability.failures import log_failure
from src.operations import OPERATIONS, Operation
from src.runner import Runner
from src.schemas import HealthResponse
from src.util.client_address import TrustedProxies
from src.util.request_id import checked_request_id

SERVICE = service_pb2.DESCRIPTOR.services_by_name["GenkitService"]

PROBE_METHODS = frozenset(
    {f"/{SERVICE.full_name}/Health", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}
)

# What one connection may ask of us, and how soon a dead one is noticed (gRPC A8, A9; times in milliseconds).
LIMITS = (
    ("grpc.max_concurrent_streams", 100),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_metadata_size", 16_384),
)

access_log = structlog.get_logger("access")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


# The id of the RPC that this task handles.
_request_id: ContextVar[str] = ContextVar("request_id", default="")


class GrpcLoggingInterceptor(grpc.aio.ServerInterceptor):
    """One line an RPC when it has ended, however it ended; its id, as over REST, bound to every line and sent back.

    It wraps the handlers: `intercept_service` itself only sees them looked up.
    """

    def __init__(self, proxies: TrustedProxies) -> None:
        self._proxies = proxies

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:  # an unknown method, which grpc refuses itself
            access_log.info("rpc", method=method, code="UNIMPLEMENTED")
            return None
        return self._wrapped(handler, method)

    def _wrapped(self, handler: Any, method: str) -> Any:
        """A handler of the same kind, observed."""
        kinds = {
            (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
            (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
            (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
            (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
        }
        name, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
        behaviour = getattr(handler, name)

        async def call(request: Any, context: Context) -> Any:
            async with self._observed(method, context):
                return await behaviour(request, context)

        async def generate(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._observed(method, context):
                async for message in behaviour(request, context):
                    yield message

        return make(
            generate if inspect.isasyncgenfunction(behaviour) else call,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @asynccontextmanager
    async def _observed(self, method: str, context: Context) -> AsyncIterator[None]:
        began = time.perf_counter()
        metadata = context.invocation_metadata() or ()
        request_id = checked_request_id([str(value) for key, value in metadata if key == "x-request-id"])
        client = self._client(context, metadata)  # an RPC that is over has no peer any more
        _request_id.set(request_id)  # the handler runs in a task of its own, so there is nothing to reset
        structlog.contextvars.bind_contextvars(request_id=request_id)
        code = "OK"
        try:
            await context.send_initial_metadata((("x-request-id", request_id),))
            yield
        except asyncio.CancelledError:
            remaining = context.time_remaining()
            code = "DEADLINE_EXCEEDED" if remaining is not None and remaining <= 0 else "CANCELLED"
            raise
        except BaseException:
            code = _code_name(context.code())
            raise
        finally:
            write = access_log.debug if method in PROBE_METHODS else access_log.info
            write(
                "rpc",
                method=method,
                code=code,
                duration_ms=round((time.perf_counter() - began) * 1000, 2),
                client=client,
                request_id=request_id,
            )

    def _client(self, context: Context, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        forwarded = [str(value) for key, value in metadata if key == "x-forwarded-for"]
        return self._proxies.client(peer_address(context.peer()), forwarded)


def peer_address(peer: str) -> str:
    """The address in a peer name of gRPC: `ipv4:192.0.2.1:1234` or `ipv6:%5B2001:db8::1%5D:1234`."""
    return unquote(peer.partition(":")[2])


def _code_name(code: Any) -> str:
    """The name of a status code, which grpc.aio gives as an enum's member or as its number; none yet is INTERNAL."""
    for known in grpc.StatusCode:
        if code in (known, known.value[0]) and known is not grpc.StatusCode.OK:
            return known.name
    return "INTERNAL"


class GrpcServer:
    """The gRPC side of one process: all operations, `grpc.health.v1`, and reflection in debug only.

    It has to be made inside the process, and the event loop, that serves it.
    """

    def __init__(self, settings: Settings, runner: Runner) -> None:
        self._health = grpc_health.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=(GrpcLoggingInterceptor(TrustedProxies(settings.trusted_proxy_networks)),),
            options=(*LIMITS, ("grpc.max_receive_message_length", settings.max_body_size)),
        )
        self._server.add_generic_rpc_handlers((_service_handlers(runner, settings.request_timeout),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.debug:
            _enable_reflection(self._server)
        self._credentials = _credentials(settings)
        self._address = f"{_bracketed(settings.host)}:{settings.grpc_port}"

    async def start(self) -> None:
        """Listen, and report SERVING. Raises RuntimeError if the port can't be bound."""
        if self._credentials is None:
            self._server.add_insecure_port(self._address)
        else:
            self._server.add_secure_port(self._address, self._credentials)
        await self._server.start()
        for name in ("", SERVICE.full_name):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float) -> None:
        """Report NOT_SERVING, refuse new RPCs, and give those in flight `grace` seconds to finish."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS with the configured certificate, and clients' certificates required where their authority is named."""
    if settings.grpc_tls_cert is None or settings.grpc_tls_key is None:
        return None
    authority = settings.grpc_tls_client_ca.read_bytes() if settings.grpc_tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(settings.grpc_tls_key.read_bytes(), settings.grpc_tls_cert.read_bytes())],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )


def _enable_reflection(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection

    health = health_pb2.DESCRIPTOR.services_by_name["Health"]
    names = (SERVICE.full_name, health.full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _service_handlers(runner: Runner, timeout: float) -> grpc.GenericRpcHandler:
    handlers = {op.rpc: _operation_handler(op, runner, timeout) for op in OPERATIONS}
    handlers["Health"] = grpc.unary_unary_rpc_method_handler(
        _health,
        response_serializer=service_pb2.HealthResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)


async def _health(_request: bytes, _context: Context) -> Message:
    return service_pb2.HealthResponse(status=HealthResponse().status)


def _operation_handler(operation: Operation, runner: Runner, timeout: float) -> "grpc.RpcMethodHandler[Any, Any]":
    method = SERVICE.methods_by_name[operation.rpc]
    request_type = _message_class(method.input_type)
    response_type = _message_class(method.output_type)
    make = grpc.unary_stream_rpc_method_handler if operation.streamed else grpc.unary_unary_rpc_method_handler

    # The messages are parsed in the handlers: grpc would tell the client of a parser's exception in its own words.
    async def unary(request: bytes, context: Context) -> Message:
        async with failures_as_status(operation, context, timeout):
            output = await runner.run(operation, to_input(operation, request_type.FromString(request)))
            return to_message(operation, output, response_type)

    async def stream(request: bytes, context: Context) -> None:
        async with (
            failures_as_status(operation, context, timeout),
            aclosing(runner.stream(operation, to_input(operation, request_type.FromString(request)))) as items,
        ):
            async for item in items:
                if isinstance(item, str):
                    await context.write(response_type(text=item))

    return make(
        stream if operation.streamed else unary,
        response_serializer=response_type.SerializeToString,
    )


def _message_class(descriptor: Descriptor) -> type[Message]:
    found: type[Message] = getattr(service_pb2, descriptor.name)
    return found


def to_input(operation: Operation, request: Message) -> BaseModel:
    """The request as the flow's input; a field that is unset or empty takes the model's default.

    Raises:
        pydantic.ValidationError: a limit is broken.
    """
    return operation.input.model_validate({field.name: value for field, value in request.ListFields()})


def to_message(operation: Operation, output: BaseModel, response_type: type[Message]) -> Message:
    """The flow's output as the RPC's answer."""
    if operation.json_field:
        return response_type(**{operation.json_field: output.model_dump_json(by_alias=True)})
    return response_type(**output.model_dump(exclude_none=True))


@asynccontextmanager
async def failures_as_status(operation: Operation, context: Context, seconds: float) -> AsyncIterator[None]:
    """Ends the RPC with the table's status for whatever its handler raises, and after so many seconds.

    grpc.aio tells the client the text of any exception, so none may get past this. The client's own deadline, where
    it is sooner, cancels the handler.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        await _abort(context, status_of(TimedOut(), operation))
    except Exception as error:
        await _abort(context, status_of(error, operation))


def status_of(error: Exception, operation: Operation) -> status_pb2.Status:
    """The `google.rpc.Status`, details included, that tells a client of `error`. Logs what is not its fault."""
    if isinstance(error, DecodeError):
        return _status("INVALID_ARGUMENT", "Malformed message", [])
    if isinstance(error, ValidationError):
        violations = [
            (".".join(str(part) for part in e["loc"]), e["msg"])
            for e in public_validation_errors(error.errors(include_url=False))
        ]
        return _status("INVALID_ARGUMENT", "Invalid input", violations)
    failure = as_service_error(error)
    log_failure(failure, operation.name)
    if isinstance(failure, InvalidInput):
        return _status(failure.grpc_code, failure.title, [(failure.field, failure.message)])
    return _status(failure.grpc_code, failure.detail, [])


def _status(code: str, message: str, violations: list[tuple[str, str]]) -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.Code.Value(code), message=message)
    status.details.add().Pack(error_details_pb2.RequestInfo(request_id=_request_id.get()))
    if violations:
        bad_request = error_details_pb2.BadRequest()
        for field, description in violations:
            bad_request.field_violations.add(field=field, description=description)
        status.details.add().Pack(bad_request)
    return status


async def _abort(context: Context, status: status_pb2.Status) -> NoReturn:
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    code = grpc.StatusCode[code_pb2.Code.Name(status.code)]
    await context.abort(code, status.message, details)
    raise AssertionError("abort raises")
