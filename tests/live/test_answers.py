"""Every answer that the service can give, over a real socket in production mode: hardened, traceable, in one piece."""

import socket
from collections.abc import Iterator
from typing import Any, BinaryIO

import grpc
import httpx
import pytest

from testing.fakes import gemini
from testing.fakes.gemini import Behaviour, GeminiStandIn
from testing.service import COMMANDS, Service
from testing.small_service import pb
from tests.test_security import REQUIRED

ORIGIN = "https://app.test"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}


@pytest.fixture(scope="module")
def service(shared_upstream: GeminiStandIn) -> Iterator[Service]:
    with Service(**shared_upstream.env, TRUSTED_HOSTS="api.test", CORS_ALLOWED_ORIGINS=ORIGIN) as running:
        yield running


@pytest.fixture(scope="module")
def limited() -> Iterator[Service]:
    with Service(TRUSTED_HOSTS="api.test", RATE_LIMIT_DEFAULT="1/day") as running:
        send(running, "POST", "/chat", json={})
        yield running


@pytest.fixture(scope="module")
def broken() -> Iterator[Service]:
    command = [part.replace("src.asgi", "tests.live.broken") for part in COMMANDS["granian"]]
    with Service(command, TRUSTED_HOSTS="api.test") as running:
        yield running


def send(service: Service, method: str, path: str, **options: Any) -> httpx.Response:
    """One request over a connection of its own: some answers end theirs."""
    headers = {"host": "api.test"} | options.pop("headers", {})
    with httpx.Client(base_url=service.rest_url, trust_env=False, verify=False) as client:
        return client.request(method, path, headers=headers, **options)


def chunked() -> Iterator[bytes]:
    for _ in range(20):
        yield b"x" * 65_536


def assert_sealed(answer: httpx.Response) -> None:
    for name, value in REQUIRED.items():
        assert answer.headers.get_list(name) == [value], name
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert all(value for value in answer.headers.values())
    text = str(answer.headers).lower()
    assert not any(name in text for name in ("granian", "uvicorn", "fastapi", "starlette", "python"))


ANSWERS = [
    pytest.param("POST", "/chat", {"json": {}}, 200, id="200"),
    pytest.param("GET", "/health", {}, 200, id="health"),
    pytest.param("GET", "/health", {"headers": {"host": "10.0.0.1"}}, 200, id="health by address"),
    pytest.param("POST", "/tell-story/stream", {"json": {}}, 200, id="SSE"),
    pytest.param("POST", "/chat", {"json": {}, "headers": {"origin": ORIGIN}}, 200, id="cross-origin"),
    pytest.param("OPTIONS", "/chat", {"headers": PREFLIGHT | {"origin": ORIGIN}}, 200, id="preflight"),
    pytest.param("OPTIONS", "/chat", {"headers": PREFLIGHT | {"origin": "https://evil.test"}}, 400, id="preflight no"),
    pytest.param("POST", "/chat", {"json": {}, "headers": {"host": "evil.test"}}, 400, id="400 host"),
    pytest.param("GET", "/nowhere", {}, 404, id="404"),
    pytest.param("GET", "/docs", {}, 404, id="404 docs"),
    pytest.param("GET", "/chat", {}, 405, id="405"),
    pytest.param("HEAD", "/chat", {}, 405, id="HEAD"),
    pytest.param("BREW", "/chat", {}, 405, id="unknown method"),
    pytest.param("POST", "/chat", {"content": b"x" * 1_048_577}, 413, id="413 declared"),
    pytest.param(
        "POST", "/chat", {"content": chunked(), "headers": {"content-type": "application/json"}}, 413, id="413 streamed"
    ),
    pytest.param("POST", "/chat", {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, id="415"),
    pytest.param("POST", "/chat", {"json": {"question": ""}}, 422, id="422"),
    pytest.param(
        "POST", "/chat", {"content": b"{", "headers": {"content-type": "application/json"}}, 422, id="422 JSON"
    ),
    pytest.param("POST", "/describe-image", {"json": {"image_url": "http://localhost/"}}, 422, id="422 by the flow"),
]


@pytest.mark.parametrize(("method", "path", "options", "status"), ANSWERS)
def test_an_answer_of_the_service(service: Service, method: str, path: str, options: Any, status: int) -> None:
    answer = send(service, method, path, **options)
    assert answer.status_code == status
    assert_sealed(answer)


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        pytest.param(gemini.error(503), 502, id="502"),
        pytest.param(gemini.BLOCKED_ANSWER, 422, id="422 blocked"),
    ],
)
def test_an_answer_about_the_model(
    service: Service, upstream: GeminiStandIn, behaviour: Behaviour, status: int
) -> None:
    upstream.script(behaviour)
    answer = send(service, "POST", "/chat", json={})
    assert answer.status_code == status
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert_sealed(answer)


