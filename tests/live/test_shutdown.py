"""SIGTERM: what is under way may finish within the grace, what is new is refused, and nothing outlives it."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from src.lifecycle.lifespan import ACCEPTING_SECONDS
from testing.fakes import gemini
from testing.fakes.gemini import Gate, GeminiStandIn
from testing.service import COMMANDS, Service
from testing.small_service import pb
from tests.live.test_lifecycle import EXIT_STATUS

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# Several workers of hypercorn learn of the stop by a closed door alone: their parent does not pass the signal on.
SINGLE = [name for name in COMMANDS if "2 workers" not in name]


def started(name: str, upstream: GeminiStandIn, **env: str) -> Service:
    return Service(COMMANDS[name], **upstream.env, **env)


def outcome_over_rest(service: Service, path: str) -> Any:
    try:
        answer = httpx.post(f"{service.rest_url}{path}", json={}, timeout=30, trust_env=False, verify=False)
    except httpx.TransportError as error:
        return type(error).__name__
    return answer.text if path.endswith("/stream") else answer.status_code


def outcome_over_grpc(call: Any, request: Any) -> grpc.StatusCode:
    try:
        list(call(request))
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def is_ready(service: Service) -> bool:
    """Probe over a fresh connection."""
    try:
        return httpx.get(f"{service.rest_url}/ready", timeout=5, trust_env=False, verify=False).status_code == 200
    except httpx.TransportError:
        return False


def is_serving(health: Any) -> bool:
    """Probe over gRPC. After GOAWAY a probe is refused, or cancelled by gRPC's core."""
    try:
        return bool(health.Check(health_pb2.HealthCheckRequest()).status != NOT_SERVING)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        return False


def eventually(check: Any, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("name", SINGLE)
def test_at_the_signal_it_turns_unready_and_takes_no_new_work(name: str, upstream: GeminiStandIn) -> None:
    gate = Gate()
    upstream.default(gemini.text("one", gate=gate))
    with ThreadPoolExecutor() as clients, started(name, upstream) as service:
        health: Any = health_pb2_grpc.HealthStub(service.channel)
        health.Check(health_pb2.HealthCheckRequest())
        rest = clients.submit(outcome_over_rest, service, "/chat")
        rpc = clients.submit(outcome_over_grpc, lambda request: [service.stub.PirateChat(request)], pb.ChatRequest())
        upstream.wait_for(lambda: upstream.open_calls == 2)
        began = time.monotonic()
        service.terminate()
        assert eventually(lambda: not is_serving(health))
        assert eventually(lambda: not is_ready(service))
        # CANCELLED is what grpc's core tells an RPC that it had not handed over when it stopped.
        refused = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert outcome_over_grpc(service.stub.TellStory, pb.StoryRequest()) in refused
        time.sleep(max(0.0, began + ACCEPTING_SECONDS - time.monotonic()))
        assert outcome_over_rest(service, "/chat") in (503, "ConnectError", "ReadError", "RemoteProtocolError")
        gate.release(2)
        assert (rest.result(10), rpc.result(10)) == (200, grpc.StatusCode.OK)
        assert service.wait(10) == EXIT_STATUS.get(name, 0)
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_when_the_grace_is_over_everything_is_told_and_ended(name: str, upstream: GeminiStandIn) -> None:
    upstream.script(gemini.text("one ", "two", gate=(first := Gate())))
    upstream.default(gemini.HANG)
    with ThreadPoolExecutor() as clients, started(name, upstream, SHUTDOWN_GRACE="1") as service:
        idle = socket.create_connection(("127.0.0.1", service.port))
        idle.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert idle.recv(65_536).startswith(b"HTTP/1.1 200")
        sse = clients.submit(outcome_over_rest, service, "/tell-story/stream")
        upstream.wait_for(lambda: len(upstream.requests) == 1)
        first.release()
        rest = clients.submit(outcome_over_rest, service, "/chat")
        rpc = clients.submit(outcome_over_grpc, service.stub.TellStory, pb.StoryRequest())
        upstream.wait_for(lambda: len(upstream.requests) == 3)
        service.terminate()
        began = time.monotonic()
        status = service.wait(10)
        took = time.monotonic() - began
        idle.close()
        assert status == EXIT_STATUS.get(name, 0)
        assert 0.9 < took < 9  # what hangs would hang for ever, or until the server gives up
        chunk, error = sse.result(10).strip().split("\n\n")
        assert chunk == 'data: {"chunk":"one "}'
        assert error.startswith("event: error\n")
        assert json.loads(error.partition("data: ")[2])["title"] == "Shutting down"
        assert rest.result(10) == 503
        assert rpc.result(10) == grpc.StatusCode.UNAVAILABLE
        assert "Traceback" not in service.output()
    upstream.wait_for(lambda: upstream.open_calls == 0)


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("python -m src", signal.SIGTERM),
        ("python -m src", signal.SIGINT),
        ("uvicorn", signal.SIGTERM),
        ("uvicorn", signal.SIGINT),
        ("hypercorn", signal.SIGINT),
        ("gunicorn, 2 workers", signal.SIGTERM),
    ],
)
def test_a_second_signal_does_not_lose_the_drain(name: str, again: signal.Signals, upstream: GeminiStandIn) -> None:
    gate = Gate()
    upstream.default(gemini.text("one", gate=gate))
    with ThreadPoolExecutor() as clients, started(name, upstream) as service:
        rest = clients.submit(outcome_over_rest, service, "/chat")
        rpc = clients.submit(outcome_over_grpc, lambda request: [service.stub.PirateChat(request)], pb.ChatRequest())
        upstream.wait_for(lambda: upstream.open_calls == 2)
        service.terminate()
        assert eventually(lambda: "stopping" in service.output() or not is_ready(service))
        service.process.send_signal(again)
        assert not eventually(lambda: service.process.poll() is not None, 0.3)
        gate.release(2)
        assert (rest.result(10), rpc.result(10)) == (200, grpc.StatusCode.OK)
        service.wait(10)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith("python") or name == "granian"])
