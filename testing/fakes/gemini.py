"""A stand-in for the Gemini API on loopback, for a service that runs in another process.

It speaks the public REST format (`v1beta`): `models`, `generateContent` and `streamGenerateContent?alt=sse`. What
each call gets is scripted by the test; what came in, and which connections closed early, can be read by it.
"""

import asyncio
import json
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

Json = dict[str, Any]

MODELS = ("gemini-flash-latest", "gemini-pro-latest")
_CALL = re.compile(r"/v1beta/models/([^/:?]+):(?:generateContent|(streamGenerateContent)\?(?:.*&)?alt=sse)\b")
_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Gate:
    """Lets answers through one by one, as the test says."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._permits = 0
        self._waiting: deque[Future[None]] = deque()

    def release(self, count: int = 1) -> None:
        """Let `count` more chunks through."""
        for _ in range(count):
            self._release_one()

    def _release_one(self) -> None:
        with self._lock:
            while self._waiting:
                waiting = self._waiting.popleft()
                if waiting.set_running_or_notify_cancel():
                    return waiting.set_result(None)
            self._permits += 1

    async def passed(self) -> None:
        """Wait for a permit, without blocking the loop."""
        with self._lock:
            if self._permits:
                self._permits -= 1
                return
            waiting: Future[None] = Future()
            self._waiting.append(waiting)
        await asyncio.wrap_future(waiting)


@dataclass(frozen=True)
class Behaviour:
    """The answer to one call.

    Attributes:
        parts: The answer's parts; a streamed call gets one chunk a part. None: made up from the request.
        finish_reason: Of the last chunk; None leaves it out.
        status, headers, details: Anything but 200 is answered with an error body that holds these details.
        raw: This body instead, whatever the request.
        blocked: The prompt is blocked: feedback and no candidate.
        calls_tool: Ask for the first tool on offer, unless this request brings a tool's result.
        hang: Never answer.
        reset: Reset the connection (RST) instead of an answer.
        cut_after: Close the connection after so many chunks, without ending the body.
        gate: Each chunk, and a unary answer, waits until the test lets one more through.
    """

    parts: tuple[Json, ...] | None = None
    finish_reason: str | None = "STOP"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    details: tuple[Json, ...] = ()
    raw: bytes | None = None
    blocked: bool = False
    calls_tool: bool = False
    hang: bool = False
    reset: bool = False
    cut_after: int | None = None
    gate: Gate | None = None


def text(*chunks: str, **options: Any) -> Behaviour:
    """These chunks; over a unary call all of them at once."""
    return Behaviour(parts=tuple({"text": chunk} for chunk in chunks), **options)


def tool_call(name: str, **arguments: Any) -> Behaviour:
    """The model asks for a tool."""
    return Behaviour(parts=({"functionCall": {"name": name, "args": arguments}},))


def error(status: int, *, details: tuple[Json, ...] = (), **headers: str) -> Behaviour:
    """An error as Google's APIs write it; `retry_after="7"` becomes the header `retry-after: 7`."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Behaviour(status=status, headers=named, details=details)


HANG = Behaviour(hang=True)
RESET = Behaviour(reset=True)
GARBAGE = Behaviour(raw=b"<html>busy</html>")
BLOCKED_PROMPT = Behaviour(blocked=True)
BLOCKED_ANSWER = Behaviour(parts=(), finish_reason="SAFETY")
CUT_SHORT = text("Once upon a", finish_reason="MAX_TOKENS")
CALLS_TOOL = Behaviour(calls_tool=True)
ECHO = Behaviour()


@dataclass
class Recorded:
    """A request as it came in; `model` is None when it is no call for an answer."""

    path: str
    body: Json
    headers: dict[str, str]
    method: str = "POST"
    model: str | None = field(init=False, default=None)
    streamed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        call = _CALL.match(self.path) if self.method == "POST" else None
        if call is not None:
            self.model, self.streamed = call[1], call[2] is not None


