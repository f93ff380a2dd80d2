"""Structured answers, read by the standard library's parser instead of Genkit's.

Genkit 0.12 completes JSON that was cut off, so half an answer passes as a whole one. It reads with json5, which is
Python throughout and takes microseconds a character, and does so up to five times an answer.
"""

import json
from contextlib import suppress
from typing import Any, cast

from genkit import Genkit, Message, ModelResponseChunk

from src.util.text import well_formed

JSON_FORMAT = "strict-json-first"


def define_json_format(ai: Genkit) -> None:
    """Make `JSON_FORMAT` known to `ai`. Models are told the same as with Genkit's own format, json."""
    if ai.registry.lookup_value("format", JSON_FORMAT) is None:
        # The classes of formats are private to Genkit; it asks no more of one than what is here.
        ai.define_format(cast("Any", _Format(ai.registry.lookup_value("format", "json"))))


class _Format:
    """Genkit's json, but for how answers are read."""

    name = JSON_FORMAT

    def __init__(self, lenient: Any) -> None:
        self._lenient = lenient
        self.config = lenient.config

    def __call__(self, schema: dict[str, object] | None) -> "_Reader":
        return _Reader(self._lenient(schema))


class _Reader:
    """Reads the answer to one call."""

    def __init__(self, lenient: Any) -> None:
        self._lenient = lenient
        self.instructions: str | None = lenient.instructions
        self._read: tuple[str, object] | None = None

    def parse_message(self, message: Message) -> object:
        """Return what an answer holds; Genkit asks for it again and again.

        Raises:
            ValueError: no whole JSON document is in it.
        """
        text = message.text
        if self._read is None or self._read[0] != text:
            self._read = (text, _parse(text))
        return self._read[1]

    def parse_chunk(self, chunk: ModelResponseChunk) -> object:
        """Parse the part of an answer that has arrived."""
        return self._lenient.parse_chunk(chunk)


def _parse(text: str) -> object:
    # The second is for a model that wraps its object in words or in a fence.
    for candidate in (text, text[text.find("{") : text.rfind("}") + 1]):
        with suppress(ValueError, RecursionError):
            return _mended(json.loads(candidate, strict=False))  # models write line ends into strings as they are
    raise ValueError("no JSON")


def _mended(value: object) -> object:
    text = json.dumps(value, ensure_ascii=False)
    mended = well_formed(text)
    return value if mended is text else json.loads(mended)
