"""Answers as providers give them, whole or not, and what each one is by the documentation of its wire format.

Gemini: https://ai.google.dev/api/generate-content. OpenAI: https://platform.openai.com/docs/api-reference/chat.
Ollama: https://docs.ollama.com/api/chat. Streams: server-sent events (WHATWG HTML, 9.2), and a JSON document a line.
"""

import json
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Any, ClassVar, Protocol, TypeVar

from hypothesis import strategies as st

from src.util.surrogates import replace_lone_surrogates
from testing.fakes.provider import Framing, Played

Json = dict[str, Any]
T = TypeVar("T")


class Verdict(Enum):
    """The verdict on an answer: what callers get, and how often it counts for the circuit, asked twice."""

    WHOLE = ("ok", 0)
    TRUNCATED = ("truncated", 0)  # a text that was cut off at the limit of tokens
    BLOCKED = ("content-blocked", 0)
    UNUSABLE = ("model-failed", 1)  # what a caller's content can cause: once a caller
    OUTAGE = ("model-failed", 2)
    TIMED_OUT = ("timeout", 1)
    GAVE_UP = ("timeout", 2)  # the provider waited for the request in vain (408)


FAILURES = frozenset({Verdict.UNUSABLE, Verdict.OUTAGE, Verdict.TIMED_OUT})


@dataclass(frozen=True)
class Meant:
    """A structured answer in the model's mind.

    Attributes:
        document: Its JSON.
        before, after: What the model writes around it.
        kept: Characters of all this that it wrote before it stopped; None: all.
        is_valid: Whether the document has the schema that was asked for.
    """

    document: str
    before: str = ""
    after: str = ""
    kept: int | None = None
    is_valid: bool = True

    @property
    def text(self) -> str:
        """All that it wrote."""
        return (self.before + self.document + self.after)[: self.kept]

    @property
    def is_whole(self) -> bool:
        """True if the document is whole and fits the schema."""
        return self.is_valid and len(self.text) >= len(self.before + self.document)


@dataclass(frozen=True)
class Answer:
    """The facts that a provider has to send.

    Attributes:
        pieces: The text, as it is cut into parts or chunks.
        ending: The reason that the provider gives for the end; None: none.
        meant: What the text is, where a structured answer was asked for.
        usage: What it says of tokens; MISSING: nothing.
        thoughts: The model's, which are no part of its answer.
        blocked: The prompt was blocked, or the model declined in the format's own way.
        error: The provider fails after the pieces, and says so.
        ends_apart: The end comes after the last piece instead of with it.
        asks_tool: The model asks for a tool first: with these arguments.
    """

    pieces: tuple[str, ...]
    ending: str | None
    meant: Meant | None = None
    usage: Any = None
    thoughts: str = ""
    blocked: bool = False
    error: bool = False
    ends_apart: bool = True
    asks_tool: str | None = None

    def text(self, *, apart: bool) -> str:
        """The text that callers have to get: halves of a pair of surrogates that come apart are no character."""
        return "".join(replace_lone_surrogates(piece) for piece in (self.pieces if apart else ("".join(self.pieces),)))


MISSING = "missing"
STRANGE_USAGE: tuple[Any, ...] = (-1, 0.5, 1e999, "7", [], {})  # no count of tokens


class Format(Protocol):
    """One provider's wire format.

    Attributes:
        model: The setting MODEL.
        base_url: The name of the setting for the address, which ends with `path`.
        media_type: Of a stream.
        reasons: What each reason to end means.
        joins: A unary answer's text is one string.
        refuses: It can say that it will not answer.
    """

    model: str
    base_url: str
    path: str
    media_type: str
    reasons: ClassVar[dict[str | None, str]]
    joins: bool
    refuses: bool

    def document(self, answer: Answer) -> Json: ...
    def events(self, answer: Answer) -> list[Json]: ...
    def tool_call(self, arguments: str) -> Json: ...
    def wants_tool(self, request: Json) -> bool: ...
    def failure(self, status: int) -> Json: ...


