"""Structured outputs, parsed by the standard library instead of Genkit's parser.

Genkit 0.12 completes truncated JSON, so half a response passes as a whole one. It parses with json5, which is written
in Python, takes microseconds per character, and runs up to five times per response.
"""

import json
from contextlib import suppress
from typing import Any, cast

from genkit import Genkit, Message, ModelResponseChunk

from src.util.surrogates import replace_lone_surrogates

JSON_FORMAT = "strict-json-first"


def define_json_format(ai: Genkit) -> None:
    """Register `JSON_FORMAT` with `ai`. Its instructions to the model are those of Genkit's own format, json."""
    if ai.registry.lookup_value("format", JSON_FORMAT) is None:
        # Genkit's format classes are private. It uses only the attributes below.
        ai.define_format(cast("Any", _Format(ai.registry.lookup_value("format", "json"))))


class _Format:
    """Genkit's json format with another parser."""

    name = JSON_FORMAT

    def __init__(self, lenient: Any) -> None:
        self._lenient = lenient
        self.config = lenient.config

    def __call__(self, schema: dict[str, object] | None) -> "_Reader":
        return _Reader(self._lenient(schema))


class _Reader:
    """Parses the response to one call."""

    def __init__(self, lenient: Any) -> None:
        self._lenient = lenient
        self.instructions: str | None = lenient.instructions
        self._read: tuple[str, object] | None = None

    def parse_message(self, message: Message) -> object:
        """Return the content of a response. Genkit calls this several times per response.

        Raises:
            ValueError: It has no complete JSON document.
        """
        text = message.text
        if self._read is None or self._read[0] != text:
            self._read = (text, _parse(text))
        return self._read[1]

    def parse_chunk(self, chunk: ModelResponseChunk) -> object:
        return self._lenient.parse_chunk(chunk)


def _parse(text: str) -> object:
    # The second is for a model that puts text or a code fence around its object.
    for candidate in (text, text[text.find("{") : text.rfind("}") + 1]):
        with suppress(ValueError, RecursionError):
            return _mended(json.loads(candidate, strict=False))  # models put unescaped line ends into strings
    raise ValueError("no JSON")


def _mended(value: object) -> object:
    text = json.dumps(value, ensure_ascii=False)
    mended = replace_lone_surrogates(text)
    return value if mended is text else json.loads(mended)
