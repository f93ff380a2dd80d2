"""OpenAI-compatible servers and Ollama: answers, streams and failures come out as the table of errors says.

The servers here speak just the published wire format of one endpoint each, over a real socket.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from src.app_init import build_genkit
from src.bulkhead import Bulkhead
from src.config import load_settings
from src.errors import ModelFailed, TimedOut
from src.llm import Llm
from src.schemas import Translation
from tests.prompts import HELLO

TEXT = "Bonjour le monde"
JSON_TEXT = '{"translated_text":"Bonjour","confidence":"high"}'


class Provider(BaseHTTPRequestHandler):
    """One endpoint; `mode` says how it behaves."""

    protocol_version = "HTTP/1.1"
    mode: ClassVar[str] = "ok"
    release: ClassVar[threading.Event] = threading.Event()

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.mode == "hang":
            self.release.wait(10)
            self.close_connection = True
            return
        if self.mode == "unavailable":
            return self._send(503, "application/json", b'{"error":{"message":"overloaded"}}')
        if self.mode == "garbage":
            return self._send(200, "application/json", b"<html>")
        is_ollama = self.path == "/api/chat"
        wants_json = bool(request.get("response_format") or request.get("format"))
        text = "nonsense" if self.mode == "breaks schema" else JSON_TEXT if wants_json else TEXT
        build = ollama_answer if is_ollama else openai_answer
        media_type, body = build(text, bool(request.get("stream")))
        self._send(200, media_type, body)

    def _send(self, status: int, media_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")  # a client left by a finished event loop keeps no socket open
        self.end_headers()
        self.wfile.write(body)


def openai_answer(text: str, streamed: bool) -> tuple[str, bytes]:
    head = {"id": "1", "created": 1, "model": "m"}
    if not streamed:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        return "application/json", json.dumps({**head, "object": "chat.completion", "choices": [choice]}).encode()
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": word}, None) for word in text.split(" ")]
    lines = [
        json.dumps(
            {
                **head,
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
            }
        )
        for delta, reason in [*deltas, ({}, "stop")]
    ]
    return "text/event-stream", "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


def ollama_answer(text: str, streamed: bool) -> tuple[str, bytes]:
    def message(content: str, done: bool) -> dict[str, Any]:
        ending = {"done_reason": "stop"} if done else {}
        return {
            "model": "m",
            "created_at": "2026-01-01T00:00:00Z",
            "message": {"role": "assistant", "content": content},
            "done": done,
            **ending,
        }

    if not streamed:
        return "application/json", json.dumps(message(text, True)).encode()
    messages = [*(message(word, False) for word in text.split(" ")), message("", True)]
    return "application/x-ndjson", "".join(json.dumps(m) + "\n" for m in messages).encode()


@pytest.fixture
def server() -> Iterator[str]:
    Provider.mode = "ok"
    Provider.release = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        Provider.release.set()
        listening.shutdown()
        thread.join()


@pytest.fixture(params=["openai", "ollama"])
def llm(request: pytest.FixtureRequest, server: str) -> Llm:
    variable = f"{request.param}_base_url"
    settings = load_settings({"debug": True, "model": f"{request.param}/some-model", variable: server})
    return Llm(build_genkit(settings), timeout=5, bulkhead=Bulkhead(8), breaker=None)


def run(work: Awaitable[Any]) -> Any:
    async def scenario() -> Any:
        return await work

    return asyncio.run(scenario())


WAYS: dict[str, Callable[[Llm], Awaitable[Any]]] = {
    "text": lambda llm: llm.text(*HELLO),
    "stream": lambda llm: llm.text(*HELLO, on_text=lambda _: None),
    "structured": lambda llm: llm.structured(Translation, *HELLO),
}


def test_a_text(llm: Llm) -> None:
    assert run(llm.text(*HELLO)) == TEXT


def test_a_structured_answer(llm: Llm) -> None:
    assert run(llm.structured(Translation, *HELLO)) == Translation.model_validate_json(JSON_TEXT)


def test_a_stream(llm: Llm) -> None:
    chunks: list[str] = []
    assert run(llm.text(*HELLO, on_text=chunks.append)) == "".join(chunks) == TEXT.replace(" ", "")
    assert len(chunks) == 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["unavailable", "garbage"])
def test_a_failing_server_is_a_model_failure(llm: Llm, way: str, mode: str) -> None:
    Provider.mode = mode
    with pytest.raises(ModelFailed):
        run(WAYS[way](llm))


def test_an_answer_that_breaks_the_schema_is_a_model_failure(llm: Llm) -> None:
    Provider.mode = "breaks schema"
    with pytest.raises(ModelFailed):
        run(llm.structured(Translation, *HELLO))


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_hangs_ends_with_the_limit(server: str, way: str) -> None:
    Provider.mode = "hang"
    settings = load_settings({"debug": True, "model": "openai/m", "openai_base_url": server})
    with pytest.raises(TimedOut):
        run(WAYS[way](Llm(build_genkit(settings), timeout=0.1, bulkhead=Bulkhead(8), breaker=None)))


def test_a_server_that_was_down_is_used_once_it_is_up(server: str) -> None:
    settings = load_settings({"debug": True, "model": "openai/m", "openai_base_url": server})
    llm = Llm(build_genkit(settings), timeout=5, bulkhead=Bulkhead(8), breaker=None)

    async def scenario() -> str:
        Provider.mode = "unavailable"
        with pytest.raises(ModelFailed):
            await llm.text(*HELLO)
        Provider.mode = "ok"
        return await llm.text(*HELLO)

    assert run(scenario()) == TEXT