class Gemini:
    """generateContent and streamGenerateContent."""

    model, base_url, path = "googleai/gemini-flash-latest", "google_gemini_base_url", ""
    media_type = "text/event-stream"
    joins = False
    refuses = True
    reasons: ClassVar[dict[str | None, str]] = {
        "STOP": "stop",
        "MAX_TOKENS": "length",
        **dict.fromkeys(("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"), "blocked"),
        **dict.fromkeys(("OTHER", "MALFORMED_FUNCTION_CALL", "FINISH_REASON_UNSPECIFIED", "A_NEW_ONE"), "unusable"),
        None: "unusable",
    }

    def document(self, answer: Answer) -> Json:
        if answer.error:
            return self.failure(500)
        if answer.blocked:
            return self._blocked(answer)
        return self._response(answer, answer.pieces, answer.thoughts, answer.ending)

    def events(self, answer: Answer) -> list[Json]:
        if answer.blocked:
            return [self._blocked(answer)]
        events = [self._response(answer, (), answer.thoughts)] if answer.thoughts else []
        events += [self._response(answer, (piece,)) for piece in answer.pieces]
        if answer.error:
            return [*events, self.failure(503)]
        if answer.ends_apart or not events:
            return [*events, self._response(answer, (), "", answer.ending)]
        return [*events[:-1], self._response(answer, answer.pieces[-1:], "", answer.ending)]

    def tool_call(self, arguments: str) -> Json:
        call = {"name": "get_current_time", "args": {} if arguments == "{}" else arguments}
        candidate = {"content": {"role": "model", "parts": [{"functionCall": call}]}, "finishReason": "STOP"}
        return {"candidates": [candidate]}

    def wants_tool(self, request: Json) -> bool:
        return "functionResponse" not in json.dumps(request)

    def failure(self, status: int) -> Json:
        return {"error": {"code": status, "message": "no", "status": "SOME_STATUS"}}

    def _blocked(self, answer: Answer) -> Json:
        return self._with_usage({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, answer)

    def _response(self, answer: Answer, texts: tuple[str, ...], thoughts: str = "", ending: str | None = None) -> Json:
        parts: list[Json] = [{"text": thoughts, "thought": True}] if thoughts else []
        parts += [{"text": text} for text in texts]
        candidate: Json = {"index": 0}
        if parts:
            candidate["content"] = {"role": "model", "parts": parts}
        if ending is not None:
            candidate["finishReason"] = ending
        return self._with_usage({"candidates": [candidate], "modelVersion": "m"}, answer)

    def _with_usage(self, response: Json, answer: Answer) -> Json:
        if answer.usage == MISSING:
            return response
        if answer.usage is not None:
            return {**response, "usageMetadata": {"promptTokenCount": answer.usage}}
        return {**response, "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}}


class OpenAI:
    """Chat completions."""

    model, base_url, path, media_type = "openai/some-model", "openai_base_url", "/v1", "text/event-stream"
    joins = True
    refuses = True
    reasons: ClassVar[dict[str | None, str]] = {
        "stop": "stop",
        "length": "length",
        "content_filter": "blocked",
        "function_call": "unusable",
        "a_new_one": "unusable",
        None: "unusable",
    }
    _head: ClassVar[Json] = {"id": "1", "created": 1, "model": "m"}

    def document(self, answer: Answer) -> Json:
        if answer.error:
            return self.failure(500)
        message: Json = {"role": "assistant", "content": "".join(answer.pieces)}
        if answer.blocked:
            message |= {"content": None, "refusal": "No."}
        if answer.thoughts:
            message["reasoning_content"] = answer.thoughts
        return self._completion(answer, message, "stop" if answer.blocked else answer.ending)

    def events(self, answer: Answer) -> list[Json]:
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        if answer.thoughts:
            deltas.append({"reasoning_content": answer.thoughts})
        if answer.blocked:
            deltas += [{"refusal": "N"}, {"refusal": "o."}]
        else:
            deltas += [{"content": piece} for piece in answer.pieces]
        if answer.error:
            return [*(self._chunk(delta) for delta in deltas), self.failure(503)]
        if answer.ends_apart:
            deltas.append({})
        ending = "stop" if answer.blocked else answer.ending
        events = [*(self._chunk(delta) for delta in deltas[:-1]), self._chunk(deltas[-1], ending)]
        usage = self._usage(answer)
        return [*events, {**self._head, "object": "chat.completion.chunk", "choices": [], **usage}] if usage else events

    def tool_call(self, arguments: str) -> Json:
        call = {"id": "c1", "type": "function", "function": {"name": "get_current_time", "arguments": arguments}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return self._completion(Answer((), None), message, "tool_calls")

    def wants_tool(self, request: Json) -> bool:
        return bool(request["messages"][-1]["role"] != "tool")

    def failure(self, status: int) -> Json:
        return {"error": {"message": "no", "type": "some_type", "code": None}}

    def _completion(self, answer: Answer, message: Json, ending: str | None) -> Json:
        choice = {"index": 0, "message": message, "finish_reason": ending}
        return {**self._head, "object": "chat.completion", "choices": [choice], **self._usage(answer)}

    def _chunk(self, delta: Json, ending: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": ending}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _usage(self, answer: Answer) -> Json:
        if answer.usage == MISSING:
            return {}
        if answer.usage is not None:
            return {"usage": {"prompt_tokens": answer.usage}}
        return {"usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}


class Ollama:
    """/api/chat."""

    model, base_url, path, media_type = "ollama/some-model", "ollama_base_url", "", "application/x-ndjson"
    joins = True
    refuses = False
    reasons: ClassVar[dict[str | None, str]] = {"stop": "stop", "length": "length", "unsaid": "stop", None: "unusable"}

    def document(self, answer: Answer) -> Json:
        return self.failure(500) if answer.error else self._message(answer, "".join(answer.pieces), ends=True)

    def events(self, answer: Answer) -> list[Json]:
        events = [self._message(answer, piece) for piece in answer.pieces]
        if answer.error:
            return [*events, self.failure(500)]
        if answer.ends_apart or not events:
            return [*events, self._message(answer, "", ends=True)]
        return [*events[:-1], self._message(answer, answer.pieces[-1], ends=True)]

    def tool_call(self, arguments: str) -> Json:
        call = {"function": {"name": "get_current_time", "arguments": {} if arguments == "{}" else arguments}}
        message = {"role": "assistant", "content": "", "tool_calls": [call]}
        return {"model": "m", "message": message, "done": True, "done_reason": "stop"}

    def wants_tool(self, request: Json) -> bool:
        return bool(request["messages"][-1]["role"] != "tool")

    def failure(self, status: int) -> Json:
        return {"error": "no"}

    def _message(self, answer: Answer, text: str, *, ends: bool = False) -> Json:
        message: Json = {"role": "assistant", "content": text}
        if answer.thoughts:
            message["thinking"] = answer.thoughts
        response: Json = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False}
        if not ends or answer.ending is None:
            return response
        response["done"] = True
        if answer.ending != "unsaid":
            response["done_reason"] = answer.ending
        if answer.usage == MISSING:
            return response
        return {**response, "prompt_eval_count": 7 if answer.usage is None else answer.usage, "eval_count": 5}


FORMATS: dict[str, Format] = {
    "gemini": Gemini(),
    "openai": OpenAI(),
    "ollama": Ollama(),
}


@dataclass(frozen=True)
class Case:
    """One answer, on the wire.

    Attributes:
        way: The operation that is asked: see WAYS of the test.
        played: Its bytes.
        ended_at: How many bytes of the body are the answer and its end; what may follow says nothing of it.
        strange: The provider breaks its own format in a way that says nothing of the answer.
    """

    provider: str
    way: str
    answer: Answer
    played: Played
    ended_at: int
    strange: bool = False

    @property
    def format(self) -> Format:
        return FORMATS[self.provider]

    @property
    def text(self) -> str:
        """Return the text that the provider sent."""
        return self.answer.text(apart=self.way == "stream" or not self.format.joins)

    @property
    def verdicts(self) -> frozenset[Verdict]:
        """Return the verdicts that are allowed for it."""
        if self.played.status != 200:
            return frozenset({of_status(self.played.status)})
        verdict = self._verdict()
        if self.answer.error:
            return FAILURES
        if self.played.cut is not None:
            # Half of a model's refusal is one too: nothing of its text is passed on.
            is_known = self.played.cut >= self.ended_at or verdict is Verdict.BLOCKED
            return FAILURES | {verdict} if is_known else FAILURES
        return FAILURES | {verdict} if self.strange else frozenset({verdict})

    def _verdict(self) -> Verdict:
        answer = self.answer
        if answer.asks_tool not in (None, "{}"):
            return Verdict.UNUSABLE
        reason = self.format.reasons[answer.ending]
        if answer.blocked or reason == "blocked":
            return Verdict.BLOCKED
        if reason == "unusable" or not self.text.strip():
            return Verdict.UNUSABLE
        if answer.meant is None:
            return Verdict.TRUNCATED if reason == "length" else Verdict.WHOLE
        return Verdict.WHOLE if reason == "stop" and answer.meant.is_whole else Verdict.UNUSABLE


def of_status(status: int) -> Verdict:
    """Return the verdict on an answer with this HTTP status."""
    if status in (408, 504):
        return Verdict.GAVE_UP if status == 408 else Verdict.TIMED_OUT
    is_of_request = 400 <= status < 500 and status not in (401, 403, 404, 429)
    return Verdict.UNUSABLE if is_of_request else Verdict.OUTAGE


def plainly(provider: str, way: str, answer: Answer, **wire: Any) -> Case:
    """A case that is spelled as most providers spell it; what else is given changes how it is played."""
    wire_format = FORMATS[provider]
    if way != "stream":
        body, media_type = json.dumps(wire_format.document(answer)).encode(), "application/json"
    else:
        media_type = wire_format.media_type
        before, after = ("", "\n") if media_type == "application/x-ndjson" else ("data: ", "\n\n")
        body = "".join(before + json.dumps(event) + after for event in wire_format.events(answer)).encode()
    played = replace(Played(body, media_type), **wire)
    return Case(provider, way, answer, played, len(played.body.rstrip()))


def failing(provider: str, way: str, status: int, body: bytes = b"") -> Case:
    """A failure with this status."""
    return Case(provider, way, Answer((), None), Played(body, "application/json", status=status), len(body))


# Line ends of all kinds, what looks like the frame of an answer, and surrogates without their other half.
TEXTS = st.text(
    st.sampled_from('ab {}[]"\\:,`\n\r\u2028\u2029\x85\x0b\x1e\u00e9\u20ac\U0001f600\ud83d\ude00\ufeff\ufffd\x00'),
    max_size=14,
) | st.sampled_from(["data: [DONE]\n\n", '{"done": true}', "```json\n{}\n```", "Ahoy!"])
AROUND = [("", ""), ("```json\n", "\n```"), ("Here it is: ", ""), ("", "\n\nAnything else?"), ("\ufeff", "")]
ARGUMENTS = [None, "{}", "{}", "{}", None, None, None, "{"]  # of a tool
RARELY = st.sampled_from([False] * 9 + [True])
SPELLINGS = st.booleans()  # whether a JSON document is written in ASCII


def _perhaps(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    """None most of the time: of an answer with several flaws only one can be seen."""
    return st.one_of(st.none(), st.none(), st.none(), strategy)


@st.composite
def meant_answers(draw: st.DrawFn) -> Meant:
    """A translation, or what is none."""
    value: Json = {"translated_text": draw(TEXTS), "confidence": draw(st.sampled_from(["high", "medium", "low"]))}
    is_valid = not draw(RARELY)
    if not is_valid:
        value = draw(st.sampled_from([{}, {**value, "confidence": "none"}, {**value, "translated_text": 5}]))
    document = json.dumps(value, ensure_ascii=draw(SPELLINGS), indent=draw(st.sampled_from([None, 2])))
    before, after = draw(st.sampled_from(AROUND))
    meant = Meant(document, before, after, is_valid=is_valid)
    return replace(meant, kept=draw(_perhaps(st.integers(0, len(meant.text)))))


@st.composite
def cut_into_pieces(draw: st.DrawFn, text: str) -> tuple[str, ...]:
    """The text in up to five pieces; some may be empty."""
    places = [0, *sorted(draw(st.lists(st.integers(0, len(text)), max_size=4))), len(text)]
    return tuple(text[start:end] for start, end in pairwise(places))


@st.composite
def answers(draw: st.DrawFn, provider: str, way: str) -> Answer:
    """Generate the facts that a provider may send."""
    reasons = FORMATS[provider].reasons
    common = [reason for reason, meaning in reasons.items() if meaning in ("stop", "length")]
    meant = draw(meant_answers()) if way == "structured" else None
    text = draw(TEXTS) if meant is None else meant.text
    return Answer(
        pieces=draw(cut_into_pieces(text)),
        ending=draw(st.sampled_from(common) | st.sampled_from(list(reasons))),
        meant=meant,
        usage=draw(_perhaps(st.sampled_from([MISSING, 0, 2**53, *STRANGE_USAGE]))),
        thoughts=draw(st.sampled_from(["", "", "Hm. {}"])),
        blocked=FORMATS[provider].refuses and draw(RARELY),
        error=draw(RARELY),
        ends_apart=draw(st.booleans()),
        asks_tool=draw(st.sampled_from(ARGUMENTS)) if way == "structured" else None,
    )


@st.composite
def cases(draw: st.DrawFn, provider: str) -> Case:
    """One answer of any kind, on the wire in any way."""
    way = draw(st.sampled_from(["text", "cached text", "structured", "stream", "structured", "stream"]))
    answer = draw(answers(provider, way))
    if answer.error:
        answer = replace(answer, blocked=False)
    streamed = way == "stream"
    body, ended_at = draw(_streams(provider, answer)) if streamed else draw(_documents(provider, answer))
    media_type = FORMATS[provider].media_type if streamed else "application/json"
    played = Played(
        body,
        media_type + draw(st.sampled_from(["", "; charset=utf-8"])),
        framing=draw(st.sampled_from(["length", "chunked", "chunked", "close"])),
        chunks=tuple(draw(st.lists(st.integers(0, len(body)), max_size=5))),
        cut=draw(_perhaps(st.integers(0, len(body)))),
    )
    is_odd_type = streamed and draw(RARELY)
    if is_odd_type:
        played = replace(played, media_type=draw(st.sampled_from([None, "text/plain", "application/json"])))
    return Case(provider, way, answer, played, ended_at, strange=answer.usage in STRANGE_USAGE or is_odd_type)


@st.composite
def _documents(draw: st.DrawFn, provider: str, answer: Answer) -> tuple[bytes, int]:
    body = _canonical(FORMATS[provider].document(answer), draw(SPELLINGS), draw(st.sampled_from([None, 1])))
    return body + draw(st.sampled_from([b"", b"\n"])), len(body)


@st.composite
def _streams(draw: st.DrawFn, provider: str, answer: Answer) -> tuple[bytes, int]:
    events = FORMATS[provider].events(answer)
    end = draw(st.sampled_from(["\n", "\r\n", "\r"])).encode()
    if provider == "ollama":
        lines = [_canonical(event, draw(SPELLINGS)) for event in events]
        body = b"".join(line + end for line in lines)
        return (body, len(body) - len(end)) if draw(st.booleans()) else (body.removesuffix(end), len(body) - len(end))
    body, ended_at = draw(st.sampled_from([b"", b"", "\ufeff".encode()])), 0
    for event in events:
        fields = draw(st.lists(st.sampled_from([b": keep-alive", b":", b"id: 1", b"retry: 5", b"x"]), max_size=1))
        document = _canonical(event, draw(SPELLINGS), draw(st.sampled_from([None, None, 1])))
        prefix = draw(st.sampled_from([b"data: ", b"data:"]))
        lines = [*fields, *(prefix + line for line in document.split(b"\n")), b""]
        body += b"".join(line + end for line in lines)
        if event.get("choices") != []:  # what OpenAI says of usage comes after the end
            ended_at = len(body) - (len(end) - 1)
    if provider == "openai" and draw(st.booleans()):
        body += b"data: [DONE]" + end + end
    return body, ended_at


def _canonical(document: Json, ascii_only: bool, indent: int | None = None) -> bytes:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    return (text if replace_lone_surrogates(text) is text else json.dumps(document, indent=indent)).encode()


BODIES = [
    b"",
    b"no",
    b"<html><h1>Bad gateway</h1></html>",
    b"{}",
    b"[]",
    b"null",
    b"5",
    b'"no"',
    b'[{"error": {"code": 400, "message": "no"}}]',
    b'{"error": "no"}',
    b'{"error": null}',
    b'{"error": {"message": null}}',
    b"\xff\xfe",
]


@st.composite
def no_answers(draw: st.DrawFn, provider: str) -> Case:
    """Something else than an answer, as if it were one."""
    way = draw(st.sampled_from(["text", "structured", "stream"]))
    prefix = draw(st.sampled_from([b"", b"data: "]))
    body = prefix + draw(st.sampled_from(BODIES)) + draw(st.sampled_from([b"", b"\n\n"]))
    media_type = draw(st.sampled_from(["application/json", FORMATS[provider].media_type, "text/html", None]))
    return Case(provider, way, Answer((), None, error=True), Played(body, media_type), len(body))


@st.composite
def failing_statuses(draw: st.DrawFn, provider: str) -> Case:
    """Any status but 200, with or without a body."""
    way = draw(st.sampled_from(["text", "structured", "stream"]))
    common = st.sampled_from([400, 401, 403, 404, 408, 409, 413, 422, 429, 499, 500, 502, 503, 504, 529])
    status = draw(common | st.integers(300, 599))
    body = draw(st.sampled_from([*BODIES, json.dumps(FORMATS[provider].failure(status)).encode()]))
    media_type = draw(st.sampled_from(["application/json", "text/html", "text/event-stream", None]))
    framings: list[Framing] = ["length", "chunked", "close"]
    played = Played(body, media_type, status=status, framing=draw(st.sampled_from(framings)))
    return Case(provider, way, Answer((), None), played, len(body))
