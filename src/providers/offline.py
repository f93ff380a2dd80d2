"""The embedded demo model: no network, no key, and the same response to the same request.

It supports an output schema, a system prompt, tools, streaming and images.
"""

import asyncio
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from genkit import (
    ActionRunContext,
    FinishReason,
    Genkit,
    Message,
    ModelInfo,
    ModelRequest,
    ModelResponse,
    ModelUsage,
    Part,
    Role,
    Supports,
    ToolDefinition,
    ToolRequest,
)
from genkit.model import ModelResponseChunk
from genkit.plugin_api import ModelConfig

from src.config import OFFLINE_MODEL

CHUNK_DELAY = 0.02  # seconds between chunks, so that streaming is visible
WORDS_PER_CHUNK = 3
QUOTED_CHARS = 80

Schema = Mapping[str, Any]


def config(max_output_tokens: int) -> ModelConfig:
    """Return the limits for every call. The demo's responses are far below them."""
    return ModelConfig(max_output_tokens=max_output_tokens)


def register(ai: Genkit) -> None:
    supports = Supports(multiturn=True, media=True, tools=True, system_role=True, output=["text", "json"])
    ai.define_model(name=OFFLINE_MODEL, fn=_answer, info=ModelInfo(label="Offline demo", supports=supports))


async def _answer(request: ModelRequest[Any], ctx: ActionRunContext[Any]) -> ModelResponse:
    if request.tools and not _tool_answers(request):
        return _respond(request, Part(tool_request=_call(request.tools[0])))
    text = _text(request)
    if request.output_schema:
        text = json.dumps(Instance(request.output_schema, text).value(), ensure_ascii=False)
    if ctx.is_streaming:
        await _stream(text, ctx)
    return _respond(request, Part(text=text))


def _respond(request: ModelRequest[Any], part: Part) -> ModelResponse:
    asked = sum(len((p.text or "").split()) for message in request.messages for p in message.content)
    answered = len((part.text or "").split())
    return ModelResponse(
        message=Message(role=Role.MODEL, content=[part]),
        finish_reason=FinishReason.STOP,
        usage=ModelUsage(input_tokens=asked, output_tokens=answered, total_tokens=asked + answered),
    )


def _call(tool: ToolDefinition) -> ToolRequest:
    arguments = Instance(tool.input_schema, "demo").value() if tool.input_schema else None
    return ToolRequest(ref="demo-1", name=tool.name, input=arguments)


async def _stream(text: str, ctx: ActionRunContext[Any]) -> None:
    words = re.findall(r"\S+\s*|\s+", text)
    for start in range(0, len(words), WORDS_PER_CHUNK):
        if start:
            await asyncio.sleep(CHUNK_DELAY)
        chunk = "".join(words[start : start + WORDS_PER_CHUNK])
        ctx.send_chunk(ModelResponseChunk(role=Role.MODEL, content=[Part(text=chunk)]))


def _text(request: ModelRequest[Any]) -> str:
    sentences = [f'This is the offline demo model, answering "{_quote(_last_words(request))}".']
    if persona := _persona(request):
        sentences.append(f"It was told: {persona}")
    sentences += [f"The image is {media}." for media in _images(request)]
    sentences += [f"A tool answered: {answer}." for answer in _tool_answers(request)]
    sentences.append("Name a real model to get a real answer.")
    return " ".join(sentences)


def _parts(request: ModelRequest[Any], *roles: str) -> list[Part]:
    return [part for message in request.messages if message.role in roles for part in message.content]


def _last_words(request: ModelRequest[Any]) -> str:
    """Return the user's last text, which is the caller's own."""
    texts = [part.text for part in _parts(request, "user") if part.text]
    return texts[-1] if texts else ""


def _quote(text: str) -> str:
    """Return the text on one short line."""
    line = " ".join(text.split())
    return line if len(line) <= QUOTED_CHARS else line[:QUOTED_CHARS].rstrip() + "…"


def _persona(request: ModelRequest[Any]) -> str:
    text = " ".join(part.text or "" for part in _parts(request, "system")).strip()
    return re.split(r"(?<=[.!?])\s", text)[0]


def _images(request: ModelRequest[Any]) -> list[str]:
    found = []
    for part in _parts(request, "user"):
        if part.media is not None:
            head, _, data = part.media.url.partition(",")
            size = len(data) * 3 // 4 - data.count("=")
            kind = part.media.content_type or head.removeprefix("data:").partition(";")[0]
            found.append(f"{kind}, {size} bytes")
    return found


def _tool_answers(request: ModelRequest[Any]) -> list[str]:
    responses = [part.tool_response for part in _parts(request, "tool")]
    return [str(response.output) for response in responses if response is not None]


class Instance:
    """Builds the smallest sensible value that matches a JSON schema, as pydantic writes them.

    Args:
        schema: The root, whose `$defs` its references point into.
        text: The content of strings.
    """

    def __init__(self, schema: Schema, text: str) -> None:
        self._root = schema
        self._text = text

    def value(self) -> Any:
        return self._of(self._root, "value")

    def _of(self, schema: Schema, name: str) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        for union in ("anyOf", "oneOf", "allOf"):
            if union in schema:
                return self._of(_first_with_value(schema[union]), name)
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = next(k for k in kind if k != "null")
        return self._of_kind(kind, schema, name)

    def _of_kind(self, kind: str, schema: Schema, name: str) -> Any:
        if kind == "object":
            return {key: self._of(inner, key) for key, inner in schema.get("properties", {}).items()}
        if kind == "array":
            return [self._of(schema.get("items", {}), name) for _ in range(_length(schema))]
        if kind in ("integer", "number"):
            return _number(schema, step=1 if kind == "integer" else 0.5)
        if kind == "boolean":
            return True
        return None if kind == "null" else self._string(schema, name)

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            target: Any = self._root
            for key in schema["$ref"].removeprefix("#/").split("/"):
                target = target[key]
            schema = target
        return schema

    def _string(self, schema: Schema, name: str) -> str:
        label = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name).capitalize()
        text = f"{label}: {self._text}"
        return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", len(text) + 1000)]


def _first_with_value(choices: Sequence[Schema]) -> Schema:
    return next((choice for choice in choices if choice.get("type") != "null"), choices[0])


def _length(schema: Schema) -> int:
    wanted = max(1, schema.get("minItems", 0))
    return int(min(wanted, schema.get("maxItems", wanted)))


def _number(schema: Schema, *, step: float) -> float:
    low: float = max(schema.get("minimum", float("-inf")), schema.get("exclusiveMinimum", float("-inf")) + step)
    high: float = min(schema.get("maximum", float("inf")), schema.get("exclusiveMaximum", float("inf")) - step)
    if math.isinf(low):
        return min(step * 2, high)
    return low if math.isinf(high) else type(step)((low + high) // 2)