class _Reader(asyncio.StreamReader):
    """Notes the end of the client's side without taking a byte of a next request."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.ended.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.ended.set()


class GeminiStandIn:
    """The server; a context manager. `port` fixes its port, so that it can be started later than its client.

    Attributes:
        requests: The calls for an answer, in the order they came.
        calls_started, calls_finished: Calls that came, and that got all of their scripted answer.
        closed_early: Calls whose client closed the connection before the answer was complete.
        open_calls, max_open_calls: Calls in progress now, and at most.
        open_connections, max_open_connections: Connections open now, idle ones included, and at most.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.requests: list[Recorded] = []
        self.calls_started = 0
        self.calls_finished = 0
        self.closed_early = 0
        self.open_calls = 0
        self.max_open_calls = 0
        self.max_open_connections = 0
        self._changed = threading.Condition()
        self._script: deque[Behaviour] = deque()
        self._default = ECHO
        self._by_text: dict[str, Behaviour] = {}
        self._connections: set[asyncio.StreamWriter] = set()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """The settings of a service that is to use it."""
        return {
            "MODEL": "googleai/gemini-flash-latest",
            "GEMINI_API_KEY": "k",
            "GOOGLE_GEMINI_BASE_URL": self.url,
        }

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def script(self, *behaviours: Behaviour) -> None:
        """The next calls get these, one each; then the default again."""
        self._script.extend(behaviours)

    def default(self, behaviour: Behaviour) -> None:
        """Set the answer to calls without a scripted one."""
        self._default = behaviour

    def when(self, text: str, behaviour: Behaviour) -> None:
        """Set the answer to calls whose request holds this text, whatever is scripted."""
        self._by_text[text] = behaviour

    def wait_for(self, predicate: Callable[[], bool], timeout: float = 30) -> None:
        """Block until `predicate` holds, at most `timeout` seconds; it is looked at after each change here."""
        with self._changed:
            assert self._changed.wait_for(predicate, timeout), "the stand-in never got there"

    def start(self) -> None:
        """Listen; the port is open on return, and stays the same over a stop."""
        listening = socket.create_server(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        serving = self._serve(listening)
        # A daemon, so that a test that forgets to stop it does not keep the test run from ending.
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(serving,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections and close the open ones, whatever they wait for. Does nothing when not started."""
        if self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None
        self._loop.close()

    def pause(self) -> None:
        """The provider goes down; scripts and records are kept."""
        self.stop()

    def resume(self) -> None:
        """The provider is back at the same address."""
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(self, listening: socket.socket) -> None:
        server = await self._loop.create_server(
            lambda: asyncio.StreamReaderProtocol(_Reader(), self._connection), sock=listening
        )
        await self._stop.wait()
        server.close()
        writers = list(self._connections)
        current = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _Reader)
        self._note_connection(writer)
        try:
            while (request := await _read(reader)) is not None:
                if not await self._respond(request, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._note_disconnection(writer)

    async def _respond(self, request: Recorded, reader: _Reader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection may be used for another."""
        if request.model is None:
            await _send(writer, *_catalogue(request))
        elif not await self._answer_while_open(request, reader, writer):
            return False
        return request.headers.get("connection", "").lower() != "close"

    async def _answer_while_open(self, request: Recorded, reader: _Reader, writer: asyncio.StreamWriter) -> bool:
        """Answer, but stop and take note when the client closes before the answer is complete."""
        behaviour = self._note_start(request)
        answering = asyncio.ensure_future(self._answer(behaviour, request, writer))
        leaving = asyncio.ensure_future(reader.ended.wait())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
            finished = not answering.cancelled() and answering.exception() is None
            self._note_end(finished=finished, left=reader.ended.is_set())
        return answering.result()

    def _note_connection(self, writer: asyncio.StreamWriter) -> None:
        with self._changed:
            self._connections.add(writer)
            self.max_open_connections = max(self.max_open_connections, self.open_connections)
            self._changed.notify_all()

    def _note_disconnection(self, writer: asyncio.StreamWriter) -> None:
        with self._changed:
            self._connections.discard(writer)
            self._changed.notify_all()

    def _note_start(self, request: Recorded) -> Behaviour:
        with self._changed:
            self.requests.append(request)
            self.calls_started += 1
            self.open_calls += 1
            self.max_open_calls = max(self.max_open_calls, self.open_calls)
            self._changed.notify_all()
            return self._behaviour_for(request)

    def _behaviour_for(self, request: Recorded) -> Behaviour:
        if self._by_text:
            body = json.dumps(request.body)
            for words, behaviour in self._by_text.items():
                if words in body:
                    return behaviour
        return self._script.popleft() if self._script else self._default

    def _note_end(self, *, finished: bool, left: bool) -> None:
        with self._changed:
            self.open_calls -= 1
            self.calls_finished += finished
            self.closed_early += left and not finished
            self._changed.notify_all()

    async def _answer(self, behaviour: Behaviour, request: Recorded, writer: asyncio.StreamWriter) -> bool:
        """Do as scripted; whether the connection is still good."""
        if behaviour.hang:
            await asyncio.Event().wait()
        if behaviour.reset:
            _reset(writer)
            return False
        if behaviour.raw is not None:
            await _send(writer, 200, behaviour.raw)
        elif behaviour.status != 200:
            await _send(writer, behaviour.status, _error_body(behaviour.status, behaviour.details), behaviour.headers)
        elif request.streamed:
            await self._stream(behaviour, request, writer)
        else:
            await self._send_whole(behaviour, request, writer)
        return behaviour.cut_after is None

    async def _send_whole(self, behaviour: Behaviour, request: Recorded, writer: asyncio.StreamWriter) -> None:
        if behaviour.gate is not None:
            await behaviour.gate.passed()
        answer = _response(behaviour, _parts(behaviour, request), behaviour.finish_reason)
        await _send(writer, 200, json.dumps(answer).encode())

    async def _stream(self, behaviour: Behaviour, request: Recorded, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        async for event in self._events(behaviour, request):
            data = b"data: " + json.dumps(event).encode() + b"\r\n\r\n"
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
        if behaviour.cut_after is None:
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _events(self, behaviour: Behaviour, request: Recorded) -> AsyncIterator[Json]:
        parts = _parts(behaviour, request)
        for number, part in enumerate(parts or [None]):
            if number == behaviour.cut_after:
                return
            if behaviour.gate is not None:
                await behaviour.gate.passed()
            is_last = number >= len(parts) - 1
            yield _response(behaviour, [part] if part else [], behaviour.finish_reason if is_last else None)


async def _read(reader: asyncio.StreamReader) -> Recorded | None:
    """The next request, or None when the client has closed between two."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as end:
        if end.partial:
            raise
        return None
    first, *lines = head.decode().rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split(" ")
    return Recorded(path, json.loads(body or b"{}"), headers, method)


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: tuple[tuple[str, str], ...] = ()
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with an RST: what a lingering time of zero does (socket(7))."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _catalogue(request: Recorded) -> tuple[int, bytes]:
    """Status and body for what is no call for an answer: the list of models, one of them, or nothing known."""
    prefix, _, name = request.path.partition("?")[0].partition("/v1beta/models")
    if prefix or request.method != "GET" or name.strip("/") not in ("", *MODELS):
        return 404, _error_body(404)
    if name.strip("/"):
        return 200, json.dumps(_model(name.strip("/"))).encode()
    return 200, json.dumps({"models": [_model(model) for model in MODELS]}).encode()


def _model(name: str) -> Json:
    return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": ["generateContent"]}


def _response(behaviour: Behaviour, parts: list[Json], finish_reason: str | None) -> Json:
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}
    if behaviour.blocked:
        return {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": usage}
    candidate: Json = {"index": 0, "content": {"role": "model", "parts": parts}}
    if finish_reason is not None:
        candidate["finishReason"] = finish_reason
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "stand-in"}


def _parts(behaviour: Behaviour, request: Recorded) -> list[Json]:
    if behaviour.parts is not None:
        return list(behaviour.parts)
    result = _tool_result(request)
    if behaviour.calls_tool and result is None:
        return [{"functionCall": _first_tool(request)}]
    config = request.body.get("generationConfig", {})
    schema = config.get("responseSchema") or config.get("responseJsonSchema")
    if schema:
        return [{"text": json.dumps(instance(schema, words=result or "stand-in"))}]
    if config.get("responseMimeType") == "application/json":
        return [{"text": "{}"}]
    if result is not None:
        return [{"text": "The tool says "}, {"text": result}]
    return [{"text": word} for word in ("Hello ", "from ", "the ", "stand-in.")]


def _tool_result(request: Recorded) -> str | None:
    """Return the tool's result in the request's last turn, as JSON."""
    last = (request.body.get("contents") or [{}])[-1]
    results = [part["functionResponse"]["response"] for part in last.get("parts", []) if "functionResponse" in part]
    return json.dumps(results[0]) if results else None


def _first_tool(request: Recorded) -> Json:
    tool = request.body["tools"][0]["functionDeclarations"][0]
    # Protobuf's JSON may name a field either way, and the SDK does.
    spellings = ("parameters", "parametersJsonSchema", "parameters_json_schema")
    arguments = instance(next((tool[name] for name in spellings if name in tool), {"type": "OBJECT"}))
    # A function call's arguments are always an object, even when the declaration asks for something else.
    return {"name": tool["name"], "args": arguments if isinstance(arguments, dict) else {}}


def instance(schema: Json, *, words: str = "stand-in", definitions: Json | None = None) -> Any:
    """The smallest value that fits a schema: required properties only, the first choice of several, within limits.

    Args:
        schema: In the dialect of the Gemini API (type names in capitals) or plain JSON Schema with `$ref`s.
        words: What strings say, as far as their length allows.
        definitions: The `$defs` of the schema's root; taken from `schema` when it is the root.
    """
    definitions = definitions or schema.get("$defs", {})

    def inner(part: Json) -> Any:
        return instance(part, words=words, definitions=definitions)

    if "$ref" in schema:
        return inner(definitions[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return inner(schema["anyOf"][0])
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = str(schema.get("type", "OBJECT")).upper()
    if kind == "OBJECT":
        return {name: inner(schema["properties"][name]) for name in schema.get("required", [])}
    if kind == "ARRAY":
        return [inner(schema.get("items", {"type": "STRING"}))] * int(_within(schema, 1, "minItems", "maxItems"))
    return _scalar(kind, schema, words)


def _scalar(kind: str, schema: Json, words: str) -> Any:
    if kind in ("BOOLEAN", "NULL"):
        return True if kind == "BOOLEAN" else None
    if kind in ("INTEGER", "NUMBER"):
        return _within(schema, 1, "minimum", "maximum")
    length = int(_within(schema, len(words), "minLength", "maxLength"))
    return words.ljust(length, ".")[:length]


def _within(schema: Json, value: int, lowest: str, highest: str) -> int | float:
    """`value`, or the limit of the schema that it breaks. Google's JSON writes some limits as strings."""
    fitting = min(value, _number(schema.get(highest, value)))
    return max(fitting, _number(schema.get(lowest, fitting)))


def _number(limit: float | str) -> int | float:
    return int(limit) if isinstance(limit, str) else limit


def _error_body(status: int, details: tuple[Json, ...] = ()) -> bytes:
    described: Json = {
        "code": status,
        "message": f"stand-in says {status}",
        "status": _STATUS_NAMES.get(status, "INTERNAL"),
    }
    if details:
        described["details"] = details
    return json.dumps({"error": described}).encode()