def test_ctrl_c_twice_does_not_lose_the_drain(name: str, upstream: GeminiStandIn) -> None:
    """A terminal sends SIGINT to all processes of the service."""
    gate = Gate()
    upstream.default(gemini.text("one", gate=gate))
    with ThreadPoolExecutor() as clients, started(name, upstream) as service:
        rest = clients.submit(outcome_over_rest, service, "/chat")
        upstream.wait_for(lambda: upstream.open_calls == 1)
        for _ in range(2):
            os.killpg(service.process.pid, signal.SIGINT)
            assert eventually(lambda: "stopping" in service.output())
            assert not eventually(lambda: service.process.poll() is not None, 0.3)
        gate.release()
        assert rest.result(30) == 200
        assert service.wait(10) == 0
        assert '"stopped"' in service.output()
        assert "uncaught exception" not in service.output()


ONE_PROCESS = ["python -m src, uvicorn", "python -m src, hypercorn", "uvicorn", "hypercorn"]
TWO_WORKERS = {
    f"python -m src, {server}, 2 workers": [*COMMANDS[f"python -m src, {server}"], "--workers", "2"]
    for server in ("uvicorn", "hypercorn")
}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *((name, signal.SIGQUIT) for name in (*COMMANDS, *TWO_WORKERS) if name != "granian"),
        *((name, signal.SIGHUP) for name in ONE_PROCESS),
    ],
)
def test_sigquit_and_sighup_drain(name: str, number: signal.Signals, upstream: GeminiStandIn) -> None:
    """SIGHUP has its own meaning to servers with several processes, and granian's command ends at once by SIGQUIT."""
    gate = Gate()
    upstream.default(gemini.text("one", gate=gate))
    # Whoever runs the tests may have these signals ignored, which a process inherits.
    command = ["env", "--default-signal=QUIT,HUP", *(COMMANDS | TWO_WORKERS)[name]]
    with ThreadPoolExecutor() as clients, Service(command, **upstream.env) as service:
        rest = clients.submit(outcome_over_rest, service, "/chat")
        rpc = clients.submit(outcome_over_grpc, lambda request: [service.stub.PirateChat(request)], pb.ChatRequest())
        upstream.wait_for(lambda: upstream.open_calls == 2)
        service.process.send_signal(number)
        assert eventually(lambda: "stopping" in service.output() or not is_ready(service))
        gate.release(2)
        assert (rest.result(10), rpc.result(10)) == (200, grpc.StatusCode.OK)
        assert service.wait(10) == EXIT_STATUS.get(name, 0)


@pytest.mark.parametrize("name", ["python -m src", "python -m src, uvicorn", "hypercorn", "gunicorn, 2 workers"])
def test_under_load_no_accepted_request_is_lost(name: str, upstream: GeminiStandIn) -> None:
    with ThreadPoolExecutor() as clients, started(name, upstream, CACHE_ENABLED="false") as service:
        ended = threading.Event()
        outcomes: Counter[Any] = Counter()

        def over_rest() -> None:
            while not ended.is_set():
                outcomes[outcome_over_rest(service, "/chat")] += 1

        def chat(request: pb.ChatRequest) -> list[Any]:
            return [service.stub.PirateChat(request, timeout=20)]  # a call that hangs is an outcome of its own

        def over_grpc() -> None:
            while not ended.is_set():
                outcomes[outcome_over_grpc(chat, pb.ChatRequest())] += 1

        loops = [clients.submit(loop) for loop in (over_rest, over_rest, over_grpc, over_grpc)]
        upstream.wait_for(lambda: upstream.calls_finished >= 20)
        service.terminate()
        status = service.wait(15)
        ended.set()
        for loop in loops:
            loop.result(60)
        assert status == EXIT_STATUS.get(name, 0)
        answered = outcomes.pop(200) + outcomes.pop(grpc.StatusCode.OK)
        assert answered == upstream.calls_finished == upstream.calls_started
        # CANCELLED is what grpc's core tells an RPC that it had not handed over when it stopped.
        refused = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert outcomes.keys() <= refused | {503, "ConnectError", "ReadError", "RemoteProtocolError"}
