"""Starts the real service as a user would, in a process of its own, on free ports."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Self

import grpc
import httpx

from testing import small_service
from testing.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
START_SECONDS = 30.0
LINE_SECONDS = 30.0  # a second worker may start after the first has answered
# Values of PYTHONPATH: the service with the rows of `testing.small_service`, and the one with the sample flows.
SMALL_SERVICE = str(ROOT / "testing/small_service/site")
SAMPLES = ""

# How each kind of user starts it. `{port}` is filled in; the gRPC port always comes from the environment.
COMMANDS: dict[str, list[str]] = {
    "python -m src": [sys.executable, "-m", "src"],
    "python -m src, 2 workers": [sys.executable, "-m", "src", "--workers", "2"],
    "python -m src, uvicorn": [sys.executable, "-m", "src", "--server", "uvicorn"],
    "python -m src, hypercorn": [sys.executable, "-m", "src", "--server", "hypercorn"],
    "granian": [
        *(str(BIN / "granian"), "--interface", "asgi", "--factory", "src.asgi:create_app"),
        *("--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop", "--workers-kill-timeout", "11"),
        *("--log-config", "logging.json", "--no-ws", "--http", "1", "--backpressure", "8192"),
        *("--http1-buffer-size", "32768", "--http1-header-read-timeout", "60000"),
    ],
    "uvicorn": [
        *(str(BIN / "uvicorn"), "--factory", "src.asgi:create_app", "--host", "127.0.0.1", "--port", "{port}"),
        *("--no-server-header", "--timeout-graceful-shutdown", "11", "--log-config", "logging.json"),
        *("--no-proxy-headers", "--ws", "none", "--http", "src.lifecycle.uvicorn_http:HeadTimeoutProtocol"),
        *("--timeout-keep-alive", "75"),
    ],
    "hypercorn": [
        *(str(BIN / "hypercorn"), "--config", "hypercorn.toml", "--bind", "127.0.0.1:{port}", "src.asgi:create_app()"),
    ],
    "gunicorn, 2 workers": [
        *(str(BIN / "gunicorn"), "-c", "gunicorn.conf.py", "--workers", "2", "src.asgi:create_app()"),
    ],
}


class Service:
    """A running service; a context manager that starts and stops it.

    Attributes:
        stderr: Where its log goes; set it before the start for a log that `output` then lacks.

    Args:
        command: What to run; `{port}` in it becomes the REST port.
        env: Settings beside the ports, the model (`offline/demo` unless given) and loopback as address; PYTHONPATH says
            whose flows are served.
    """

    def __init__(self, command: Sequence[str] = COMMANDS["python -m src"], **env: str) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        self.rest_url = f"http://127.0.0.1:{self.port}"
        self._command = [part.format(port=self.port) for part in command]
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "GRPC_PORT": str(self.grpc_port),
            "MODEL": "offline/demo",
            "RATE_LIMIT_DEFAULT": "1000000/second",
            "PYTHONPATH": SMALL_SERVICE,
            **env,
        }
        self._output = TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self.stderr: IO[bytes] | int = self._output

    def __enter__(self) -> Self:
        self.start_again()
        # Plain HTTP: certificates that nobody asks for would take longer to load than an answer.
        self.http = httpx.Client(base_url=self.rest_url, timeout=30, trust_env=False, verify=False)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        self.stub: Any = small_service.stub(self.channel)
        try:
            self._wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start_again(self) -> None:
        """Start the process, for the first time or after its end, at the same ports. It may not be up yet."""
        self.process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._env, stdout=self._output, stderr=self.stderr, start_new_session=True
        )

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.channel.close()
        self.kill()
        self._output.close()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if self.http.get("/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not up: {self._command}\n{self.output()}")

    def output(self) -> str:
        """Return everything on stdout and stderr so far."""
        self._output.flush()
        with open(f"/proc/self/fd/{self._output.fileno()}", "rb") as copy:
            return copy.read().decode(errors="replace")

    def output_with(self, text: str, times: int = 1, seconds: float = LINE_SECONDS) -> str:
        """Wait until the output holds the text so many times, and return it: lines leave a moment after the event."""
        deadline = time.monotonic() + seconds
        while (output := self.output()).count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} is not there {times} times\n{output}"
            time.sleep(0.01)
        return output

    def access_line(self, request_id: str) -> dict[str, Any]:
        """The access log's line of this request or RPC, which is written after the client has its answer."""
        deadline = time.monotonic() + LINE_SECONDS
        while time.monotonic() < deadline:
            for line in self.output().splitlines():
                if request_id in line and line.startswith("{"):
                    entry: dict[str, Any] = json.loads(line)
                    if entry.get("logger") == "access":
                        return entry
            time.sleep(0.01)
        raise AssertionError(f"no line of {request_id}\n{self.output()}")

    def terminate(self) -> None:
        """Ask it to stop, as an orchestrator does."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 20) -> int:
        """Its exit status, once it has ended by itself."""
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End it and every process it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
