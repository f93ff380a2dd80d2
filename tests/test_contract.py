"""The wire contract: every row's models and its protobuf messages say the same, field by field."""

import json
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from src import schemas
from src.generated import service_pb2
from src.operations import OPERATIONS, Operation
from src.rpc.errors import to_grpc_status
from src.rpc.handlers import SERVICE_DESCRIPTOR, to_input, to_message

ROWS = [pytest.param(op, id=op.name) for op in OPERATIONS]

# The contract as clients hold it: path, RPC, request fields, response fields (numbers count).
CONTRACT: dict[str, tuple[str, str, dict[str, int], dict[str, int]]] = {
    "tell_joke": ("/tell-joke", "TellJoke", {"name": 1, "username": 2}, {"joke": 1, "username": 2}),
    "tell_joke_stream": ("/tell-joke/stream", "TellJokeStream", {"name": 1, "username": 2}, {"text": 1}),
    "tell_story": ("/tell-story/stream", "TellStory", {"topic": 1}, {"text": 1}),
    "translate_text": (
        "/translate",
        "TranslateText",
        {"text": 1, "target_language": 2},
        {"original_text": 1, "translated_text": 2, "target_language": 3, "confidence": 4},
    ),
    "describe_image": ("/describe-image", "DescribeImage", {"image_url": 1}, {"description": 1, "image_url": 2}),
    "generate_character": (
        "/generate-character",
        "GenerateCharacter",
        {"name": 1},
        {"name": 1, "back_story": 2, "abilities": 3, "skills": 4},
    ),
    "pirate_chat": ("/chat", "PirateChat", {"question": 1}, {"answer": 1, "persona": 2}),
    "generate_code": (
        "/generate-code",
        "GenerateCode",
        {"description": 1, "language": 2},
        {"code": 1, "language": 2, "explanation": 3, "filename": 4},
    ),
    "review_code": ("/review-code", "ReviewCode", {"code": 1, "language": 2}, {"review": 1}),
}

LIMITS = {
    ("JokeRequest", "name"): (0, 200),
    ("JokeRequest", "username"): (0, 200),
    ("StoryRequest", "topic"): (1, 1_000),
    ("TranslateRequest", "text"): (1, 10_000),
    ("TranslateRequest", "target_language"): (0, 100),
    ("ImageRequest", "image_url"): (0, 2_048),
    ("CharacterRequest", "name"): (0, 200),
    ("ChatRequest", "question"): (1, 5_000),
    ("CodeRequest", "description"): (1, 10_000),
    ("CodeRequest", "language"): (1, 50),
    ("CodeReviewRequest", "code"): (1, 50_000),
    ("CodeReviewRequest", "language"): (1, 50),
}


def numbers(message: Any) -> dict[str, int]:
    return {field.name: field.number for field in message.fields}


def message_class(descriptor: Any) -> type[Message]:
    found: type[Message] = getattr(service_pb2, descriptor.name)
    return found


def request_class(operation: Operation) -> type[Message]:
    return message_class(SERVICE_DESCRIPTOR.methods_by_name[operation.rpc].input_type)


def response_class(operation: Operation) -> type[Message]:
    return message_class(SERVICE_DESCRIPTOR.methods_by_name[operation.rpc].output_type)


def test_the_rows_are_the_contract() -> None:
    rows = {
        op.name: (
            op.path,
            op.rpc,
            numbers(SERVICE_DESCRIPTOR.methods_by_name[op.rpc].input_type),
            numbers(SERVICE_DESCRIPTOR.methods_by_name[op.rpc].output_type),
        )
        for op in OPERATIONS
    }
    assert rows == CONTRACT
    assert set(SERVICE_DESCRIPTOR.methods_by_name) == {op.rpc for op in OPERATIONS} | {"Health"}
    assert SERVICE_DESCRIPTOR.full_name == "genkit.sample.v1.GenkitService"


@pytest.mark.parametrize("operation", ROWS)
def test_both_protocols_take_the_same_fields(operation: Operation) -> None:
    assert set(operation.input.model_fields) == set(
        numbers(SERVICE_DESCRIPTOR.methods_by_name[operation.rpc].input_type)
    )


@pytest.mark.parametrize("operation", ROWS)
def test_only_the_streamed_rpcs_stream(operation: Operation) -> None:
    method = SERVICE_DESCRIPTOR.methods_by_name[operation.rpc]
    assert (method.client_streaming, method.server_streaming) == (False, operation.streamed)


