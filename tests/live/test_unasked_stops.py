"""The service stops by itself: at the server's limit of requests, without its main process, without its gRPC server."""

import ctypes
import json
import os
import shlex
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from src.lifecycle.server_parent import LOOK_SECONDS
from testing.fakes import gemini
from testing.fakes.gemini import Gate, GeminiStandIn
from testing.service import COMMANDS, Service
from testing.small_service import pb
from tests.live.test_lifecycle import assert_refused
from tests.live.test_shutdown import eventually, is_ready, is_serving

MAX_REQUESTS = 40
LIMITED = {
    "uvicorn": [*COMMANDS["uvicorn"], "--limit-max-requests", str(MAX_REQUESTS)],
    "gunicorn": [*COMMANDS["gunicorn, 2 workers"], "--workers", "1", "--max-requests", str(MAX_REQUESTS)],
}
HALF_A_BODY = b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


@pytest.mark.parametrize("server", LIMITED)
def test_at_the_limit_of_requests_it_drains(server: str, upstream: GeminiStandIn) -> None:
    gate = Gate()
    upstream.default(gemini.text("one", gate=gate))
    with ThreadPoolExecutor() as clients, Service(LIMITED[server], **upstream.env) as service, socket.socket() as half:
        health: Any = health_pb2_grpc.HealthStub(service.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        half.settimeout(10)
        half.connect(("127.0.0.1", service.port))
        half.sendall(HALF_A_BODY)
        rest = clients.submit(lambda: service.http.post("/chat", json={}))
        rpc = clients.submit(lambda: service.stub.PirateChat(pb.ChatRequest()))
        upstream.wait_for(lambda: upstream.open_calls == 2)
        assert eventually(lambda: not is_ready(service))
        assert [answer.status for answer in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
        assert half.recv(65_536).startswith(b"HTTP/1.1 503")
        gate.release(2)
        assert rest.result(10).status_code == 200
        assert rpc.result(10)
        service.output_with('"stopped"')
        if server == "uvicorn":
            assert service.wait(10) == 0
        else:
            service.output_with('"service is up"', 2)
            assert eventually(lambda: is_ready(service))
            assert eventually(lambda: is_serving(health))


TWO_WORKERS = {
    "python -m src": COMMANDS["python -m src"],
    "python -m src, 2 workers": COMMANDS["python -m src, 2 workers"],
    "python -m src, uvicorn": [*COMMANDS["python -m src, uvicorn"], "--workers", "2"],
    "python -m src, hypercorn": [*COMMANDS["python -m src, hypercorn"], "--workers", "2"],
    "granian": COMMANDS["granian"],
    "uvicorn": [*COMMANDS["uvicorn"], "--workers", "2"],
    "hypercorn": [*COMMANDS["hypercorn"], "--workers", "2"],
    "gunicorn": COMMANDS["gunicorn, 2 workers"],
}


@pytest.fixture
def adopting() -> Iterator[None]:
    """Make this process the parent of its descendants whose parents end, so that it gets their exit statuses."""
    prctl, set_child_subreaper = ctypes.CDLL(None).prctl, 36
    prctl(set_child_subreaper, 1, 0, 0, 0)
    yield
    prctl(set_child_subreaper, 0, 0, 0, 0)


def serving_processes(service: Service) -> set[int]:
    """Children of the main process that have loaded gRPC."""
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    return {int(child) for child in children if "cygrpc" in Path(f"/proc/{child}/maps").read_text()}


@pytest.mark.parametrize("name", TWO_WORKERS)
def test_workers_drain_when_their_main_process_was_killed(name: str, adopting: None, upstream: GeminiStandIn) -> None:
    gate = Gate()
    upstream.default(gemini.text("one", gate=gate))
    count = 1 if name in ("python -m src", "granian") else 2
    with ThreadPoolExecutor() as clients, Service(TWO_WORKERS[name], **upstream.env) as service:
        service.output_with('"service is up"', count)
        workers = serving_processes(service)
        assert len(workers) == count
        rest = clients.submit(lambda: service.http.post("/chat", json={}))
        rpc = clients.submit(lambda: service.stub.PirateChat(pb.ChatRequest()))
        upstream.wait_for(lambda: upstream.open_calls == 2)
        service.process.kill()
        service.output_with("the server's main process has ended", count)
        service.output_with('"stopping"', count)
        gate.release(2)
        assert rest.result(10).status_code == 200
        assert rpc.result(10)
        assert [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers] == [1] * count
        assert service.output_with('"stopped"', count).count("the server's main process has ended") == count
        assert_refused(service.port)
        assert_refused(service.grpc_port)


@pytest.mark.parametrize("name", ["python -m src", "python -m src, uvicorn", "granian", "uvicorn", "hypercorn"])
def test_the_end_of_the_shell_that_started_it_stops_nothing(name: str) -> None:
    command = [part.replace("{port}", "'{port}'") for part in COMMANDS[name]]
    with Service(["bash", "-c", f"{' '.join(map(quoted, command))} & wait"]) as service:
        service.process.kill()
        service.wait()
        assert not eventually(lambda: "has ended" in service.output() or not is_ready(service), 3 * LOOK_SECONDS)


def quoted(part: str) -> str:
    return part if "{port}" in part else shlex.quote(part)


def crashing(name: str, app: str) -> list[str]:
    return [part.replace("src.asgi:create_app", f"tests.live.crashing_grpc:{app}") for part in COMMANDS[name]]


@pytest.mark.parametrize("name", ["granian", "uvicorn", "hypercorn"])
def test_without_its_grpc_server_it_ends_with_1(name: str, upstream: GeminiStandIn) -> None:
    gate = Gate()
    upstream.default(gemini.text("one", gate=gate))
    command = crashing(name, "create_app")
    with ThreadPoolExecutor() as clients, Service(command, **upstream.env) as service:
        rest = clients.submit(lambda: service.http.post("/chat", json={}))
        upstream.wait_for(lambda: upstream.open_calls == 1)
        call: Any = service.channel.unary_unary("/none.Service/None")
        with pytest.raises(grpc.RpcError):
            call(b"", timeout=5)
        output = service.output_with('"stopping"')
        gate.release()
        assert rest.result(10).status_code == 200
        assert service.wait(10) == 1
    lines = [json.loads(line) for line in output.splitlines() if "has ended by itself" in line]
    assert [(line["level"], line["event"]) for line in lines] == [("critical", "the gRPC server has ended by itself")]


@pytest.mark.parametrize("name", ["granian", "uvicorn", "hypercorn"])
def test_a_grpcio_that_lacks_private_names_stops_the_start_in_one_line(name: str) -> None:
    service = Service(crashing(name, "create_app_without_private_names"))
    with pytest.raises(AssertionError, match="not up") as caught, service:
        pass
    assert service.process.returncode not in (0, -signal.SIGKILL)
    output = str(caught.value)
    assert f"grpcio {grpc.__version__} has no cygrpc._handle_rpc" in output
    assert "Traceback" not in output
