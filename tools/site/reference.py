"""The reference of both protocols, from the operation rows."""

import json
import shlex
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from pydantic import BaseModel

from src.operations import OPERATIONS, Operation
from src.rpc.handlers import SERVICE_DESCRIPTOR
from tools.site.answers import answers
from tools.site.markdown_table import code, table

LONGEST_EXAMPLE = 60  # characters of a field's default that an example still shows
HEAD = ("Field", "Type", "Default", "Limits", "Description")
LIMITS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {:,} characters",
    "minimum": "from {}",
    "maximum": "to {}",
    "maxItems": "at most {} entries",
    "pattern": "`{}`",
}


def operations_table() -> str:
    """A row an operation, with a link to its chapter."""
    rows = (
        (
            f"[`{operation.name}`](#{operation.name})",
            f"`POST {operation.path}`" + (", streamed" if operation.streamed else ""),
            code(operation.rpc) + (", streamed" if operation.streamed else ""),
            "yes" if operation.cached else "no",
        )
        for operation in OPERATIONS
    )
    return table(("Flow", "REST", "RPC", "Cached"), rows)


def operations_reference() -> str:
    """A chapter an operation."""
    given = answers()
    return "\n\n".join(_chapter(operation, given[operation.name]) for operation in OPERATIONS)


def _chapter(operation: Operation, answer: str) -> str:
    return "\n\n".join(
        [
            f"### {operation.name} {{ #{operation.name} }}",
            operation.flow.__doc__ or "",
            _commands(operation),
            "Response of the embedded model:",
            _block("text" if operation.streamed else "json", answer),
            "Input:",
            fields_table(operation.input),
            f"Output{', in the last event' if operation.streamed else ''}:",
            fields_table(operation.output),
            _block("protobuf", rpc_definition(SERVICE_DESCRIPTOR.methods_by_name[operation.rpc])),
        ]
    )


def _commands(operation: Operation) -> str:
    data = shlex.quote(json.dumps(example(operation.input)))
    method = f"{SERVICE_DESCRIPTOR.full_name}/{operation.rpc}"
    unbuffered = " -N" if operation.streamed else ""
    commands = {
        "REST": f"curl -s{unbuffered} localhost:8080{operation.path} --json {data}",
        "gRPC, grpcurl": f"grpcurl -plaintext -d {data} localhost:50051 {method}",
        "gRPC, buf": f"buf curl --protocol grpc --http2-prior-knowledge -d {data} http://localhost:50051/{method}",
    }
    tabs = ((title, _block("console", command)) for title, command in commands.items())
    return "\n\n".join(f'=== "{title}"\n\n' + _indented(block) for title, block in tabs)


def example(model: type[BaseModel]) -> dict[str, Any]:
    """An input that shows the model's fields: their defaults, without the very long."""
    return {
        name: value for name, value in model().model_dump(exclude_none=True).items() if len(value) <= LONGEST_EXAMPLE
    }


def fields_table(model: type[BaseModel]) -> str:
    """A row a field, those of nested objects included; a column that says nothing is left out."""
    schema = model.model_json_schema(mode="validation")
    columns = zip(HEAD, *_rows(schema, schema.get("$defs", {}), ""), strict=True)
    head, *rows = zip(*(column for column in columns if any(column[1:])), strict=True)
    return table(head, rows)


def _rows(schema: dict[str, Any], known: dict[str, Any], prefix: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, field in schema["properties"].items():
        shape = _resolved(field, known)
        rows.append((code(prefix + name), _type(shape), _default(field), _limits(shape), field.get("description", "")))
        inner = _resolved(shape.get("items", {}), known)
        if "properties" in shape:
            rows += _rows(shape, known, f"{prefix}{name}.")
        elif "properties" in inner:
            rows += _rows(inner, known, f"{prefix}{name}[].")
    return rows


def _resolved(field: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The schema itself: of what may be null, what it is otherwise; of a reference, what it refers to."""
    for choice in field.get("anyOf", ()):
        if choice.get("type") != "null":
            return _resolved(choice, known) | {"nullable": True}
    reference = field.get("$ref")
    return dict(known[reference.rpartition("/")[2]]) if reference else field


def _type(shape: dict[str, Any]) -> str:
    kind = "list" if shape["type"] == "array" else str(shape["type"])
    return f"{kind} or null" if shape.get("nullable") else kind


def _default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return ""
    text = json.dumps(field["default"])
    return code(text) if len(text) <= LONGEST_EXAMPLE else "a built-in one"


def _limits(shape: dict[str, Any]) -> str:
    if "enum" in shape:
        return "one of " + ", ".join(map(code, shape["enum"]))
    return ", ".join(words.format(shape[limit]) for limit, words in LIMITS.items() if limit in shape)


def rpc_definition(method: MethodDescriptor) -> str:
    """The RPC and its messages, in the language of proto files."""
    stream = "stream " if method.server_streaming else ""
    rpc = f"rpc {method.name}({method.input_type.name}) returns ({stream}{method.output_type.name});"
    messages = [*_messages(method.input_type), *_messages(method.output_type)]
    return "\n\n".join([rpc, *dict.fromkeys(map(_message, messages))])


def _messages(message: Descriptor) -> list[Descriptor]:
    return [
        message,
        *(inner for field in message.fields if field.message_type for inner in _messages(field.message_type)),
    ]


def _message(message: Descriptor) -> str:
    fields = "".join(f"  {_proto_type(field)} {field.name} = {field.number};\n" for field in message.fields)
    return f"message {message.name} {{\n{fields}}}"


def _proto_type(field: FieldDescriptor) -> str:
    name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()  # type: ignore[arg-type]
    kind = field.message_type.name if field.message_type else name
    return f"repeated {kind}" if field.is_repeated else kind


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
