"""The README's commands work as they stand, on other ports."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from testing.service import BIN, COMMANDS, ROOT, SAMPLES, Service
from tests.docs.blocks import fences_of, matches
from tests.needs import missing, needs

README = ROOT / "README.md"
CONSOLE = [fence.text for fence in fences_of(README) if fence.language == "console"]
# The status after SIGTERM. uvicorn's own command raises the signal again when it is done.
EXIT_STATUS = {"uvicorn": -15}


def commands(block: str) -> list[str]:
    """Return a block's commands, each in one line."""
    return block.replace("\\\n", " ").splitlines()


STARTS = [command for block in CONSOLE for command in commands(block) if command.startswith("MODEL=")]
SERVERS = {Path(shlex.split(command)[1]).name: command for command in STARTS}


def test_every_block_with_commands_is_tested() -> None:
    """`./run.sh` is tested by the adoption tests, which make a fresh checkout for it."""
    starts = {command.partition(" ")[0] for block in CONSOLE for command in commands(block) if block[0] != "$"}
    assert starts == {"./run.sh", "MODEL=offline/demo"}
    assert {fence.language for fence in fences_of(README)} == {"console", "text"}
    assert SERVERS.keys() == {"python", *(name.partition(",")[0] for name in COMMANDS if not name.startswith("python"))}
    assert len(SERVERS) == len(STARTS)


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_comes_up_answers_and_stops(name: str) -> None:
    """With the packages that the tests run with in place of `.venv`, and on loopback only."""
    command = SERVERS[name].replace(".venv/bin/", f"{BIN}/").replace("0.0.0.0", "127.0.0.1").replace("8080", "{port}")
    with Service(["bash", "-c", command]) as service:
        assert service.http.post("/chat", json={}).status_code == 200
        health: Any = health_pb2_grpc.HealthStub(service.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        service.terminate()
        assert service.wait(9) == EXIT_STATUS.get(name, 0)  # what hangs takes the grace of ten seconds
        assert "Traceback" not in service.output()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(DEBUG="true", PYTHONPATH=SAMPLES) as running:
        yield running


def run(command: str, service: Service) -> str:
    """Run a command of the page against this service, and return what it prints."""
    for port, other in (("8080", service.port), ("50051", service.grpc_port)):
        command = command.replace(f"localhost:{port}", f"127.0.0.1:{other}")
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs("bash", "curl")
def test_the_shown_calls_print_what_is_shown(service: Service) -> None:
    shown = [block for block in CONSOLE if block.startswith("$ ")]
    assert shown
    for block in shown:
        command, _, output = block.removeprefix("$ ").partition("\n")
        assert matches(output, run(command, service))


TABLE = re.findall(r"`((?:curl|grpcurl) [^`]+)`", README.read_text(encoding="utf-8"))


@needs("bash", "curl")
@pytest.mark.parametrize("command", [command for command in TABLE if command.startswith("curl")])
def test_a_curl_command_of_the_endpoint_table_works(service: Service, command: str) -> None:
    printed = run(command.replace("curl", "curl --silent --show-error --fail", 1), service)
    assert printed.startswith("data: " if "/stream" in command else "{")
    assert "event: error" not in printed


@pytest.mark.parametrize("command", [command for command in TABLE if command.startswith("grpcurl")])
def test_a_grpcurl_command_of_the_endpoint_table_works(service: Service, command: str) -> None:
    """By `buf curl` where grpcurl is missing: the README says that it does the same."""
    if missing("grpcurl"):
        if reason := missing("bash", "buf"):
            pytest.skip(reason)
        command = as_buf_curl(command)
    assert run(command, service).startswith("{")


def as_buf_curl(command: str) -> str:
    """Translate grpcurl's arguments."""
    *arguments, address, method = shlex.split(command.removeprefix("grpcurl -plaintext"))
    buf = ROOT / "node_modules/.bin/buf"
    url = f"http://{address}/{method}"
    return shlex.join([str(buf), "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments, url])


def test_every_row_of_the_endpoint_table_has_a_command_of_each_protocol() -> None:
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if "| `curl " in line]
    assert len(rows) == sum(command.startswith("grpcurl") for command in TABLE) > 1
