"""One limit for both protocols: what a client spends over REST is gone over gRPC."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from testing.service import Service
from testing.small_service import pb


@pytest.fixture
def service() -> Iterator[Service]:
    with Service(RATE_LIMIT_DEFAULT="5/hour") as running:
        yield running


def refusal(call: Any, request: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        list(call(request))
    return caught.value


def test_five_pass_in_any_mix_and_then_none(service: Service) -> None:
    assert service.http.post("/chat", json={}).status_code == 200
    assert service.stub.PirateChat(pb.ChatRequest()).answer
    assert list(service.stub.TellStory(pb.StoryRequest()))
    assert service.http.post("/tell-story/stream", json={}).status_code == 200
    assert service.http.get("/nowhere").status_code == 404
    for path in ("/chat", "/tell-story/stream", "/nowhere"):
        answer = service.http.post(path, json={})
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 720
        assert answer.headers["x-frame-options"] == "DENY"
    for call, request in ((service.stub.PirateChat, pb.ChatRequest()), (service.stub.TellStory, pb.StoryRequest())):
        error = refusal(call, request)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        retry_info = error_details_pb2.RetryInfo()
        status: Any = rpc_status.from_call(error)
        assert any(detail.Unpack(retry_info) for detail in status.details)
        assert 0 < retry_info.retry_delay.seconds <= 720


def test_probes_of_both_protocols_are_exempt(service: Service) -> None:
    health: Any = health_pb2_grpc.HealthStub(service.channel)
    for _ in range(4):
        assert service.http.get("/health").status_code == service.http.get("/ready").status_code == 200
        assert service.stub.Health(pb.HealthRequest()).status == "ok"
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
    assert service.http.post("/chat", json={}).status_code == 200


def test_a_forwarding_header_of_nobody_changes_nothing(service: Service) -> None:
    statuses = [
        service.http.post("/chat", json={}, headers={"x-forwarded-for": f"203.0.113.{number}"}).status_code
        for number in range(7)
    ]
    assert statuses == [200] * 5 + [429] * 2


def over_rest(path: str) -> Callable[[Service, str], bool]:
    def call(service: Service, client: str) -> bool:
        answer = service.http.post(path, json={}, headers={"x-forwarded-for": client})
        assert answer.status_code in (200, 429)
        return answer.status_code == 200

    return call


def over_grpc(rpc: str, request: Any) -> Callable[[Service, str], bool]:
    def call(service: Service, client: str) -> bool:
        try:
            answer = getattr(service.stub, rpc)(request, metadata=(("x-forwarded-for", client),))
            list(answer if rpc == "TellStory" else [answer])
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            return False
        return True

    return call


KINDS = [
    over_rest("/chat"),
    over_rest("/tell-story/stream"),
    over_grpc("PirateChat", pb.ChatRequest()),
    over_grpc("TellStory", pb.StoryRequest()),
]


def test_exactly_five_pass_of_any_crowd_of_calls() -> None:
    with (
        Service(RATE_LIMIT_DEFAULT="5/day", TRUSTED_PROXIES="127.0.0.1") as service,
        ThreadPoolExecutor(16) as clients,
    ):
        for number in range(10):
            crowd = random.Random(number).choices(KINDS, k=16)
            calls = [clients.submit(kind, service, f"203.0.113.{number}") for kind in crowd]
            assert sum(call.result() for call in calls) == 5, f"crowd {number}"


def test_under_constant_pressure_the_rate_is_what_was_set() -> None:
    with Service(RATE_LIMIT_DEFAULT="50/second") as service, ThreadPoolExecutor(8) as clients:

        def press(kind: Callable[[Service, str], bool]) -> int:
            admitted = 0
            while time.monotonic() < until:
                admitted += kind(service, "nobody")
            return admitted

        began = time.monotonic()
        until = began + 5
        admitted = sum(clients.map(press, [KINDS[0], KINDS[2]] * 4))
        took = time.monotonic() - began
    assert 0.98 * (50 + 50 * 5) <= admitted <= 1.02 * (50 + 50 * took)
