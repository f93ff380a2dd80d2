"""Answers are read as Genkit reads them, but only where they are JSON, and not by its slow parser."""

import asyncio
import json
from typing import Any, cast
from unittest.mock import Mock

import pytest
from genkit import ActionRunContext, FinishReason, Genkit, Message, ModelRequest, ModelResponse, Part, Role
from hypothesis import given
from hypothesis import strategies as st

from src.bulkhead import Bulkhead
from src.llm import Llm
from src.providers.json_format import JSON_FORMAT, define_json_format
from testing.small_service import Translation
from tests.prompts import HELLO

AI = Genkit()
define_json_format(AI)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def message(text: str) -> Message:
    return Message(role=Role.MODEL, content=[Part(text=text)])


def reader(name: str) -> Any:
    return cast("Any", AI.registry.lookup_value("format", name))({"type": "object"})


def read(name: str, text: str) -> object:
    try:
        return reader(name).parse_message(message(text))
    except Exception as error:
        return type(error)


@given(JSON, st.sampled_from([None, 2]))
def test_json_is_read_as_genkit_reads_it(value: object, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    assert read(JSON_FORMAT, text) == read("json", text)


@pytest.mark.parametrize("wrap", ["%s", "```%s```", "%s and more"])
def test_surrogates_are_joined_or_replaced(wrap: str) -> None:  # Genkit leaves halves, which nothing can encode
    answer = wrap % r'{"\ud83d\ude00": ["\ud83d\ude00", "\ud83d", "\ude00\ud83d"]}'
    assert read(JSON_FORMAT, answer) == {"\U0001f600": ["\U0001f600", "\ufffd", "\ufffd\ufffd"]}


@given(
    wrap=st.sampled_from(["```json\n{}\n```", "Here it is:\n{}", "{}\n\nAnything else?", "\u00a0{}", "\ufeff{}"]),
    value=st.dictionaries(st.text(), JSON),
)
def test_an_object_among_words_is_found(wrap: str, value: dict[str, object]) -> None:
    assert read(JSON_FORMAT, wrap.replace("{}", json.dumps(value))) == value


@pytest.mark.parametrize(
    "text", ['{"a": 1,}', "{a: 1}", "{'a': 1}", '{"a": "cut o', "// why\n{a: 1}", "", "{", "1" * 5000]
)
def test_what_is_no_json_is_not_made_into_any(text: str) -> None:
    assert read(JSON_FORMAT, text) is ValueError


@given(value=st.dictionaries(st.text(), JSON, min_size=1), data=st.data())
def test_an_object_that_was_cut_off_is_refused_wherever_the_cut_is(
    value: dict[str, object], data: st.DataObject
) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    assert read(JSON_FORMAT, cut) is ValueError


def test_line_ends_and_tabs_in_strings_are_taken_as_they_are() -> None:
    assert read(JSON_FORMAT, '{"a": "b\n\tc\r\n\x0b"}') == {"a": "b\n\tc\r\n\x0b"}


@given(st.text(st.sampled_from('{}[]":,\\ ab1\n')))
def test_nonsense_is_refused_or_holds_json(text: str) -> None:
    found = read(JSON_FORMAT, text)
    # Line feeds in strings are taken as they are.
    held = found is not ValueError and "".join(json.dumps(found).replace("\\n", "").split()) in "".join(text.split())
    assert found is ValueError or held or isinstance(found, dict)


def test_a_changed_answer_is_read_anew() -> None:
    one_call = reader(JSON_FORMAT)
    assert [one_call.parse_message(message(text)) for text in ("[1]", "[2]", "[2]")] == [[1], [2], [2]]


def test_models_are_told_the_same_as_with_genkits_own() -> None:
    ours, genkits = reader(JSON_FORMAT), reader("json")
    assert ours.instructions == genkits.instructions
    asked: list[ModelRequest] = []

    async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
        asked.append(request)
        return ModelResponse(
            message=message('{"translated_text": "a", "confidence": "low"}'), finish_reason=FinishReason.STOP
        )

    ai = Genkit(model="test/model")
    ai.define_model(name="test/model", fn=model)
    llm = Llm(ai, timeout=5, bulkhead=Bulkhead(1), breaker=None)
    Llm(ai, timeout=5, bulkhead=Bulkhead(1), breaker=None)  # two may share what they call

    async def both() -> None:
        await llm.structured(Translation, *HELLO)
        await ai.generate(system=[Part(text="Be brief.")], prompt=[Part(text="hello")], output_schema=Translation)

    asyncio.run(both())
    assert asked[0].model_dump() == asked[1].model_dump()


def test_a_long_answer_is_read_in_one_pass_of_the_fast_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Mock(wraps=json.loads)
    monkeypatch.setattr("src.providers.json_format.json.loads", loads)
    monkeypatch.setattr("json5.loads", lambda *_: pytest.fail("read by json5"))
    answer = '{"translated_text": "' + "a" * 8000 + '", "confidence": "low"}'

    async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
        return ModelResponse(message=message(answer), finish_reason=FinishReason.STOP)

    ai = Genkit(model="test/model")
    ai.define_model(name="test/model", fn=model)
    llm = Llm(ai, timeout=5, bulkhead=Bulkhead(1), breaker=None)
    result = asyncio.run(llm.structured(Translation, *HELLO))
    assert len(result.translated_text) == 8000
    loads.assert_called_once_with(answer, strict=False)
