"""The gRPC adapter: a grpc.aio server made from the operation rows."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health
from pydantic import BaseModel, ValidationError

from src.config import Settings
from src.errors import InvalidInput, as_service_error, public_validation_errors
from src.generated import service_pb2
from src.observability.failures import log_failure
from src.operations import OPERATIONS, Operation
from src.runner import Runner
from src.schemas import HealthResponse

SERVICE = service_pb2.DESCRIPTOR.services_by_name["GenkitService"]

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class GrpcServer:
    """The gRPC side of one process: all operations, `grpc.health.v1`, and reflection in debug only.

    It has to be made inside the process, and the event loop, that serves it.
    """

    def __init__(self, settings: Settings, runner: Runner) -> None:
        self._health = grpc_health.HealthServicer()
        self._server = grpc.aio.server(options=(("grpc.max_receive_message_length", settings.max_body_size),))
        self._server.add_generic_rpc_handlers((_service_handlers(runner),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.debug:
            _enable_reflection(self._server)
        self._address = f"{_bracketed(settings.host)}:{settings.grpc_port}"

    async def start(self) -> None:
        """Listen, and report SERVING. Raises RuntimeError if the port can't be bound."""
        self._server.add_insecure_port(self._address)
        await self._server.start()
        for name in ("", SERVICE.full_name):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float) -> None:
        """Report NOT_SERVING, refuse new RPCs, and give those in flight `grace` seconds to finish."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)


def _enable_reflection(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection

    health = health_pb2.DESCRIPTOR.services_by_name["Health"]
    names = (SERVICE.full_name, health.full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _service_handlers(runner: Runner) -> grpc.GenericRpcHandler:
    handlers = {op.rpc: _operation_handler(op, runner) for op in OPERATIONS}
    handlers["Health"] = grpc.unary_unary_rpc_method_handler(
        _health,
        request_deserializer=service_pb2.HealthRequest.FromString,
        response_serializer=service_pb2.HealthResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)


async def _health(_request: Message, _context: Context) -> Message:
    return service_pb2.HealthResponse(status=HealthResponse().status)


def _operation_handler(operation: Operation, runner: Runner) -> "grpc.RpcMethodHandler[Any, Any]":
    method = SERVICE.methods_by_name[operation.rpc]
    request_type = _message_class(method.input_type)
    response_type = _message_class(method.output_type)
    make = grpc.unary_stream_rpc_method_handler if operation.streamed else grpc.unary_unary_rpc_method_handler

    async def unary(request: Message, context: Context) -> Message:
        async with failures_as_status(operation, context):
            return to_message(operation, await runner.run(operation, to_input(operation, request)), response_type)

    async def stream(request: Message, context: Context) -> AsyncIterator[Message]:
        async with (
            failures_as_status(operation, context),
            aclosing(runner.stream(operation, to_input(operation, request))) as items,
        ):
            async for item in items:
                if isinstance(item, str):
                    yield response_type(text=item)

    return make(
        stream if operation.streamed else unary,
        request_deserializer=request_type.FromString,
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
async def failures_as_status(operation: Operation, context: Context) -> AsyncIterator[None]:
    """Ends the RPC with the table's status for whatever its handler raises.

    grpc.aio tells the client the text of any exception, so none may get past this.
    """
    try:
        yield
    except Exception as error:
        await _abort(context, status_of(error, operation))


def status_of(error: Exception, operation: Operation) -> status_pb2.Status:
    """The `google.rpc.Status`, details included, that tells a client of `error`. Logs what is not its fault."""
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
