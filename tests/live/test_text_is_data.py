"""A caller's text reaches the model unchanged, in one user part, and nothing interprets it on the way.

Every text field of every operation is tried over both protocols. A new flow is tried without being named here.
"""

import json
import socket
import threading
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import grpc
import pytest

from src.generated import service_pb2, service_pb2_grpc
from src.operations import OPERATIONS, Operation
from src.rpc.handlers import SERVICE_DESCRIPTOR
from testing import small_service
from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.service import SAMPLES, Service
from tests.hostile_texts import hostile_texts

KEPT = 2000  # characters of free text
SECONDS = 5  # no text may make a request slow

Field = tuple[Operation, str]


def text_fields() -> list[Any]:
    """Every field of every operation that takes a string."""
    return [
        pytest.param((operation, name), id=f"{operation.name}.{name}")
        for operation in OPERATIONS
        for name, field in operation.input.model_fields.items()
        if field.annotation in (str, str | None)
    ]


@pytest.fixture(scope="module")
def service(shared_upstream: GeminiStandIn) -> Iterator[Service]:
    with Service(**shared_upstream.env, CACHE_ENABLED="false", CB_ENABLED="false", PYTHONPATH=SAMPLES) as running:
        yield running


class Trap:
    """A port that texts name and nobody may connect to."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/x.png"
        self.connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture(scope="module")
def trap() -> Iterator[Trap]:
    opened = Trap()
    yield opened
    opened.close()


def over_rest(service: Service, field: Field, text: str) -> bool | None:
    """Return True if the text was accepted, False if it was refused as invalid."""
    operation, name = field
    # ASCII: lone surrogates travel as escapes.
    answer = service.http.post(
        operation.path,
        content=json.dumps({name: text}).encode(),
        headers={"content-type": "application/json"},
        timeout=SECONDS,
    )
    assert answer.status_code in (200, 422), answer.text
    assert "event: error" not in answer.text
    return answer.status_code == 200


def over_grpc(service: Service, field: Field, text: str) -> bool | None:
    """The same; None where protobuf can't carry the text, or takes it as unset."""
    operation, name = field
    if not text or text.encode("utf-8", "replace").decode() != text:
        return None
    request = getattr(service_pb2, SERVICE_DESCRIPTOR.methods_by_name[operation.rpc].input_type.name)(**{name: text})
    call = getattr(service_pb2_grpc.GenkitServiceStub(service.channel), operation.rpc)
    try:
        answer = call(request, timeout=SECONDS)
        list(answer) if operation.streamed else answer
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        return False
    return True


def as_kept(field: Field, text: str) -> str:
    """The text as the model gets it. What goes whole, the field's description says."""
    operation, name = field
    sound = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if "whole" in (operation.input.model_fields[name].description or ""):
        return sound
    return sound.strip()[:KEPT]


def without(body: dict[str, Any], text: str) -> dict[str, Any]:
    """The request with the one user part taken out that is exactly this text, or this image."""
    body = deepcopy(body)
    assert [turn["role"] for turn in body["contents"]] == ["user"], "every turn is ours"
    [turn] = body["contents"]
    found = [part for part in turn["parts"] if part == {"text": text} or _is_image(part, text)]
    assert len(found) == (1 if text else 0), "in exactly one user part"
    turn["parts"] = [part for part in turn["parts"] if part not in found]
    return body


def _is_image(part: dict[str, Any], url: str) -> bool:
    image = part.get("inlineData")
    return image is not None and url == f"data:{image['mime_type']};base64,{image['data']}"


@pytest.mark.parametrize("send", [over_rest, over_grpc])
@pytest.mark.parametrize("field", text_fields())
def test_a_text_stands_as_written_in_one_user_part(
    service: Service, upstream: GeminiStandIn, trap: Trap, *, field: Field, send: Any
) -> None:
    upstream.default(gemini.ECHO)
    rest_of_the_request = []
    for what, text in hostile_texts(trap.url).items():
        upstream.requests.clear()
        taken = send(service, field, text)
        assert len(upstream.requests) == bool(taken), f"{what}: one call for what was taken, none for what was refused"
        if taken:
            rest_of_the_request.append(without(upstream.requests[0].body, as_kept(field, text)))
        assert trap.connections == 0, f"{what}: somebody followed a URL"
    assert rest_of_the_request, "no text at all was taken"
    assert all(each == rest_of_the_request[0] for each in rest_of_the_request), "nothing else depends on the text"
    assert "systemInstruction" in rest_of_the_request[0]


def test_half_a_surrogate_pair_is_replaced(upstream: GeminiStandIn) -> None:
    upstream.requests.clear()
    body = rb'{"question": "a\ud83d \ud83d\ude00 \\ud83d"}'
    with Service(**upstream.env) as service:
        assert service.http.post("/chat", content=body, headers={"content-type": "application/json"}).status_code == 200
    assert upstream.requests[0].body["contents"][0]["parts"] == [{"text": "a\ufffd \U0001f600 \\ud83d"}]


def test_rounds_of_tools_change_nothing_in_what_was_said_before(upstream: GeminiStandIn, trap: Trap) -> None:
    [translate] = [each for each in small_service.OPERATIONS if each.name == "translate_text"]
    upstream.default(gemini.CALLS_TOOL)
    taken = 0
    with Service(**upstream.env, CACHE_ENABLED="false", CB_ENABLED="false") as service:
        for text in hostile_texts(trap.url).values():
            upstream.requests.clear()
            if over_rest(service, (translate, "text"), text):
                taken += 1
                first, second = (request.body for request in upstream.requests)
                assert second["contents"][:1] == first["contents"]
                assert [turn["role"] for turn in second["contents"]] == ["user", "model", "user"]
                assert second["systemInstruction"] == first["systemInstruction"]
    assert taken > 20
