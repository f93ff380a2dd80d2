"""Handlers made from the operation rows: from message to model, through the runner, and back."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from pydantic import BaseModel

from src.generated import service_pb2
from src.operations import OPERATIONS, Operation
from src.rpc.errors import Context
from src.rpc.hooks import current_rpc
from src.runner import EncodedOutput, Runner
from src.schemas import HealthResponse

SERVICE_DESCRIPTOR = service_pb2.DESCRIPTOR.services_by_name["GenkitService"]


def service_handlers(runner: Runner) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
    """Return the handlers of the service by method name."""
    handlers = {op.rpc: _operation_handler(op, runner) for op in OPERATIONS}
    # Its request is empty, so it is not waited for.
    handlers["Health"] = grpc.stream_unary_rpc_method_handler(
        _health,
        response_serializer=service_pb2.HealthResponse.SerializeToString,
    )
    return handlers


async def _health(_requests: object, _context: Context) -> Message:
    return service_pb2.HealthResponse(status=HealthResponse().status)


def _operation_handler(operation: Operation, runner: Runner) -> "grpc.RpcMethodHandler[Any, Any]":
    method = SERVICE_DESCRIPTOR.methods_by_name[operation.rpc]
    request_type = _message_class(method.input_type)
    response_type = _message_class(method.output_type)

    def encode(output: BaseModel) -> bytes:
        return to_message(operation, output, response_type).SerializeToString()

    async def unary(request: Message, _context: Context) -> bytes:
        input = to_input(operation, request)
        result, _ = await runner.run(operation, input)
        _send_marks(result)
        return result.encoded(encode)

    async def stream(request: Message, _context: Context) -> AsyncIterator[Message]:
        async with aclosing(runner.stream(operation, to_input(operation, request))) as items:
            async for item in items:
                if isinstance(item, str):
                    yield response_type(text=item)
                else:
                    _send_marks(item)

    if operation.streamed:
        return grpc.unary_stream_rpc_method_handler(stream, request_type.FromString, response_type.SerializeToString)
    return grpc.unary_unary_rpc_method_handler(unary, request_type.FromString)


def _send_marks(result: EncodedOutput) -> None:
    if result.marks.truncated:
        current_rpc().trailers.append(("x-truncated", "1"))


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
