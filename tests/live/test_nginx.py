"""Event streams through a real nginx with its defaults: each chunk at once, and no end while the model thinks."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live.service import COMMANDS, Service
from tests.needs import needs
from tests.ports import free_port
from tests.standins import gemini
from tests.standins.gemini import GeminiStandIn

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
    temporary = "".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr; events {{}}"
        f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port};"
        f"location / {{ proxy_pass {service.rest_url}; proxy_read_timeout {READ_TIMEOUT}s; }} }} }}"
    )
    command = ["nginx", "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    with subprocess.Popen(command) as process:
        try:
            wait_until_up(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
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
