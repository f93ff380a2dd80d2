"""A stand-in for the Gemini API on loopback, for a service that runs in another process.

It speaks the public REST format (`v1beta`): `models`, `generateContent` and `streamGenerateContent?alt=sse`. What
each call gets is scripted by the test; what came in, and which connections closed early, can be read by it.
"""

import asyncio
import json
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Self

Json = dict[str, Any]


@dataclass(frozen=True)
class Behaviour:
    """How one call is answered.

    Attributes:
        parts: The answer's parts; a streamed call gets one chunk a part. None: made up from the request.
        finish_reason: Of the last chunk; None leaves it out.
        status, headers: Anything but 200 is answered with an error body.
        raw: This body instead, whatever the request.
        blocked: The prompt is blocked: feedback and no candidate.
        hang: Never answer.
        cut_after: Close the connection after so many chunks, without ending the body.
        gate: Each chunk, and a unary answer, waits until the test lets one more through.
    """

    parts: tuple[Json, ...] | None = None
    finish_reason: str | None = "STOP"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    raw: bytes | None = None
    blocked: bool = False
    hang: bool = False
    cut_after: int | None = None
    gate: "Gate | None" = None


class Gate:
    """Lets answers through one by one, as the test says."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)

    def release(self, count: int = 1) -> None:
        """Let `count` more chunks through."""
        self._permits.release(count)

    async def passed(self) -> None:
        """Wait for a permit, without blocking the loop."""
        while not self._permits.acquire(blocking=False):
            await asyncio.sleep(0.002)


def text(*chunks: str, **options: Any) -> Behaviour:
    """These chunks; over a unary call all of them at once."""
    return Behaviour(parts=tuple({"text": chunk} for chunk in chunks), **options)


def tool_call(name: str, **arguments: Any) -> Behaviour:
    """The model asks for a tool."""
    return Behaviour(parts=({"functionCall": {"name": name, "args": arguments}},))


def error(status: int, **headers: str) -> Behaviour:
    """An error as Google's APIs write it."""
    return Behaviour(status=status, headers=tuple((name.replace("_", "-"), v) for name, v in headers.items()))


HANG = Behaviour(hang=True)
GARBAGE = Behaviour(raw=b"<html>busy</html>")
BLOCKED_PROMPT = Behaviour(blocked=True)
BLOCKED_ANSWER = Behaviour(parts=(), finish_reason="SAFETY")
ECHO = Behaviour()


@dataclass
class Recorded:
    """A call as it came in."""

    path: str
    body: Json
    headers: dict[str, str]
    streamed: bool = field(init=False)

    def __post_init__(self) -> None:
        self.streamed = ":streamGenerateContent" in self.path


class GeminiStandIn:
    """The server; a context manager. `port` fixes its port, so that it can be started later than its client."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.requests: list[Recorded] = []
        self.closed_early = 0
        self.open_calls = 0
        self.max_open_calls = 0
        self._changed = threading.Condition()
        self._script: deque[Behaviour] = deque()
        self._default = ECHO
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, *behaviours: Behaviour) -> None:
        """The next calls get these, one each; then the default again."""
        self._script.extend(behaviours)

    def default(self, behaviour: Behaviour) -> None:
        """What a call gets when nothing is scripted."""
        self._default = behaviour

    def wait_for(self, predicate: Callable[[], bool], timeout: float = 10) -> None:
        """Block until `predicate` holds; it is looked at after each change here."""
        with self._changed:
            assert self._changed.wait_for(predicate, timeout), "the stand-in never got there"

    def __enter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(listening),))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self, listening: socket.socket) -> None:
        server = await asyncio.start_server(self._connection, sock=listening)
        await self._stop.wait()
        server.close()
        current = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in list(self._connections):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while (request := await self._read(reader)) is not None:
                await self._answer_while_open(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Recorded | None:
        head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
        if not head:
            return None
        first, *lines = head.decode().rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Recorded(first.split(" ")[1], json.loads(body or b"{}"), headers)

    async def _answer_while_open(
        self, request: Recorded, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer, but stop and take note when the client closes before the answer is complete."""
        if "generateContent" not in request.path and "streamGenerateContent" not in request.path:
            return await _send(writer, 200, json.dumps({"models": []}).encode())
        behaviour = self._note_start(request)
        answering = asyncio.ensure_future(self._answer(behaviour, request, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        early = not answering.done()
        answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)
        self._note_end(early)
        if early or behaviour.cut_after is not None:
            raise ConnectionError

    def _note_start(self, request: Recorded) -> Behaviour:
        with self._changed:
            self.requests.append(request)
            self.open_calls += 1
            self.max_open_calls = max(self.max_open_calls, self.open_calls)
            self._changed.notify_all()
            return self._script.popleft() if self._script else self._default

    def _note_end(self, early: bool) -> None:
        with self._changed:
            self.open_calls -= 1
            self.closed_early += early
            self._changed.notify_all()

    async def _answer(self, behaviour: Behaviour, request: Recorded, writer: asyncio.StreamWriter) -> None:
        if behaviour.hang:
            await asyncio.Event().wait()
        if behaviour.raw is not None:
            return await _send(writer, 200, behaviour.raw)
        if behaviour.status != 200:
            return await _send(writer, behaviour.status, _error_body(behaviour.status), behaviour.headers)
        if request.streamed:
            return await self._stream(behaviour, request, writer)
        if behaviour.gate is not None:
            await behaviour.gate.passed()
        parts = _parts(behaviour, request)
        await _send(writer, 200, json.dumps(_response(behaviour, parts, behaviour.finish_reason)).encode())

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


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: tuple[tuple[str, str], ...] = ()
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{lines}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


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
    config = request.body.get("generationConfig", {})
    schema = config.get("responseSchema") or config.get("responseJsonSchema")
    if schema:
        return [{"text": json.dumps(instance(schema))}]
    return [{"text": word} for word in ("Hello ", "from ", "the ", "stand-in.")]


def instance(schema: Json) -> Any:
    """A value that fits a schema in the dialect of the Gemini API (type names in capitals, no references)."""
    if schema.get("enum"):
        return schema["enum"][0]
    if "anyOf" in schema:
        return instance(schema["anyOf"][0])
    kind = str(schema.get("type", "OBJECT")).upper()
    if kind == "OBJECT":
        return {name: instance(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "ARRAY":
        return [instance(schema.get("items", {"type": "STRING"}))]
    if kind in ("INTEGER", "NUMBER"):
        return schema.get("minimum", 1) or 1
    return True if kind == "BOOLEAN" else "stand-in"


def _error_body(status: int) -> bytes:
    names = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
    return json.dumps(
        {"error": {"code": status, "message": f"stand-in says {status}", "status": names.get(status, "INTERNAL")}}
    ).encode()
