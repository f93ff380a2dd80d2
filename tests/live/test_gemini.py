"""The service against the Gemini API: what each thing that can happen there gives over REST and over gRPC."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from testing.fakes import gemini
from testing.fakes.gemini import Behaviour, Gate, GeminiStandIn
from testing.ports import free_port
from testing.service import Service
from testing.small_service import pb

# One call of the model for each request, whatever came before.
UNGUARDED = {"CB_ENABLED": "false", "CACHE_ENABLED": "false"}
MODEL = {"MODEL": "googleai/gemini-flash-latest", "GEMINI_API_KEY": "canary-key"}


@pytest.fixture(scope="module")
def running(shared_upstream: GeminiStandIn) -> Iterator[Service]:
    model = shared_upstream.env | MODEL
    with Service(**model, **UNGUARDED, LLM_TIMEOUT="1500") as service:
        yield service


@pytest.fixture
def service(running: Service, upstream: GeminiStandIn) -> Service:
    upstream.requests.clear()
    upstream.default(gemini.ECHO)
    return running


def rest_stream(service: Service, path: str = "/tell-story/stream") -> list[Any]:
    """The events' data, in order; a failure is the last one."""
    body = service.http.post(path, json={}).text
    return [json.loads(block.rpartition("data: ")[2]) for block in body.strip().split("\n\n")]


def grpc_stream(service: Service) -> tuple[list[str], grpc.StatusCode]:
    """The chunks that came, and the status that the stream ended with."""
    call = service.stub.TellStory(pb.StoryRequest())
    chunks: list[str] = []
    try:
        chunks.extend(chunk.text for chunk in call)
    except grpc.RpcError as error:
        return chunks, error.code()
    return chunks, grpc.StatusCode.OK


def grpc_status(call: Any, request: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(request)
    assert "stand-in" not in str(caught.value.details())
    return caught.value.code()


def test_a_text(service: Service) -> None:
    assert service.http.post("/chat", json={}).json()["answer"] == "Hello from the stand-in."
    assert service.stub.PirateChat(pb.ChatRequest()).answer == "Hello from the stand-in."


def test_the_system_prompt_and_the_key_reach_gemini(service: Service, upstream: GeminiStandIn) -> None:
    service.http.post("/chat", json={"question": "  why?  "})
    sent = upstream.requests[-1]
    assert "pirate captain" in json.dumps(sent.body["systemInstruction"])
    assert sent.body["contents"][-1]["parts"][0]["text"] == "why?"
    assert sent.headers["x-goog-api-key"] == "canary-key"


def test_free_text_is_cut_before_it_goes_to_gemini(service: Service, upstream: GeminiStandIn) -> None:
    service.http.post("/chat", json={"question": "q" * 5000})
    assert upstream.requests[-1].body["contents"][-1]["parts"][0]["text"] == "q" * 2000


def test_authorization_never_reaches_gemini(service: Service, upstream: GeminiStandIn) -> None:
    service.http.post("/chat", json={}, headers={"authorization": "Bearer canary-token"})
    service.stub.PirateChat(pb.ChatRequest(), metadata=(("authorization", "Bearer canary-token"),))
    assert len(upstream.requests) == 2
    assert "canary-token" not in str(upstream.requests)


def test_a_structured_answer(service: Service) -> None:
    translation = service.http.post("/translate", json={"text": "Ada"}).json()
    assert translation["original_text"] == "Ada"
    assert set(translation) == {"original_text", "translated_text", "target_language", "confidence"}
    assert service.stub.TranslateText(pb.TranslateRequest()).confidence in ("high", "medium", "low")


def test_a_tool_round_trip(service: Service, upstream: GeminiStandIn) -> None:
    upstream.script(gemini.tool_call("get_current_time"))
    assert service.http.post("/translate", json={"text": "What time is it?"}).status_code == 200
    asked, answered = upstream.requests
    assert "get_current_time" in json.dumps(asked.body["tools"])
    assert "functionResponse" in json.dumps(answered.body["contents"])


def test_an_image_is_sent_inline(service: Service, upstream: GeminiStandIn) -> None:
    assert service.http.post("/describe-image", json={}).status_code == 200
    assert "image/png" in json.dumps(upstream.requests[-1].body["contents"][0]["parts"][1]["inlineData"])


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/x.png", "file:///etc/passwd", "http://169.254.169.254/"])
def test_a_refused_image_url_is_invalid_input_and_no_call_is_made(
    service: Service, upstream: GeminiStandIn, url: str
) -> None:
    url = url.format(port=upstream.port)
    answer = service.http.post("/describe-image", json={"image_url": url})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "image_url"]
    assert grpc_status(service.stub.DescribeImage, pb.ImageRequest(image_url=url)) == grpc.StatusCode.INVALID_ARGUMENT
    assert upstream.requests == []


