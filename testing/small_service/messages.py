"""The messages and the client of gRPC for rows of operations, made at run time: no proto file, no generated code."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from src.operations import Operation

# The service's name stays: metrics, traces and manifests hold it.
PACKAGE, SERVICE = "genkit.sample.v1", "GenkitService"


def messages_of(operations: Sequence[Operation], pool: DescriptorPool | None = None) -> Any:
    """Return what `src.generated.service_pb2` would be for these rows, whose fields are all texts.

    Args:
        pool: Where they are registered. Unless given, beside those of `src`, which have the same full names.
    """
    file = FileDescriptorProto(name="small_service.proto", package=PACKAGE, syntax="proto3")
    service = file.service.add(name=SERVICE)
    service.method.add(name="Health", input_type=f".{PACKAGE}.HealthRequest", output_type=f".{PACKAGE}.HealthResponse")
    file.message_type.append(_message("HealthRequest", ()))
    file.message_type.append(_message("HealthResponse", ("status",)))
    for operation in operations:
        request, answer = operation.input.__name__, operation.output.__name__
        file.message_type.append(_message(request, operation.input.model_fields))
        file.message_type.append(_message(answer, ["text"] if operation.streamed else operation.output.model_fields))
        service.method.add(
            name=operation.rpc,
            input_type=f".{PACKAGE}.{request}",
            output_type=f".{PACKAGE}.{answer}",
            server_streaming=operation.streamed,
        )
    pool = pool or DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindFileByName(file.name)
    classes = {name: GetMessageClass(each) for name, each in descriptor.message_types_by_name.items()}
    return SimpleNamespace(DESCRIPTOR=descriptor, **classes)


def _message(name: str, fields: Any) -> DescriptorProto:
    message = DescriptorProto(name=name)
    for number, field in enumerate(fields, 1):
        message.field.add(
            name=field,
            number=number,
            type=FieldDescriptorProto.TYPE_STRING,
            label=FieldDescriptorProto.LABEL_OPTIONAL,
        )
    return message


class Stub:
    """A client with a method for each RPC."""

    def __init__(self, channel: Any, messages: Any) -> None:
        for method in messages.DESCRIPTOR.services_by_name[SERVICE].methods:
            make = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = make(
                f"/{PACKAGE}.{SERVICE}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)
