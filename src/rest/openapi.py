"""The part of the API documentation that FastAPI can't derive: failures, and the events of a stream."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from src.operations import Operation
from src.schemas import Problem, ValidationFailures

SCHEMA_REF = "#/components/schemas/{model}"
# Failure responses of any operation.
FAILURES = {
    413: "The request is larger than allowed.",
    415: "The request is not declared as JSON.",
    422: "The input is invalid, or the language model refused its content.",
    429: "The client exceeded its rate limit.",
    500: "The service failed.",
    502: "The language model failed to give a usable answer.",
    503: "The language model is failing, too many calls are running, or the service is shutting down.",
    504: "The answer took longer than allowed.",
}


def documented_responses(operation: Operation) -> dict[int | str, dict[str, Any]]:
    """Return all responses of an operation, in OpenAPI's terms."""
    problem = {"application/problem+json": {"schema": {"$ref": SCHEMA_REF.format(model="Problem")}}}
    invalid = {"application/json": {"schema": {"$ref": SCHEMA_REF.format(model="ValidationFailures")}}}
    wait = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": description, "content": problem} for status, description in FAILURES.items()
    }
    responses[400] = {
        "description": "Not a request for this host, or broken off.",
        "content": {"text/plain": {}} | problem,
    }
    responses[422]["content"] = invalid | problem
    for status in (429, 503):
        responses[status]["headers"] = wait
    if operation.streamed:
        events = {"text/event-stream": {"itemSchema": _event_schema(operation.text_field or "")}}
        responses[200] = {"description": "Server-sent events.", "content": events}
    return responses


def _event_schema(field: str) -> dict[str, Any]:
    """Return the schema of one event, as FastAPI and OpenAPI 3.2 describe them."""
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


def add_failure_schemas(app: FastAPI) -> None:
    """Add to the OpenAPI document what FastAPI can't derive: it takes every model for a plain JSON response."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        _, shapes = models_json_schema(
            [(Problem, "serialization"), (ValidationFailures, "serialization")], ref_template=SCHEMA_REF
        )
        document["components"]["schemas"].update(shapes["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]
