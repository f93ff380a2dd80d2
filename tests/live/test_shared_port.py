"""Workers of one service share the gRPC port; a second service is refused there, whichever server each of them uses."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.generated import service_pb2 as pb
from testing.ports import free_port
from testing.service import COMMANDS, ROOT, Service
from tests.live.test_shutdown import eventually

TWO = ["--workers", "2"]
EVERY = {
    "python -m src": COMMANDS["python -m src"],
    "python -m src, 2 workers": COMMANDS["python -m src, 2 workers"],
    "python -m src, uvicorn": COMMANDS["python -m src, uvicorn"],
    "python -m src, uvicorn, 2 workers": [*COMMANDS["python -m src, uvicorn"], *TWO],
    "python -m src, hypercorn": COMMANDS["python -m src, hypercorn"],
    "python -m src, hypercorn, 2 workers": [*COMMANDS["python -m src, hypercorn"], *TWO],
    "granian": COMMANDS["granian"],
    "granian, 2 workers": [*COMMANDS["granian"], *TWO],
    "uvicorn": COMMANDS["uvicorn"],
    "uvicorn, 2 workers": [*COMMANDS["uvicorn"], *TWO],
    "hypercorn": COMMANDS["hypercorn"],
    "hypercorn, 2 workers": [*COMMANDS["hypercorn"], *TWO],
    "gunicorn": [*COMMANDS["gunicorn, 2 workers"], "--workers", "1"],
    "gunicorn, 2 workers": COMMANDS["gunicorn, 2 workers"],
}
REPLACING = {
    **EVERY,
    "granian, 2 workers": [*EVERY["granian, 2 workers"], "--respawn-failed-workers", "--respawn-interval", "0.1"],
}
# Their main process ends with status 0 whatever its workers say.
ENDS_WITH_0 = {"uvicorn, 2 workers", "hypercorn, 2 workers"}
UP = '"service is up"'


def test_every_command_is_tried() -> None:
    assert {tuple(command) for command in COMMANDS.values()} <= {tuple(command) for command in EVERY.values()}


@pytest.fixture(scope="module")
def first() -> Iterator[Service]:
    """A service whose workers share its port. This process starts it, like the second one."""
    with Service(EVERY["gunicorn, 2 workers"]) as service:
        service.output_with(UP, 2)
        yield service


@pytest.mark.parametrize("name", EVERY)
def test_a_second_service_is_refused(name: str, first: Service) -> None:
    status, output = started_at(first.grpc_port, name)
    assert (status == 0) is (name in ENDS_WITH_0)
    lines = [line for line in output.splitlines() if f"GRPC_PORT={first.grpc_port}" in line]
    assert 1 <= len(lines) <= (2 if "2 workers" in name else 1), output
    assert UP not in output
    assert first.stub.Health(pb.HealthRequest()).status == "ok"


@pytest.mark.parametrize("name", ["python -m src, 2 workers", "granian, 2 workers", "gunicorn, 2 workers", "uvicorn"])
def test_another_program_that_would_share_the_port_is_noticed(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        status, output = started_at(other.getsockname()[1], name)
        assert status != 0
        assert "GRPC_PORT=" in output
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"])
def test_nobody_can_join_a_single_process_at_its_port(name: str) -> None:
    with Service(EVERY[name]) as service, pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", service.grpc_port), reuse_port=True).close()


@pytest.mark.parametrize("name", ["granian", "uvicorn", "hypercorn", "gunicorn"])
def test_the_port_is_free_again_at_once(name: str) -> None:
    with Service(EVERY[name]) as service:
        service.stub.Health(pb.HealthRequest())  # leaves a connection in TIME_WAIT
        service.terminate()
        service.wait()
        service.start_again()
        service.output_with(UP, 2, seconds=30)
        assert "GRPC_PORT=" not in service.output()


@pytest.mark.parametrize(
    "name", ["python -m src, 2 workers", "granian, 2 workers", "uvicorn, 2 workers", "gunicorn", "gunicorn, 2 workers"]
)
def test_a_worker_in_the_place_of_a_killed_one_takes_the_port(name: str) -> None:
    count = 2 if "2 workers" in name else 1
    with Service(REPLACING[name]) as service:
        service.output_with(UP, count)
        killed = min(workers_of(service.process.pid))
        os.kill(killed, signal.SIGKILL)
        service.output_with(UP, count + 1, seconds=30)
        assert len(workers_of(service.process.pid) - {killed}) == count
        assert "GRPC_PORT=" not in service.output()


@pytest.mark.parametrize(
    "name",
    ["python -m src", "granian", "granian, 2 workers", "uvicorn, 2 workers", "gunicorn", "gunicorn, 2 workers"],
)
def test_workers_that_sighup_starts_take_the_port(name: str) -> None:
    count = 2 if "2 workers" in name else 1
    with Service(EVERY[name]) as service:
        service.output_with(UP, count)
        before = workers_of(service.process.pid)
        service.process.send_signal(signal.SIGHUP)
        service.output_with(UP, 2 * count, seconds=30)
        assert eventually(lambda: not before & workers_of(service.process.pid), 30)
        assert len(workers_of(service.process.pid)) == count
        assert "GRPC_PORT=" not in service.output()


def test_gunicorn_hands_over() -> None:
    with Service(EVERY["gunicorn, 2 workers"]) as service:
        old = service.process.pid
        service.output_with(UP, 2)
        service.process.send_signal(signal.SIGUSR2)
        service.output_with(UP, 4, seconds=30)
        [new] = [child for child in children_of(old) if children_of(child)]
        assert len(workers_of(old)) == len(workers_of(new)) == 2
        # As long as both are there either can start its workers anew: for a way back, and when one was killed.
        service.process.send_signal(signal.SIGHUP)
        service.output_with(UP, 6, seconds=30)
        os.kill(min(workers_of(new)), signal.SIGKILL)
        service.output_with(UP, 7, seconds=30)
        service.terminate()
        assert service.wait() == 0
        os.kill(min(workers_of(new)), signal.SIGKILL)
        service.output_with(UP, 8, seconds=30)
        assert service.stub.Health(pb.HealthRequest(), wait_for_ready=True, timeout=10).status == "ok"
        assert service.http.get("/ready").status_code == 200
        assert "GRPC_PORT=" not in service.output()
        os.kill(new, signal.SIGTERM)
        assert eventually(lambda: not Path(f"/proc/{new}").exists(), 20)


def started_at(grpc_port: int, name: str) -> tuple[int, str]:
    """Start a service that does not come up; return its status and output."""
    port = str(free_port())
    settings = {"MODEL": "offline/demo", "HOST": "127.0.0.1", "PORT": port, "GRPC_PORT": str(grpc_port)}
    done = subprocess.run(
        [part.format(port=port) for part in EVERY[name]],
        cwd=ROOT,
        env={"PATH": "", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout


def children_of(pid: int) -> set[int]:
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.add(int(status.parent.name))
    return found


def workers_of(pid: int) -> set[int]:
    """Return children of the main process that have loaded gRPC."""
    return {child for child in children_of(pid) if has_loaded_grpc(child)}


def has_loaded_grpc(pid: int) -> bool:
    try:
        return "cygrpc" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it has ended
        return False
