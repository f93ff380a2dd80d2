"""The embedded model: deterministic, and honest about what it was asked for."""

import asyncio
import base64
import json
from typing import Any

import jsonschema
import pytest
from genkit import Genkit
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from src.app_init import build_genkit
from src.bulkhead import Bulkhead
from src.images.fetch import FetchedImage
from src.llm import Llm
from src.prompt import CallerText, Image
from src.providers import offline
from src.providers.offline import Instance
from src.settings_loader import load_settings
from testing.small_service import Translation
from tests.models import Character
from tests.prompts import HELLO, Say, saying


@pytest.fixture(scope="module")
def ai() -> Genkit:
    return build_genkit(load_settings({"debug": True, "model": "offline/demo"}))


@pytest.fixture(scope="module")
def llm(ai: Genkit) -> Llm:
    return Llm(ai, timeout=5, bulkhead=Bulkhead(8), breaker=None)


def bounds(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda pair: (min(pair), max(pair)))


STRINGS = bounds(0, 300).map(lambda b: {"type": "string", "minLength": b[0], "maxLength": b[1]})
INTEGERS = bounds(-50, 500).map(lambda b: {"type": "integer", "minimum": b[0], "maximum": b[1]})
OPEN_INTEGERS = bounds(-50, 500).map(
    lambda b: {"type": "integer", "exclusiveMinimum": b[0] - 1, "exclusiveMaximum": b[1] + 1}
)
NUMBERS = bounds(-50, 500).map(lambda b: {"type": "number", "minimum": b[0], "exclusiveMaximum": b[1] + 1})
LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    STRINGS,
    INTEGERS,
    OPEN_INTEGERS,
    NUMBERS,
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": "string"},
            {"type": "integer"},
            {"type": "number"},
            {"type": "null"},
            {"const": "x"},
            {"enum": ["b", "a"], "type": "string"},
            {"$ref": "#/$defs/Inner"},
        ]
    ),
)


def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.dictionaries(st.sampled_from("abcd"), inner, max_size=4).map(
            lambda fields: {"type": "object", "properties": fields, "required": list(fields)}
        ),
        st.tuples(inner, bounds(0, 4)).map(
            lambda t: {"type": "array", "items": t[0], "minItems": t[1][0], "maxItems": t[1][1]}
        ),
        inner.map(lambda choice: {"anyOf": [{"type": "null"}, choice]}),
    )


@given(schema=st.recursive(LEAVES, nested, max_leaves=8), text=st.text(max_size=50))
def test_an_answer_fits_any_schema_that_a_model_may_have(schema: dict[str, Any], text: str) -> None:
    root = {**schema, "$defs": {"Inner": {"type": "object", "properties": {"n": {"type": "integer"}}}}}
    jsonschema.validate(Instance(root, text).value(), root)


@pytest.mark.parametrize("schema", [Translation, Character], ids=str)
def test_a_structured_answer_is_an_instance(llm: Llm, schema: type[BaseModel]) -> None:
    assert isinstance(asyncio.run(llm.structured(schema, *HELLO)), schema)


def test_the_same_request_gets_the_same_answer(llm: Llm) -> None:
    assert asyncio.run(llm.text(*HELLO)) == asyncio.run(llm.text(*HELLO))
    assert asyncio.run(llm.text(*HELLO)) != asyncio.run(llm.text(*saying("goodbye")))


def test_the_system_prompt_shows(llm: Llm) -> None:
    assert "You are a pirate." in asyncio.run(llm.text(Say.PIRATE, CallerText("hello")))


def test_a_tool_is_called_and_its_answer_used(ai: Genkit, llm: Llm) -> None:
    calls = []

    @ai.tool()
    async def weather(city: str) -> str:
        calls.append(city)
        return "rain of frogs"

    translation = asyncio.run(llm.structured(Translation, *HELLO, tools=[weather]))
    assert len(calls) == 1
    assert "rain of frogs" in translation.translated_text


def test_an_image_is_told_by_type_and_size(llm: Llm) -> None:
    url = FetchedImage("data:image/png;base64," + base64.b64encode(b"12345").decode())
    assert "image/png, 5 bytes" in asyncio.run(llm.text(*HELLO, Image(url)))


def test_a_stream_has_several_chunks_that_add_up(llm: Llm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "CHUNK_DELAY", 0)
    chunks: list[str] = []
    text = asyncio.run(llm.text(*HELLO, on_text=chunks.append))
    assert "".join(chunks) == text
    assert len(chunks) > 3


def test_a_string_keeps_its_limits_as_json() -> None:
    schema = {"type": "object", "properties": {"backStory": {"type": "string", "maxLength": 12}}}
    assert json.dumps(Instance(schema, "long " * 100).value()) == '{"backStory": "Back story: "}'