TRANSLATION = {"translated_text": "bonjour", "confidence": "high"}

FAILURES = [
    pytest.param(gemini.error(503), 502, "UNAVAILABLE", id="503"),
    pytest.param(gemini.error(500), 502, "UNAVAILABLE", id="500"),
    pytest.param(gemini.error(429, retry_after="7"), 502, "UNAVAILABLE", id="429"),
    pytest.param(gemini.error(400), 502, "UNAVAILABLE", id="400"),
    pytest.param(gemini.error(403), 502, "UNAVAILABLE", id="403"),
    pytest.param(gemini.HANG, 504, "DEADLINE_EXCEEDED", id="hang"),
    pytest.param(gemini.GARBAGE, 502, "UNAVAILABLE", id="garbage"),
    pytest.param(gemini.text(""), 502, "UNAVAILABLE", id="empty text"),
    pytest.param(gemini.BLOCKED_PROMPT, 422, "FAILED_PRECONDITION", id="prompt blocked"),
    pytest.param(gemini.BLOCKED_ANSWER, 422, "FAILED_PRECONDITION", id="answer blocked"),
]


@pytest.mark.parametrize(("behaviour", "status", "code"), FAILURES)
def test_a_failure_is_told_by_the_table(
    service: Service, upstream: GeminiStandIn, behaviour: Behaviour, status: int, code: str
) -> None:
    upstream.default(behaviour)
    for path, call, request in (
        ("/chat", service.stub.PirateChat, pb.ChatRequest()),
        ("/translate", service.stub.TranslateText, pb.TranslateRequest()),
    ):
        answer = service.http.post(path, json={})
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert "stand-in" not in answer.text
        assert grpc_status(call, request) == grpc.StatusCode[code]


@pytest.mark.parametrize(("behaviour", "status", "code"), FAILURES)
def test_a_stream_that_fails_before_its_first_chunk_ends_with_an_error_event(
    service: Service, upstream: GeminiStandIn, behaviour: Behaviour, status: int, code: str
) -> None:
    upstream.default(behaviour)
    assert [event["status"] for event in rest_stream(service)] == [status]
    assert grpc_stream(service) == ([], grpc.StatusCode[code])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(json.dumps({**TRANSLATION, "confidence": "absolute"}), id="unknown confidence"),
        pytest.param("Sure! Here you are.", id="no JSON"),
        pytest.param('{"confidence": "low"', id="cut off"),
    ],
)
def test_an_answer_that_breaks_the_schema_is_a_model_failure(
    service: Service, upstream: GeminiStandIn, text: str
) -> None:
    upstream.default(gemini.text(text))
    assert service.http.post("/translate", json={}).status_code == 502
    assert grpc_status(service.stub.TranslateText, pb.TranslateRequest()) == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(gemini.text("one ", "two ", "three", cut_after=2), id="connection cut"),
        pytest.param(gemini.text("one ", "two ", finish_reason=None), id="no reason given"),
        pytest.param(gemini.text("one ", "two ", finish_reason="SAFETY"), id="blocked midway"),
    ],
)
def test_a_stream_that_breaks_midway_ends_with_an_error_after_its_chunks(
    service: Service, upstream: GeminiStandIn, behaviour: Behaviour
) -> None:
    upstream.default(behaviour)
    *chunks, last = rest_stream(service)
    assert chunks == [{"chunk": "one "}, {"chunk": "two "}]
    assert last["status"] in (502, 422)
    chunks_over_grpc, status = grpc_stream(service)
    assert chunks_over_grpc == ["one ", "two "]
    assert status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION)


def test_a_text_that_was_cut_off_at_the_limit_says_so(service: Service, upstream: GeminiStandIn) -> None:
    for behaviour, mark in ((gemini.CUT_SHORT, "1"), (gemini.ECHO, None)):
        upstream.default(behaviour)
        assert service.http.post("/chat", json={}).headers.get("x-truncated") == mark
        assert rest_stream(service)[-1].get("truncated", False) == bool(mark)
        _, unary = service.stub.PirateChat.with_call(pb.ChatRequest())
        stream = service.stub.TellStory(pb.StoryRequest())
        list(stream)
        for call in (unary, stream):
            assert dict(call.trailing_metadata()).get("x-truncated") == mark


