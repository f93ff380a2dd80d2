"""The circuit in front of the LLM, seen from both protocols: it opens, spares the LLM, and always closes again."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from src.errors import CircuitOpen
from testing.fakes import gemini
from testing.fakes.gemini import Gate, GeminiStandIn
from testing.service import Service
from testing.small_service import pb

RECOVERY = 1.5


@pytest.fixture
def service(upstream: GeminiStandIn) -> Iterator[Service]:
    with Service(**upstream.env, CB_RECOVERY_TIMEOUT=str(RECOVERY)) as running:
        yield running


def failed_rpc(call: Any, request: Any, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        list(call(request, **options))
    return caught.value


def open_circuit(service: Service, upstream: GeminiStandIn) -> None:
    """Five failures, over both protocols."""
    upstream.script(*[gemini.error(503)] * 5)
    for _ in range(3):
        assert service.http.post("/chat", json={}).status_code == 502
    for call, request in ((service.stub.PirateChat, pb.ChatRequest()), (service.stub.TellStory, pb.StoryRequest())):
        error: Any = failed_rpc(call, request)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert len(upstream.requests) == 5


def wait_until_half_open(service: Service) -> None:
    time.sleep(float(service.http.post("/chat", json={}).headers["retry-after"]))


def test_after_the_fifth_failure_nobody_calls_the_llm(service: Service, upstream: GeminiStandIn) -> None:
    open_circuit(service, upstream)
    answer = service.http.post("/chat", json={})
    assert answer.status_code == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 2
    assert answer.json()["title"] == "Model unavailable"
    assert '"status":503' in service.http.post("/tell-story/stream", json={}).text
    error: Any = failed_rpc(service.stub.TranslateText, pb.TranslateRequest(text="x"))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    retry_info = error_details_pb2.RetryInfo()
    status: Any = rpc_status.from_call(error)
    assert any(detail.Unpack(retry_info) for detail in status.details)
    assert 0 < retry_info.retry_delay.ToTimedelta().total_seconds() <= RECOVERY
    assert len(upstream.requests) == 5


def test_two_hundred_callers_of_a_half_open_circuit_make_one_call(service: Service, upstream: GeminiStandIn) -> None:
    open_circuit(service, upstream)
    gate = Gate()
    upstream.default(gemini.text("aye", gate=gate))
    wait_until_half_open(service)
    with ThreadPoolExecutor(100) as clients:
        calls = [clients.submit(status_over_rest, service) for _ in range(100)]
        calls += [clients.submit(status_over_grpc, service) for _ in range(100)]
        refused = [call.result() for call in islice(as_completed(calls), 199)]
        gate.release()
        assert set(refused) == {"refused"}
        assert [call.result() for call in calls].count("answered") == 1
    assert len(upstream.requests) == 6
    gate.release()
    assert service.http.post("/chat", json={}).status_code == 200, "the circuit is closed"


def status_over_rest(service: Service) -> str:
    return {200: "answered", 503: "refused"}[service.http.post("/chat", json={}).status_code]


def status_over_grpc(service: Service) -> str:
    try:
        return "answered" if service.stub.PirateChat(pb.ChatRequest()).answer else "empty"
    except grpc.RpcError as error:
        return "refused" if error.code() == grpc.StatusCode.UNAVAILABLE else str(error)


def leave_by_disconnect(service: Service, upstream: GeminiStandIn) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service.rest_url}/chat", json={}, timeout=0.2, trust_env=False, verify=False)


def leave_by_deadline(service: Service, upstream: GeminiStandIn) -> None:
    error: Any = failed_rpc(service.stub.PirateChat, pb.ChatRequest(), timeout=0.2)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def leave_by_cancel(service: Service, upstream: GeminiStandIn) -> None:
    call = service.stub.TellStory(pb.StoryRequest())
    upstream.wait_for(lambda: len(upstream.requests) == 6)
    call.cancel()


@pytest.mark.parametrize("leave", [leave_by_disconnect, leave_by_deadline, leave_by_cancel])
def test_a_probe_whose_client_leaves_frees_its_place(service: Service, upstream: GeminiStandIn, leave: Any) -> None:
    open_circuit(service, upstream)
    wait_until_half_open(service)
    upstream.script(gemini.HANG)
    leave(service, upstream)
    upstream.wait_for(lambda: upstream.closed_early == 1)
    assert service.http.post("/chat", json={}).status_code == 200


def test_a_probe_that_hangs_keeps_the_circuit_no_longer_than_its_recovery_time(
    service: Service, upstream: GeminiStandIn
) -> None:
    open_circuit(service, upstream)
    wait_until_half_open(service)
    upstream.script(gemini.HANG)
    with ThreadPoolExecutor() as clients:
        hanging = clients.submit(service.http.post, "/chat", json={})
        upstream.wait_for(lambda: len(upstream.requests) == 6)
        refused = service.http.post("/chat", json={})
        assert refused.status_code == 503
        time.sleep(float(refused.headers["retry-after"]))
        assert service.http.post("/chat", json={}).status_code == 200
        assert service.stub.PirateChat(pb.ChatRequest()).answer
        service.kill()
        with pytest.raises(httpx.TransportError):
            hanging.result(5)


POISON = [gemini.text(" "), gemini.error(400), gemini.error(422), gemini.HANG, gemini.text("no JSON")]


def test_one_caller_neither_opens_the_circuit_nor_keeps_it_open(upstream: GeminiStandIn) -> None:
    limits = {"LLM_TIMEOUT": "300", "TRUSTED_PROXIES": "127.0.0.1", "CB_RECOVERY_TIMEOUT": str(RECOVERY)}
    hostile, honest = {"x-forwarded-for": "203.0.113.1"}, {"x-forwarded-for": "203.0.113.2"}
    with Service(**upstream.env, **limits, CB_FAILURE_THRESHOLD="2") as service:
        for poison in POISON:
            for number in range(2):
                upstream.script(poison)
                text = {"text": f"{poison} {number}"}
                assert service.http.post("/translate", json=text, headers=hostile).status_code in (502, 504)
                upstream.script(poison)
                metadata = (("x-forwarded-for", "203.0.113.1"),)
                error: Any = failed_rpc(service.stub.TranslateText, pb.TranslateRequest(**text), metadata=metadata)
                assert error.details() != CircuitOpen.default_detail
        assert service.http.post("/chat", json={}, headers=honest).status_code == 200
        upstream.script(gemini.error(503), gemini.error(503))
        for _ in range(2):
            assert service.http.post("/chat", json={}, headers=honest).status_code == 502
        wait_until_half_open(service)
        upstream.script(gemini.text(" "))
        assert service.http.post("/chat", json={}, headers=hostile).status_code == 502, "the probe"
        assert service.http.post("/chat", json={}, headers=hostile).status_code == 503
        assert service.http.post("/chat", json={}, headers=honest).status_code == 200


def test_what_the_llm_is_not_to_blame_for_does_not_count(upstream: GeminiStandIn) -> None:
    limits = {"RATE_LIMIT_DEFAULT": "6/day", "TRUSTED_PROXIES": "127.0.0.1"}
    with Service(**upstream.env, **limits, CB_FAILURE_THRESHOLD="1") as service:
        assert service.http.post("/chat", json={"question": ""}).status_code == 422
        assert service.http.post("/describe-image", json={"image_url": "http://localhost/"}).status_code == 422
        upstream.script(gemini.error(400), gemini.BLOCKED_ANSWER, gemini.HANG)
        assert [service.http.post("/chat", json={}).status_code for _ in range(2)] == [502, 422]
        leave_by_disconnect(service, upstream)
        upstream.wait_for(lambda: upstream.closed_early == 1)
        upstream.script(gemini.HANG)
        leave_by_deadline(service, upstream)
        upstream.wait_for(lambda: upstream.closed_early == 2)
        assert service.http.post("/chat", json={}).status_code == 429
        another = {"x-forwarded-for": "203.0.113.1"}
        assert service.http.post("/chat", json={}, headers=another).status_code == 200
