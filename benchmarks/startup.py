"""Start-up, from the command to the first 200 on /health: the service against a bare FastAPI app on granian.

    .venv/bin/python -m benchmarks.startup

Both are started in turn in the same run; the ratio of the medians is what counts.
"""

import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from fastapi import FastAPI

from testing.ports import free_port

ROUNDS = 7
GRANIAN = [str(Path(sys.executable).parent / "granian"), "--interface", "asgi", "--loop", "uvloop", "--factory"]


def bare() -> FastAPI:
    """The baseline: one endpoint, nothing else."""
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def seconds_to_first_answer(app: str) -> float:
    """Seconds from starting granian with `app` to its first 200."""
    port = free_port()
    env = {"PATH": os.environ["PATH"], "MODEL": "offline/demo", "GRPC_PORT": str(free_port()), "LOG_LEVEL": "error"}
    began = time.perf_counter()
    process = subprocess.Popen([*GRANIAN, app, "--port", str(port), "--log-level", "error"], env=env)
    try:
        while time.perf_counter() - began < 30:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    return time.perf_counter() - began
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.002)
    finally:
        process.terminate()
        process.wait()
    raise TimeoutError(app)


def ratio() -> dict[str, float]:
    """Medians of both in seconds, and their ratio."""
    times: dict[str, list[float]] = {"benchmarks.startup:bare": [], "src.asgi:create_app": []}
    for number in range(ROUNDS + 1):
        for app, measured in times.items():
            seconds = seconds_to_first_answer(app)
            if number:  # the first round warms the file cache
                measured.append(seconds)
    baseline, service = (statistics.median(measured) for measured in times.values())
    return {"baseline": baseline, "seconds": service, "ratio": service / baseline}


def main() -> None:
    """Print both medians and their ratio."""
    found = ratio()
    print(f"bare FastAPI on granian {found['baseline']:.2f} s, the service {found['seconds']:.2f} s, ", end="")
    print(f"ratio {found['ratio']:.2f}")


if __name__ == "__main__":
    main()