def test_a_structured_answer_that_was_cut_off_is_a_failure(service: Service, upstream: GeminiStandIn) -> None:
    whole = json.dumps(TRANSLATION)
    upstream.default(gemini.text(whole))
    assert service.http.post("/translate", json={}).status_code == 200
    for text in (whole, whole[:-10]):
        upstream.default(gemini.text(text, finish_reason="MAX_TOKENS"))
        assert service.http.post("/translate", json={}).status_code == 502


def test_the_limit_of_tokens_goes_with_every_call(service: Service, upstream: GeminiStandIn) -> None:
    for path in ("/chat", "/tell-story/stream", "/translate", "/describe-image"):
        service.http.post(path, json={})
        assert upstream.requests[-1].body["generationConfig"]["maxOutputTokens"] == 8192


@pytest.mark.parametrize("accepted", ["identity", "gzip"])
def test_each_chunk_leaves_when_it_comes(service: Service, upstream: GeminiStandIn, accepted: str) -> None:
    gate = Gate()
    upstream.script(gemini.text("one ", "two", gate=gate))
    headers = {"accept-encoding": accepted}
    with service.http.stream("POST", "/tell-story/stream", json={}, headers=headers) as answer:
        assert answer.status_code == 200, "the headers come before the first chunk"
        lines = answer.iter_lines()
        for chunk in ("one ", "two"):
            gate.release()
            assert json.loads(next(lines).removeprefix("data: ")) == {"chunk": chunk}
            assert next(lines) == ""
        assert json.loads(next(lines).removeprefix("data: ")) == {"done": True, "story": "one two"}


def test_a_client_that_leaves_ends_the_call_to_gemini(service: Service, upstream: GeminiStandIn) -> None:
    for expected, leave in enumerate((leave_rest, leave_rest_stream, leave_grpc, leave_grpc_stream), 1):
        before = upstream.closed_early
        upstream.script(gemini.HANG)
        leave(service, upstream, expected)
        upstream.wait_for(lambda before=before: upstream.closed_early == before + 1, timeout=1.4)  # type: ignore[misc]


def leave_rest(service: Service, upstream: GeminiStandIn, expected: int) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        head = "POST /chat HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n"
        client.sendall(f"{head}{{}}".encode())
        upstream.wait_for(lambda: len(upstream.requests) == expected)


def leave_rest_stream(service: Service, upstream: GeminiStandIn, expected: int) -> None:
    with service.http.stream("POST", "/tell-story/stream", json={}):
        upstream.wait_for(lambda: len(upstream.requests) == expected)


def leave_grpc(service: Service, upstream: GeminiStandIn, expected: int) -> None:
    call = service.stub.PirateChat.future(pb.ChatRequest())
    upstream.wait_for(lambda: len(upstream.requests) == expected)
    call.cancel()


def leave_grpc_stream(service: Service, upstream: GeminiStandIn, expected: int) -> None:
    call = service.stub.TellStory(pb.StoryRequest())
    upstream.wait_for(lambda: len(upstream.requests) == expected)
    call.cancel()


def test_nothing_of_prompts_answers_or_keys_is_logged(service: Service, upstream: GeminiStandIn) -> None:
    upstream.script(gemini.text("canary-answer"), gemini.error(503), gemini.text("canary-answer {"))
    service.http.post("/chat", json={"question": "canary-question"})
    service.http.post("/chat", json={"question": "canary-question"})
    service.http.post("/translate", json={"text": "canary-question"})
    assert "canary" not in service.output()


def test_a_provider_that_is_down_at_start_is_used_once_it_is_up() -> None:
    port = free_port()
    with Service(**MODEL, GOOGLE_GEMINI_BASE_URL=f"http://127.0.0.1:{port}") as service:
        assert service.http.post("/chat", json={}).status_code == 502
        assert grpc_status(service.stub.PirateChat, pb.ChatRequest()) == grpc.StatusCode.UNAVAILABLE
        with GeminiStandIn(port):
            assert service.http.post("/chat", json={}).status_code == 200
            assert service.stub.PirateChat(pb.ChatRequest()).answer
