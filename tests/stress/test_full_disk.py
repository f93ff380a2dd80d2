"""A full temporary directory costs metrics, and nothing else."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from testing.ports import free_port
from testing.service import COMMANDS, Service

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to mount a disk that is full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with room for half a MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_temporary_directory_stops_no_service(server: str, small_disk: Path) -> None:
    port = free_port()
    with Service(COMMANDS[server], TMPDIR=str(small_disk), METRICS_PORT=str(port)) as service:
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(1 << 20))
        paths = ("/translate", "/chat", "/nothing", "/ready", "/health", "/tell-joke", "/generate-code", "/review-code")
        for method in ("GET", "POST", "PUT", "DELETE"):
            for path in paths:
                assert service.http.request(method, path, json={}).status_code < 500
        service.output_with('"no room for metrics"')
        filler.unlink()
        for path in paths:
            service.http.request("DELETE", path)
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, verify=False).text
        assert metrics.count('http_request_method="DELETE"') > len(paths)
        assert service.process.poll() is None