@pytest.mark.parametrize("operation", ROWS)
def test_an_empty_message_and_an_empty_object_give_the_same_defaults(operation: Operation) -> None:
    assert to_input(operation, request_class(operation)()) == operation.input.model_validate_json("{}")


@pytest.mark.parametrize(("place", "limits"), LIMITS.items(), ids=lambda value: ".".join(map(str, value)))
def test_a_text_field_is_limited_alike_on_both_sides(place: tuple[str, str], limits: tuple[int, int]) -> None:
    model_name, field = place
    shortest, longest = limits
    operation = next(op for op in OPERATIONS if op.input.__name__ == model_name)
    assert over_rest(operation, {field: "a" * longest}) == over_grpc(operation, {field: "a" * longest}) is not None
    for refused in ("a" * (longest + 1), *([""] if shortest else [])):
        assert over_rest(operation, {field: refused}) is None
    assert over_grpc(operation, {field: "a" * (longest + 1)}) is None
    assert over_grpc(operation, {field: ""}) == operation.input(), "empty is unset in protobuf"


@pytest.mark.parametrize("operation", ROWS)
@given(data=st.data())
def test_any_input_reads_the_same_over_both_protocols(operation: Operation, data: st.DataObject) -> None:
    text = st.one_of(st.text(max_size=60), st.sampled_from(["a" * 300, "a" * 3000, "a" * 20_000, "C#", "x\u0000y"]))
    values = {name: data.draw(text, label=name) for name in operation.input.model_fields}
    given_values = {name: value for name, value in values.items() if value}
    assert over_grpc(operation, values) == over_rest(operation, given_values)


def over_rest(operation: Operation, values: dict[str, str]) -> BaseModel | None:
    try:
        return operation.input.model_validate_json(json.dumps(values))
    except ValidationError:
        return None


def over_grpc(operation: Operation, values: dict[str, str]) -> BaseModel | None:
    wire = request_class(operation)(**values).SerializeToString()
    try:
        return to_input(operation, request_class(operation).FromString(wire))
    except ValidationError as error:
        status = to_grpc_status(error, operation.name, "r1")
        assert (status.code, len(status.details)) == (3, 2)
        return None


OUTPUTS: dict[str, BaseModel] = {
    "tell_joke": schemas.JokeResponse(joke="j", username="u"),
    "translate_text": schemas.TranslationResponse(
        original_text="a", translated_text="b", target_language="c", confidence="low"
    ),
    "describe_image": schemas.ImageResponse(description="d", image_url="u"),
    "generate_character": schemas.RpgCharacter(
        name="n",
        back_story="b",
        abilities=["x", "y"],
        skills=schemas.Skills(strength=0, charisma=100, endurance=50),
    ),
    "pirate_chat": schemas.ChatResponse(answer="a"),
    "generate_code": schemas.CodeResponse(code="c", language="l", explanation="e", filename="f"),
    "review_code": schemas.CodeReviewResponse(
        summary="s", issues=[schemas.CodeIssue(severity="major", line=None, message="m", suggestion="s")]
    ),
}


@pytest.mark.parametrize("operation", [pytest.param(op, id=op.name) for op in OPERATIONS if not op.streamed])
def test_an_answer_holds_the_same_over_both_protocols(operation: Operation) -> None:
    output = OUTPUTS[operation.name]
    message = to_message(operation, output, response_class(operation))
    if operation.json_field:
        assert json.loads(getattr(message, operation.json_field)) == json.loads(output.model_dump_json(by_alias=True))
    else:
        assert as_dict(message) == output.model_dump()


def as_dict(message: Message) -> dict[str, Any]:
    values = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            value = as_dict(value)
        values[field.name] = list(value) if field.is_repeated else value
    return values


NOT_BLANK = [
    pytest.param(operation.input, name, id=f"{operation.name} {name}")
    for operation in OPERATIONS
    for name, field in operation.input.model_json_schema()["properties"].items()
    if field.get("pattern") == r"\S"
]


@pytest.mark.parametrize(("input_model", "name"), NOT_BLANK)
@pytest.mark.parametrize("blank", [" ", "\t\n", "\u00a0\u2003", "\x1c"])
def test_text_that_the_llm_needs_is_not_blank(input_model: type[BaseModel], name: str, blank: str) -> None:
    with pytest.raises(ValidationError, match="String should not be blank"):
        input_model.model_validate({name: blank})