def test_the_answer_about_a_model_that_hangs() -> None:
    """Under a time limit of its own, which other answers, the first one above all, may exceed on a busy machine."""
    with GeminiStandIn() as silent:
        silent.default(gemini.HANG)
        with Service(**silent.env, TRUSTED_HOSTS="api.test", LLM_TIMEOUT="200") as impatient:
            answer = send(impatient, "POST", "/chat", json={})
    assert answer.status_code == 504
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert_sealed(answer)


def test_the_answer_of_an_open_circuit(upstream: GeminiStandIn) -> None:
    upstream.script(gemini.error(503))
    with Service(**upstream.env, TRUSTED_HOSTS="api.test", CB_FAILURE_THRESHOLD="1") as suspended:
        assert [send(suspended, "POST", "/chat", json={}).status_code for _ in range(2)] == [502, 503]
        answer = send(suspended, "POST", "/chat", json={})
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert answer.json()["type"] == "urn:problem:circuit-open"
    assert_sealed(answer)


def test_the_answer_over_the_rate(limited: Service) -> None:
    answer = send(limited, "POST", "/chat", json={}, headers={"origin": ORIGIN})
    assert answer.status_code == 429
    assert answer.headers["retry-after"].isdigit()
    assert_sealed(answer)


def test_the_answer_to_a_bug_of_ours(broken: Service) -> None:
    answer = send(broken, "POST", "/chat", json={})
    assert answer.status_code == 500
    assert_sealed(answer)
    with pytest.raises(grpc.RpcError) as caught:
        broken.stub.PirateChat(pb.ChatRequest())
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    told = answer.text + str(answer.headers) + str(caught.value) + str(caught.value.trailing_metadata())
    assert not any(word in told for word in ("canary", "Lookup", "Traceback", ".py", "src."))
    trailers: Any = caught.value.trailing_metadata()
    broken.access_line(dict(trailers)["x-request-id"])  # the lines before it are written too
    assert broken.output().count('"event":"internal error"') == 2, "the log is where it is told"


def test_a_bug_in_mid_stream_ends_the_stream(broken: Service) -> None:
    answer = send(broken, "POST", "/tell-story/stream", json={})
    assert answer.status_code == 200
    assert_sealed(answer)
    events = answer.text.split("\n\n")
    assert events[0] == 'data: {"chunk":"once"}'
    assert events[1].startswith('event: error\ndata: {"type":"urn:problem:internal"')
    assert "canary" not in answer.text
    call = broken.stub.TellStory(pb.StoryRequest())
    assert next(call).text == "once"
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() == grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("name", ["python -m src", "python -m src, uvicorn", "python -m src, hypercorn"])
def test_an_answer_before_the_body_leaves_the_connection_intact(name: str) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
    with (
        Service(COMMANDS[name], RATE_LIMIT_DEFAULT="1/day") as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection,
        connection.makefile("rb") as answers,
    ):
        statuses = []
        for _ in range(3):
            connection.sendall(head)
            # By the time another connection has its answer, that of this one has been made.
            send(service, "GET", "/health")
            connection.sendall(b"{}")
            statuses.append(read_status(answers))
    assert statuses == [404, 429, 429]


def read_status(answers: BinaryIO) -> int:
    """The status of the next answer, which is read to its end."""
    status = int(answers.readline().split()[1])
    headers = dict(line.lower().split(b": ", 1) for line in iter(answers.readline, b"\r\n"))
    answers.read(int(headers[b"content-length"]))
    return status
