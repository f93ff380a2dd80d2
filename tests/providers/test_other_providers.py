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
from src.errors import ModelFailed, TimedOut
from src.images.fetch import ImageFetcher
from src.llm import Llm
from src.marks import collecting_marks
from src.prompt import CallerText, PromptFile
from src.settings_loader import load_settings
from src.util.surrogates import replace_lone_surrogates
from testing.small_service import ChatRequest, Flows, ImageRequest, StoryRequest, TranslateRequest, Translation
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
    body: ClassVar[tuple[str, bytes] | None] = None

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
        if self.body is not None:
            return self._send(200, *self.body)
        wants_json = bool(request.get("response_format") or request.get("format"))
        text = "nonsense" if self.mode == "breaks schema" else JSON_TEXT if wants_json else TEXT
        media_type, body = ANSWERS[NAMES[self.path]](text, bool(request.get("stream")))
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


NAMES = {
    "/chat/completions": "openai",
    "/api/chat": "ollama",
}
ANSWERS = {
    "openai": openai_answer,
    "ollama": ollama_answer,
}


@pytest.fixture
def server() -> Iterator[str]:
    Provider.mode = "ok"
    Provider.release = threading.Event()
    Provider.requests = []
    Provider.body = None
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        Provider.release.set()
        listening.shutdown()
        thread.join()


def llm_at(server: str, provider: str = next(iter(ANSWERS)), timeout: float = 5) -> Llm:
    settings = load_settings({"debug": True, "model": f"{provider}/some-model", f"{provider}_base_url": server})
    return Llm(build_genkit(settings), timeout=timeout, bulkhead=Bulkhead(8), breaker=None)


@pytest.fixture(params=ANSWERS)
def llm(request: pytest.FixtureRequest, server: str) -> Llm:
    return llm_at(server, request.param)


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
    with pytest.raises(TimedOut):
        run(WAYS[way](llm_at(server, timeout=0.1)))


def test_a_server_that_was_down_is_used_once_it_is_up(server: str) -> None:
    llm = llm_at(server)

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
KINDS: dict[str, Callable[[Llm, Flows, str], Awaitable[Any]]] = {
    "text": lambda _, flows, text: flows.pirate_chat(ChatRequest(question=text)),
    "stream": lambda _, flows, text: flows.tell_story(StoryRequest(topic=text), cast("Any", Ctx())),
    "structured": lambda _, flows, text: flows.translate_text(TranslateRequest(text=text)),
    "prompt file": lambda llm, _, text: llm.from_prompt_file(Translation, PromptFile("review"), CallerText(text)),
}


@pytest.mark.usefixtures("prompt_files")
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_stands_as_written_in_the_one_user_message(llm: Llm, kind: str) -> None:
    """These two get the texts of a message as one string."""
    flows = Flows(llm, ImageFetcher())

    async def ask(text: str) -> Any:
        Provider.requests.clear()
        with suppress(ValidationError):
            asking = KINDS[kind](llm, flows, text)
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
            sound = replace_lone_surrogates(text)
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


LIMITS: dict[str, Callable[[dict[str, Any]], int]] = {
    "openai/some-model": lambda request: request["max_tokens"],
    "openai/gpt-5-mini": lambda request: request["max_completion_tokens"],
    "ollama/some-model": lambda request: request["options"]["num_predict"],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", LIMITS)
def test_the_limit_of_tokens_goes_with_every_call(server: str, model: str, way: str) -> None:
    base_url = f"{model.partition('/')[0]}_base_url"
    settings = load_settings({"debug": True, "model": model, "max_output_tokens": 77, base_url: server})
    run(WAYS[way](Llm(build_genkit(settings), timeout=5, bulkhead=Bulkhead(8), breaker=None)))
    assert LIMITS[model](Provider.requests[0]) == 77


def ending(provider: str, text: str, reason: str | None, *, streamed: bool) -> tuple[str, bytes]:
    """An answer that ends for this reason; None: it breaks off, as far as HTTP knows in good order."""
    media_type, body = ANSWERS[provider](text, streamed)
    if reason is not None:
        return media_type, body.replace(b'"stop"', json.dumps(reason).encode())
    if provider == "ollama":
        return media_type, body.replace(b'"done": true, "done_reason": "stop"', b'"done": false')
    return media_type, body.replace(b'"stop"', b"null")


@pytest.fixture
def provider(llm: Llm, request: pytest.FixtureRequest) -> str:
    """The name of the provider behind `llm`."""
    name: str = request.node.callspec.params["llm"]
    return name


@pytest.mark.parametrize("streamed", [False, True])
def test_a_text_that_was_cut_off_at_the_limit_is_marked(llm: Llm, provider: str, streamed: bool) -> None:
    on_text = (lambda _: None) if streamed else None

    async def ask(reason: str) -> tuple[str, bool]:
        Provider.body = ending(provider, TEXT, reason, streamed=streamed)
        with collecting_marks() as marks:
            return await llm.text(*HELLO, on_text=on_text), marks.truncated

    assert not run(ask("stop"))[1]
    text, truncated = run(ask("length"))
    assert text.startswith("Bonjour")
    assert truncated


@pytest.mark.parametrize("text", [JSON_TEXT, JSON_TEXT[:-2], JSON_TEXT[:-1]])
def test_a_structured_answer_that_was_cut_off_is_a_failure(llm: Llm, provider: str, text: str) -> None:
    """Even where what is there makes sense."""
    Provider.body = ending(provider, text, "length", streamed=False)
    with pytest.raises(ModelFailed):
        run(llm.structured(Translation, *HELLO))


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_without_its_end_is_a_failure(llm: Llm, provider: str, way: str) -> None:
    text = JSON_TEXT if way == "structured" else TEXT
    Provider.body = ending(provider, text, None, streamed=way == "stream")
    with pytest.raises(ModelFailed):
        run(WAYS[way](llm))


ODD = "a\u2028b\u2029c\x85d"


@pytest.mark.parametrize("streamed", [False, True])
def test_line_separators_and_half_pairs_in_an_answer_are_no_failure(llm: Llm, provider: str, streamed: bool) -> None:
    on_text = (lambda _: None) if streamed else None
    media_type, body = ending(provider, f"{ODD}\ud83d", "stop", streamed=streamed)
    for odd in "\u2028\u2029\x85":
        body = body.replace(json.dumps(odd).strip('"').encode(), odd.encode())  # raw, as JSON allows
    Provider.body = (media_type, body)
    assert run(llm.text(*HELLO, on_text=on_text)) == f"{ODD}\ufffd"


def test_comments_and_missing_spaces_in_an_event_stream_of_openai_are_no_failure(server: str) -> None:
    media_type, body = openai_answer(TEXT, True)
    Provider.body = (media_type, b": keep-alive\r\n\r\n" + body.replace(b"data: ", b"id:1\ndata:"))
    llm = llm_at(server, "openai")
    assert run(llm.text(*HELLO, on_text=lambda _: None)) == TEXT.replace(" ", "")


def test_a_tool_without_arguments_has_a_schema_that_openai_takes(server: str) -> None:
    llm = llm_at(server, "openai")
    run(Flows(llm, ImageFetcher()).translate_text(TranslateRequest()))
    [tool] = Provider.requests[0]["tools"]
    assert tool["function"]["strict"]
    schema = tool["function"]["parameters"]
    assert (schema["type"], schema["properties"], schema["additionalProperties"]) == ("object", {}, False)
