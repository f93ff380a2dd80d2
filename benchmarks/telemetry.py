"""What it costs to be watched: requests for each second of CPU, with telemetry off, on, and without its module.

    .venv/bin/python -m benchmarks.telemetry

The same build several times, loaded in turn in each round, the servers on one core and the load (wrk) on another: as it
is by default; with metrics, with one request in ten traced, with both; and with nothing of `src.observability.watch` in
it. The answer is a cached translation, so nothing hides the cost. Printed are medians, of the ratios to the last too.
"""

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest import mock

from starlette.types import ASGIApp

from src import asgi
from src.observability.watch import Watch
from tests.live.service import COMMANDS, Service, free_port
from tests.standins.sinks import OtlpOverHttp

ROUNDS = 9
SECONDS = 3
CONNECTIONS = 32
SERVER_CORE, LOAD_CORE = 0, 1
REQUEST = """
wrk.method = "POST"
wrk.body = '{"text":"hello"}'
wrk.headers["content-type"] = "application/json"
"""


def without() -> ASGIApp:
    """The service with nothing that could watch it."""
    with mock.patch.multiple(asgi, start_telemetry=lambda _: None, build_watch=lambda settings, *_: Watch(settings)):
        return asgi.create_app()


def pinned(command: list[str], core: int) -> list[str]:
    return ["taskset", "--cpu-list", str(core), *command]


def cpu_seconds(service: Service) -> float:
    """What all processes of the service have used so far."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == service.process.pid:  # its session
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def requests_per_cpu_second(service: Service, script: Path) -> float:
    """Answers with 200, as wrk counts them, for each second that the service computed."""
    load = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(script), f"{service.rest_url}/translate"]
    before = cpu_seconds(service)
    done = subprocess.run(pinned(load, LOAD_CORE), capture_output=True, text=True, check=True)
    used = cpu_seconds(service) - before
    assert "Non-2xx" not in done.stdout, done.stdout
    [line] = [line for line in done.stdout.splitlines() if " requests in " in line]
    return int(line.split()[0]) / used


def main() -> None:
    """Print the medians and their ratios."""
    if shutil.which("wrk") is None:
        sys.exit("error: needs wrk (Debian: apt install wrk)")
    if (os.cpu_count() or 1) <= max(SERVER_CORE, LOAD_CORE):
        sys.exit("error: needs two cores")
    os.sched_setaffinity(0, {LOAD_CORE})  # the collector is in here
    granian = COMMANDS["granian"]
    with ExitStack() as stack:
        collector = stack.enter_context(OtlpOverHttp())
        script = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "request.lua"
        script.write_text(REQUEST)
        metrics = {"METRICS_PORT": str(free_port())}
        traces = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
        }
        bare = [part.replace("src.asgi:create_app", "benchmarks.telemetry:without") for part in granian]
        services = {
            "off": stack.enter_context(Service(pinned(granian, SERVER_CORE))),
            "metrics": stack.enter_context(Service(pinned(granian, SERVER_CORE), **metrics)),
            "traces": stack.enter_context(Service(pinned(granian, SERVER_CORE), **traces)),
            "both": stack.enter_context(Service(pinned(granian, SERVER_CORE), **traces, METRICS_PORT=str(free_port()))),
            "without": stack.enter_context(Service(pinned(bare, SERVER_CORE))),
        }
        measured: dict[str, list[float]] = {name: [] for name in services}
        for number in range(ROUNDS + 1):
            for name in random.sample(list(services), len(services)):
                rate = requests_per_cpu_second(services[name], script)
                if number:  # the first round warms up
                    measured[name].append(rate)
    print("requests for each second of CPU, and their ratio")
    for name, rates in measured.items():
        ratios = [rate / baseline for rate, baseline in zip(rates, measured["without"], strict=True)]
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:8} {statistics.median(rates):8.0f}  {statistics.median(ratios):.3f}  {spread}")


if __name__ == "__main__":
    main()
