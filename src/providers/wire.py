"""Rewrites providers' responses into a form that every SDK can read.

The SDKs split streams with httpx's `aiter_lines`, which also splits at characters that may be inside a JSON string, and
support only the simplest form of server-sent events. They reject a whole response that has an escaped lone surrogate.
Genkit does not read the reason why Gemini blocked a prompt.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import cast

import httpx

from src.util.surrogates import replace_lone_escapes

MAX_EVENT = 4 * 1024 * 1024  # bytes of one line or event

# Line ends of `str.splitlines` beside CR and LF (never in a JSON string): UTF-8 bytes as Latin-1 characters.
_SEPARATOR = re.compile("\xe2\x80\xa8|\xe2\x80\xa9|\xc2\x85|[\x0b\x0c\x1c-\x1e]")
_LINE_END = re.compile("\r\n|\r|\n")
_BYTE_ORDER_MARK = "\xef\xbb\xbf"  # likewise; a stream of events may begin with one


async def respell(response: httpx.Response) -> None:
    """Rewrite a response, as a hook of `httpx.AsyncClient`."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    spell = _SPELLINGS.get(media_type)
    if spell is not None and "content-encoding" not in response.headers:
        # The body's length changes, and nothing reads the header from here on.
        response.stream = _Respelled(cast("httpx.AsyncByteStream", response.stream), spell)


class _Respelled(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, spell: "Spelling") -> None:
        self._stream = stream
        self._pieces = self._respelled(spell())

    def __aiter__(self) -> AsyncIterator[bytes]:
        # OpenAI's SDK starts to iterate again after the last event. httpcore would then read the ended connection
        # in a loop, without yielding to the event loop.
        return self._pieces

    async def _respelled(self, spell: "_Document | _Lines") -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            for piece in spell.feed(chunk):
                yield piece
        for piece in spell.end():
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Document:
    """One JSON document."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        self._chunks.append(chunk)
        return ()

    def end(self) -> Iterable[bytes]:
        return [_with_reason(replace_lone_escapes(b"".join(self._chunks)))]


class _Lines:
    """JSON documents, one per line."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []  # of an incomplete line
        self._size = 0

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        self._waiting.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_EVENT:
            raise httpx.RemoteProtocolError("a line of the response is too long")
        if b"\n" not in chunk and b"\r" not in chunk:
            return ()
        text = b"".join(self._waiting).decode("latin-1")
        held = "\r" if text.endswith("\r") else ""  # it may be half of a CR LF
        *lines, rest = _LINE_END.split(text.removesuffix("\r"))
        self._wait_with(rest + held)
        return [piece for line in lines for piece in self._line(line)]

    def end(self) -> Iterable[bytes]:
        rest = b"".join(self._waiting).decode("latin-1").removesuffix("\r")
        return self._line(rest) if rest else ()

    def _wait_with(self, rest: str) -> None:
        self._waiting = [rest.encode("latin-1")]
        self._size = len(rest)

    def _line(self, line: str) -> Iterable[bytes]:
        return [_canonical(line) + b"\n"]


class _Events(_Lines):
    """Server-sent events (WHATWG HTML, 9.2.6). Only their data is passed on, one line each."""

    def __init__(self) -> None:
        super().__init__()
        self._data: list[str] = []
        self._is_first = True

    def end(self) -> Iterable[bytes]:
        # An event without its final blank line is dropped, as the standard requires: it may be incomplete.
        return self._line("") if b"".join(self._waiting) == b"\r" else ()

    def _line(self, line: str) -> Iterable[bytes]:
        if self._is_first:
            line, self._is_first = line.removeprefix(_BYTE_ORDER_MARK), False
        if line:
            name, _, value = line.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            if sum(map(len, self._data)) > MAX_EVENT:
                raise httpx.RemoteProtocolError("an event of the response is too long")
            return ()
        data, self._data = self._data, []
        return [b"data: " + _canonical(" ".join(data)) + b"\n\n"] if data else ()


def _canonical(document: str) -> bytes:
    escaped = _SEPARATOR.sub(lambda match: f"\\u{ord(match[0].encode('latin-1').decode()):04x}", document)
    return _with_reason(replace_lone_escapes(escaped.encode("latin-1")))


def _with_reason(document: bytes) -> bytes:
    """Add a candidate to Gemini's response to a blocked prompt: Genkit reads reasons from candidates only."""
    if b'"promptFeedback"' not in document:
        return document
    with suppress(ValueError, RecursionError):
        match json.loads(document):
            case {"promptFeedback": {"blockReason": str()}} as response if not response.get("candidates"):
                response["candidates"] = [{"finishReason": "PROHIBITED_CONTENT"}]
                return json.dumps(response).encode()
    return document


Spelling = Callable[[], _Document | _Lines]
_SPELLINGS: dict[str, Spelling] = {
    "application/json": _Document,
    "application/x-ndjson": _Lines,
    "text/event-stream": _Events,
}
