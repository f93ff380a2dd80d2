"""OpenAI-compatible servers and Ollama: answers, streams and failures come out as the table of errors says.

The servers here speak just the published wire format of one endpoint each, over a real socket.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, cast

import pytest
from pydantic import ValidationError

from src.app_init import build_genkit
from src.bulkhead import Bulkhead
from src.config import load_settings
from src.errors import ModelFailed, TimedOut
from src.flows import Flows
from src.image_fetch import ImageFetcher
from src.llm import Llm
from src.schemas import ChatRequest, CodeReviewRequest, ImageRequest, StoryRequest, TranslateRequest, Translation
from src.util.text import well_formed
from tests.hostile_texts import hostile_texts
from tests.prompts import HELLO

TEXT = "Bonjour le monde"
JSON_TEXT = '{"translated_text":"Bonjour","confidence":"high"}'


class Provider(BaseHTTPRequestHandler):
    """One endpoint; `mode` says how it behaves."""

    protocol_version = "HTTP/1.1"
    mode: ClassVar[str] = "ok"
    release: ClassVar[threading.Event] = threading.Event()
    requests: ClassVar[list[dict[str, Any]]] = []

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.requests.append(request)
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
    Provider.requests = []
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


class Ctx:
    """Takes chunks."""

    def send_chunk(self, _text: str) -> None:
        """Nobody reads them."""


# One flow of each kind, asked with a text.
KINDS: dict[str, Callable[[Flows, str], Awaitable[Any]]] = {
    "text": lambda flows, text: flows.pirate_chat(ChatRequest(question=text)),
    "stream": lambda flows, text: flows.tell_story(StoryRequest(topic=text), cast("Any", Ctx())),
    "structured": lambda flows, text: flows.translate_text(TranslateRequest(text=text)),
    "prompt file": lambda flows, text: flows.review_code(CodeReviewRequest(code=text)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_stands_as_written_in_the_one_user_message(llm: Llm, kind: str) -> None:
    """These two get the texts of a message as one string."""
    flows = Flows(llm, ImageFetcher())

    async def ask(text: str) -> Any:
        Provider.requests.clear()
        with suppress(ValidationError):
            asking = KINDS[kind](flows, text)
            with suppress(ModelFailed):  # the answer fits one schema only
                await asking
            return Provider.requests[0]["messages"]
        return None

    async def scenario() -> list[Any]:
        rest_of_the_requests = []
        for text in hostile_texts("http://127.0.0.1:9/x.png").values():
            messages = await ask(text)
            if messages is None:
                continue
            sound = well_formed(text)
            kept = sound if kind == "prompt file" else sound.strip()[:2000]
            system, user = messages
            assert (system["role"], user["role"]) == ("system", "user")
            assert user["content"].count(kept) == 1
            assert not user.get("images")
            rest_of_the_requests.append((system, user["content"].replace(kept, "...")))
        return rest_of_the_requests

    first, *others = run(scenario())
    assert len(others) > 20
    assert all(each == first for each in others), "nothing else depends on the text"


def test_an_image_is_sent_as_its_bytes(llm: Llm) -> None:
    run(Flows(llm, ImageFetcher()).describe_image(ImageRequest()))
    user = Provider.requests[0]["messages"][1]
    assert "iVBORw0KGgo" in json.dumps(user)
    assert "Describe this image." in json.dumps(user)
