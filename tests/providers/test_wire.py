"""Whatever valid spelling a provider chooses, SDKs that split lines as httpx does read the same documents."""

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.providers import wire
from src.providers.wire import respell
from src.util.surrogates import replace_lone_surrogates

# With all that Python and httpx take for line ends, and lone surrogates, which can only be escaped.
STRINGS = st.text(st.sampled_from('a"\\/ :\u2028\u2029\x85\u00e9\u20ac\U0001f600\ud83d\ude00\r\n'), max_size=12)
DOCUMENTS = st.lists(st.dictionaries(STRINGS, STRINGS, max_size=2), max_size=4)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
FIELDS = st.lists(
    st.sampled_from([": keep-alive", ":", "event: x", "id: 1", "retry: 5", "data-like: x", "x"]), max_size=2
)


@st.composite
def spelled_documents(draw: st.DrawFn, separator: str = "") -> tuple[list[Any], list[str]]:
    """Documents, and each as JSON with raw or escaped characters."""
    documents = draw(DOCUMENTS)
    texts = []
    for document in documents:
        raw = json.dumps(document, ensure_ascii=False, indent=draw(st.sampled_from([None, 1])) if separator else None)
        texts.append(raw if draw(st.booleans()) and replace_lone_surrogates(raw) is raw else json.dumps(document))
    return documents, texts


@st.composite
def event_streams(draw: st.DrawFn) -> tuple[list[object], bytes]:
    """Documents as server-sent events (WHATWG HTML, 9.2.6)."""
    documents, texts = draw(spelled_documents(separator="\n"))
    lines: list[str] = []
    for text in texts:
        lines += draw(FIELDS)
        lines += [draw(st.sampled_from(["data:", "data: "])) + line for line in text.split("\n")]
        lines += [*draw(FIELDS), ""]
    end = draw(LINE_ENDS)
    return documents, (draw(st.sampled_from(["", "\ufeff"])) + "".join(line + end for line in lines)).encode()


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=6)))
    return [body[start:end] for start, end in pairwise([0, *cuts, len(body)])]


def lines_read(media_type: str, chunks: list[bytes]) -> list[str]:
    """The lines that an SDK gets."""

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def scenario() -> list[str]:
        response = httpx.Response(200, headers={"content-type": media_type}, content=body())
        await respell(response)
        return [line async for line in response.aiter_lines()]

    return asyncio.run(scenario())


def whole(documents: list[object]) -> list[object]:
    return [json.loads(replace_lone_surrogates(json.dumps(document, ensure_ascii=False))) for document in documents]


@given(event_streams(), st.data())
def test_any_event_stream_is_read_as_its_documents(sent: tuple[list[object], bytes], data: st.DataObject) -> None:
    documents, body = sent
    lines = lines_read("text/event-stream; charset=utf-8", data.draw(chunked(body)))
    assert [json.loads(line.removeprefix("data: ")) for line in lines if line] == whole(documents)


@given(event_streams(), st.data())
def test_an_event_stream_that_is_cut_gives_whole_documents_only(
    sent: tuple[list[object], bytes], data: st.DataObject
) -> None:
    documents, body = sent
    body = body[: data.draw(st.integers(0, len(body)))]
    lines = lines_read("text/event-stream", data.draw(chunked(body)))
    found = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert found == whole(documents)[: len(found)]


@given(spelled_documents(), LINE_ENDS, st.booleans(), st.data())
def test_lines_are_read_as_their_documents(
    sent: tuple[list[object], list[str]], end: str, is_ended: bool, data: st.DataObject
) -> None:
    documents, texts = sent
    body = (end.join(texts) + (end if is_ended else "")).encode()
    lines = lines_read("application/x-ndjson", data.draw(chunked(body)))
    assert [json.loads(line) for line in lines if line] == whole(documents)


@given(STRINGS, st.data())
def test_a_document_is_read_whole(text: str, data: st.DataObject) -> None:
    body = json.dumps([text]).encode()
    [line] = lines_read("application/json", data.draw(chunked(body)))
    assert json.loads(line) == [replace_lone_surrogates(text)]


def test_who_iterates_anew_gets_what_is_left() -> None:
    """As OpenAI's SDK does after the last event; an end that is read twice would block the event loop for ever."""

    async def scenario() -> list[list[bytes]]:
        response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body())
        await respell(response)
        stream = cast("httpx.AsyncByteStream", response.stream)
        first = await anext(aiter(stream))
        return [[first], [piece async for piece in stream], [piece async for piece in stream]]

    async def body() -> AsyncIterator[bytes]:
        yield b"data: 1\n\ndata: 2\n\n"
        yield b"data: 3\n\n"

    assert asyncio.run(scenario()) == [[b"data: 1\n\n"], [b"data: 2\n\n", b"data: 3\n\n"], []]


BLOCKED = {"promptFeedback": {"blockReason": "SAFETY"}}


@pytest.mark.parametrize(
    ("document", "reasons"),
    [
        (BLOCKED, ["PROHIBITED_CONTENT"]),
        ({**BLOCKED, "candidates": []}, ["PROHIBITED_CONTENT"]),
        ({**BLOCKED, "candidates": [{"finishReason": "STOP"}]}, ["STOP"]),
        ({"promptFeedback": {"safetyRatings": []}}, []),
        ({"promptFeedback": {}, "candidates": [{"finishReason": "STOP"}]}, ["STOP"]),
    ],
)
@pytest.mark.parametrize("media_type", ["application/json", "text/event-stream"])
def test_a_prompt_that_gemini_blocks_has_a_reason(media_type: str, document: Any, reasons: list[str]) -> None:
    text = json.dumps(document)
    body = f"data: {text}\n\n" if media_type == "text/event-stream" else text
    found = json.loads(lines_read(media_type, [body.encode()])[0].removeprefix("data: "))
    assert [candidate["finishReason"] for candidate in found.get("candidates", [])] == reasons
    assert found["promptFeedback"] == document["promptFeedback"]


@pytest.mark.parametrize(
    "text", ['["promptFeedback"]', '"promptFeedback"', '{"promptFeedback": null}', '{"promptFeedback"']
)
def test_what_only_looks_like_a_blocked_prompt_stays_as_it_is(text: str) -> None:
    assert lines_read("application/json", [text.encode()]) == [text]


def test_other_types_stay_as_they_are() -> None:
    assert lines_read("text/plain", [b"a\xc2", b"\x85b\\ud83d"]) == ["a", "b\\ud83d"]


AT_ONCE, BYTE_BY_BYTE, LINES = [b"a" * 2000], [b"a"] * 2000, [b"data: aaaaaaaa\n"] * 200


@pytest.mark.parametrize(
    ("media_type", "chunks"),
    [
        pytest.param("text/event-stream", AT_ONCE, id="an event, at once"),
        pytest.param("text/event-stream", BYTE_BY_BYTE, id="an event, byte by byte"),
        pytest.param("text/event-stream", LINES, id="an event, line by line"),
        pytest.param("application/x-ndjson", AT_ONCE, id="a line, at once"),
        pytest.param("application/x-ndjson", BYTE_BY_BYTE, id="a line, byte by byte"),
    ],
)
def test_what_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch, media_type: str, chunks: list[bytes]) -> None:
    monkeypatch.setattr(wire, "MAX_EVENT", 1000)
    with pytest.raises(httpx.RemoteProtocolError):
        lines_read(media_type, chunks)


def test_many_short_lines_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_EVENT", 1000)
    assert len(lines_read("application/x-ndjson", LINES)) == len(LINES)
