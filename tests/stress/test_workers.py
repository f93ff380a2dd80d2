"""A worker that is killed is replaced, or the service ends with a status that supervisors act on."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from testing.ports import free_port
from testing.service import COMMANDS, Service
from tests.live.test_metrics import directory_of, scraped

RECOVERY_SECONDS = 5.0
PYTHON = COMMANDS["python -m src, 2 workers"]
REPLACING = {
    "python -m src": PYTHON,
    "granian": [*COMMANDS["granian"], "--workers", "2", "--respawn-failed-workers"],
    "uvicorn": [*COMMANDS["uvicorn"], "--workers", "2"],
    "python -m src, uvicorn": [*PYTHON, "--server", "uvicorn"],
    "gunicorn": COMMANDS["gunicorn, 2 workers"],
}


def workers(service: Service) -> set[int]:
    """The processes that serve: children of the first one that have loaded gRPC."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == service.process.pid and "cygrpc" in (entry / "maps").read_text():
                found.add(int(entry.name))
        except (OSError, IndexError, ValueError):
            continue
    return found


def within(seconds: float, check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("name", REPLACING)
def test_a_killed_worker_is_replaced_and_leaves_no_gauges(name: str) -> None:
    port = free_port()
    with Service(REPLACING[name], METRICS_PORT=str(port)) as service:
        assert within(20, lambda: len(workers(service)) == 2 and service.output().count("service is up") == 2)
        before = workers(service)
        killed = min(before)

        def gauges() -> list[Path]:
            return list(directory_of(port).glob(f"gauge_live*_{killed}.db"))

        assert within(RECOVERY_SECONDS, lambda: bool(gauges()))
        os.kill(killed, signal.SIGKILL)
        assert within(RECOVERY_SECONDS * 2, lambda: len(workers(service) - {killed}) == 2), service.output()
        assert within(RECOVERY_SECONDS, lambda: service.output().count("service is up") == 3)
        for _ in range(10):
            assert httpx.get(f"{service.rest_url}/ready", trust_env=False).status_code == 200
        assert within(RECOVERY_SECONDS, lambda: not gauges())
        assert scraped(port)
        service.terminate()
        assert service.wait() in (0, -signal.SIGTERM)


def test_hypercorn_replaces_none_but_ends_with_a_status_that_says_so() -> None:
    with Service([*PYTHON, "--server", "hypercorn"]) as service:
        assert within(20, lambda: len(workers(service)) == 2)
        os.kill(min(workers(service)), signal.SIGKILL)
        assert service.wait() not in (0, None)


def test_hypercorn_with_workers_that_is_asked_to_stop_ends_with_0() -> None:
    with Service([*PYTHON, "--server", "hypercorn"]) as service:
        service.terminate()
        assert service.wait() == 0
