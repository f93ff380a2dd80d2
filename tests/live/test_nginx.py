"""Through a real nginx: event streams by its defaults, and clients of a Unix socket by their addresses."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.ports import free_port
from testing.service import COMMANDS, Service
from tests.needs import needs

READ_TIMEOUT = 1  # seconds; nginx's own is 60

pytestmark = needs("nginx")


@pytest.fixture
def service(upstream: GeminiStandIn) -> Iterator[Service]:
    command = [part.replace("src.asgi", "tests.live.quick_keep_alive") for part in COMMANDS["granian"]]
    with Service(command, **upstream.env) as running:
        yield running


@pytest.fixture
def nginx(service: Service, tmp_path: Path) -> Iterator[str]:
    """The URL of an nginx in front of the service."""
    port = free_port()
    with in_front(port, f"proxy_pass {service.rest_url}; proxy_read_timeout {READ_TIMEOUT}s;", tmp_path):
        wait_until_up(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"


@contextmanager
def in_front(port: int, location: str, directory: Path) -> Iterator[None]:
    """Run an nginx at this port whose only location has these directives."""
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log stderr; events {{}}"
        f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port}; location / {{ {location} }} }} }}"
    )
    command = ["nginx", "-e", "stderr", "-p", str(directory), "-c", str(directory / "nginx.conf")]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.terminate()


def wait_until_up(url: str) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, trust_env=False, verify=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError(f"not up: {url}")


def test_a_stream_passes_nginx_chunk_by_chunk_and_outlasts_its_silence(nginx: str, upstream: GeminiStandIn) -> None:
    gate = gemini.Gate()
    upstream.default(gemini.text("one", "two", gate=gate))
    read = httpx.Timeout(10)
    with httpx.stream(
        "POST", f"{nginx}/tell-story/stream", json={}, timeout=read, trust_env=False, verify=False
    ) as answer:
        assert answer.status_code == 200  # before the first chunk
        lines = (line for line in answer.iter_lines() if line)
        comments, silent_until = 0, time.monotonic() + READ_TIMEOUT * 2
        while time.monotonic() < silent_until:
            assert next(lines) == ": keep-alive"
            comments += 1
        assert comments >= READ_TIMEOUT * 2
        for word in ("one", "two"):  # each is let through only when the one before it has come
            gate.release()
            assert next(line for line in lines if line.startswith("data:")) == f'data: {{"chunk":"{word}"}}'
        gate.release()
        assert '"done":true' in next(line for line in lines if line.startswith("data:"))
        assert not [line for line in lines if not line.startswith(":")]


# The command of each server, with a Unix socket in the place of host and port.
AT_A_SOCKET = {
    "granian": [*COMMANDS["granian"], "--uds", "{socket}"],
    "uvicorn": [*COMMANDS["uvicorn"], "--uds", "{socket}"],
    "hypercorn": [part.replace("127.0.0.1:{port}", "unix:{socket}") for part in COMMANDS["hypercorn"]],
    "gunicorn": [*COMMANDS["gunicorn, 2 workers"], "--workers", "1", "--bind", "unix:{socket}"],
}
FORWARDING = (
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto https;"
    "proxy_pass http://unix:{socket}:;"
)


@contextmanager
def behind_a_socket(server: str, directory: Path, **env: str) -> Iterator[Service]:
    """The service at a Unix socket, whose REST port is nginx's."""
    socket = str(directory / "s")
    command = [part.replace("{socket}", socket) for part in AT_A_SOCKET[server]]
    service = Service(command, **env)
    with in_front(service.port, FORWARDING.replace("{socket}", socket), directory), service:
        yield service


def ask(service: Service, client: str, claimed: str) -> httpx.Response:
    """Ask nginx from this address, after a header that claims another one."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=client, verify=False), timeout=30) as http:
        return http.post(f"{service.rest_url}/chat", json={}, headers={"X-Forwarded-For": claimed})


@pytest.mark.parametrize("server", AT_A_SOCKET)
def test_behind_a_unix_socket_each_client_has_its_limit_where_unix_is_trusted(server: str, tmp_path: Path) -> None:
    with behind_a_socket(server, tmp_path, TRUSTED_PROXIES="unix", RATE_LIMIT_DEFAULT="1/hour") as service:
        answers = [ask(service, client, "203.0.113.7") for client in ("127.0.0.1", "127.0.0.2")]
        answers.append(ask(service, "127.0.0.2", "203.0.113.8"))
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert all("strict-transport-security" in answer.headers for answer in answers)
        assert service.access_line(answers[1].headers["x-request-id"])["client"] == "127.0.0.2"


@pytest.mark.parametrize("server", AT_A_SOCKET)
def test_behind_a_unix_socket_nobody_is_believed_by_default(server: str, tmp_path: Path) -> None:
    trusted = {"TRUSTED_PROXIES": "127.0.0.1", "RATE_LIMIT_DEFAULT": "1/hour"}
    with behind_a_socket(server, tmp_path, **trusted) as service:
        answers = [ask(service, client, "203.0.113.7") for client in ("127.0.0.1", "127.0.0.2")]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert not any("strict-transport-security" in answer.headers for answer in answers)
        assert service.access_line(answers[0].headers["x-request-id"])["client"] == "unknown"
