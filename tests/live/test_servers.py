"""Under every server a user may choose, with one or several workers, both protocols come up, answer and drain."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from src.operations import Operation
from src.rpc.handlers import to_message
from testing import small_service
from testing.service import COMMANDS, Service
from testing.small_service import OPERATIONS, SERVICE, pb

UNARY = [pytest.param(operation, id=operation.path) for operation in OPERATIONS if not operation.streamed]
STREAMED = [pytest.param(operation, id=operation.path) for operation in OPERATIONS if operation.streamed]


def empty_request(operation: Operation) -> Message:
    """Make the RPC's empty request message."""
    message: Message = GetMessageClass(SERVICE.methods_by_name[operation.rpc].input_type)()
    return message


@pytest.fixture(scope="module", params=COMMANDS)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    command = COMMANDS[request.param]
    # Where the command chooses REST's port, the setting counts for nothing: no port that can be had without privileges.
    port = {"PORT": "1"} if any("{port}" in part for part in command) else {}
    with Service(command, **port) as running:
        yield running


def test_the_log_names_no_address_but_those_that_answer(request: pytest.FixtureRequest, service: Service) -> None:
    name = request.node.callspec.params["service"]
    lines = service.output_with('"service is up"').splitlines()
    up = next(json.loads(line) for line in lines if '"service is up"' in line)
    assert up.get("rest") == (service.rest_url if name.startswith("python") else None)
    assert up["grpc"] == f"127.0.0.1:{service.grpc_port}"
    assert any(service.rest_url in line for line in lines), "the server names its address otherwise"


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
def test_workers_that_are_spawned_name_the_address_too(server: str) -> None:
    with Service([*COMMANDS["python -m src, 2 workers"], "--server", server]) as service:
        assert f'"rest":"{service.rest_url}"' in service.output_with('"service is up"')


def events(body: str) -> list[Any]:
    return [json.loads(block.removeprefix("data: ")) for block in body.strip().split("\n\n")]


@pytest.mark.parametrize("path", ["/health", "/healthz", "/ready", "/readyz"])
def test_the_health_paths_answer(service: Service, path: str) -> None:
    assert service.http.get(path).json() == {"status": "ok"}


@pytest.mark.parametrize("operation", UNARY)
def test_an_empty_object_and_an_empty_message_get_the_same_answer(service: Service, operation: Operation) -> None:
    answer = service.http.post(operation.path, json={})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    over_rest = operation.output.model_validate_json(answer.content)
    message = getattr(service.stub, operation.rpc)(empty_request(operation))
    assert message == to_message(operation, over_rest, type(message))


@pytest.mark.parametrize("operation", STREAMED)
def test_a_stream_comes_in_chunks_and_ends_with_the_whole_text(service: Service, operation: Operation) -> None:
    with service.http.stream("POST", operation.path, json={}) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        pieces = list(answer.iter_text())
    assert len(pieces) > 1, "the server must flush each chunk"
    *chunks, last = events("".join(pieces))
    assert last == {"done": True, operation.text_field: "".join(chunk["chunk"] for chunk in chunks)}
    over_grpc = [chunk.text for chunk in getattr(service.stub, operation.rpc)(empty_request(operation))]
    assert over_grpc == [chunk["chunk"] for chunk in chunks]


def test_every_answer_is_hardened_and_names_no_server(service: Service) -> None:
    answers = [
        service.http.get("/health"),
        service.http.get("/nowhere"),
        service.http.post("/translate", json={"text": ""}),
        httpx.post(f"{service.rest_url}/translate", content=b"x" * 1_048_577),  # the server hangs up afterwards
        service.http.options(
            "/translate", headers={"origin": "https://a.test", "access-control-request-method": "POST"}
        ),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 422, 413, 400]
    for answer in answers:
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers.get_list("x-request-id") != []
        assert answer.headers.get("server", "-") == "-", "granian always sends one: then it says nothing"


def test_invalid_input_is_told_in_the_callers_protocol(service: Service) -> None:
    answer = service.http.post("/translate", json={"text": "a" * 10_001})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "text"]
    with pytest.raises(grpc.RpcError) as caught:
        service.stub.TranslateText(pb.TranslateRequest(text="a" * 10_001))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_grpc_health_serves(service: Service) -> None:
    health: Any = health_pb2_grpc.HealthStub(service.channel)
    for name in ("", "genkit.sample.v1.GenkitService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_production_shows_neither_docs_nor_reflection(service: Service) -> None:
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert service.http.get(path).status_code == 404
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")])))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_fresh_connection_to_any_worker_answers(service: Service) -> None:
    for _ in range(8):
        with grpc.insecure_channel(
            f"127.0.0.1:{service.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            assert small_service.stub(channel).Health(pb.HealthRequest()).status == "ok"


def test_forwarding_headers_of_nobody_are_not_believed(service: Service) -> None:
    headers = {"x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https", "x-request-id": "forged-1"}
    answer = service.http.get("/nowhere", headers=headers)
    assert "strict-transport-security" not in answer.headers
    assert service.access_line("forged-1")["client"] == "127.0.0.1"


def test_a_websockets_handshake_is_a_request_like_any_other(service: Service) -> None:
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "x-request-id": "handshake-1",
    }
    with httpx.Client(base_url=service.rest_url, trust_env=False, verify=False) as client:
        answer = client.get("/nowhere", headers=headers)
    assert answer.status_code == 404
    assert answer.headers.get_list("x-frame-options") == ["DENY"]
    assert "granian" not in str(answer.headers)
    assert service.access_line("handshake-1")["status"] == 404


def test_a_trailing_slash_leads_nowhere(service: Service) -> None:
    assert service.http.post("/chat/", json={}).status_code == 404


def over_http2(service: Service) -> httpx.Response:
    with httpx.Client(http1=False, http2=True, trust_env=False, verify=False) as client:
        return client.get(f"{service.rest_url}/health")


def test_the_rest_port_speaks_http2_when_asked_to() -> None:
    with Service(HTTP2="true") as service:
        assert over_http2(service).http_version == "HTTP/2"


def test_the_rest_port_speaks_no_http2_by_default() -> None:
    with Service() as service, pytest.raises(httpx.TransportError):
        over_http2(service)
