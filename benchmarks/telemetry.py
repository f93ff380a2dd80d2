"""What it costs to be watched: requests for each second of CPU, with telemetry off, on, and without its module.

    .venv/bin/python -m benchmarks.telemetry

The same build several times, loaded in turn in each round, the servers on one core and the load (wrk) on another: as it
is by default; with metrics, with one request in ten traced, with both; and with nothing of `src.observability.watch` in
it. The answer is a cached translation, so nothing hides the cost. Printed are medians, of the ratios to the last too.
"""

import os
import random
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from starlette.types import ASGIApp

from benchmarks import load
from src import asgi
from src.observability.watch import Watch
from tests.live.service import COMMANDS, Service
from tests.ports import free_port
from tests.standins.sinks import OtlpOverHttp

ROUNDS = 9
SECONDS = 3
REQUEST = """
wrk.method = "POST"
wrk.body = '{"text":"hello"}'
wrk.headers["content-type"] = "application/json"
"""


def without() -> ASGIApp:
    """The service with nothing that could watch it."""
    with mock.patch.multiple(asgi, start_telemetry=lambda _: None, build_watch=lambda settings, *_: Watch(settings)):
        return asgi.create_app()


def requests_per_cpu_second(service: Service, script: Path) -> float:
    """Answers with 200, as wrk counts them, for each second that the service computed."""
    return 1e6 / load.over_http(service, "/translate", script, seconds=SECONDS).cpu


def main() -> None:
    """Print the medians and their ratios."""
    load.need_tools()
    os.sched_setaffinity(0, {load.LOAD_CORE})  # the collector is in here
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
            "off": stack.enter_context(Service(load.pinned(granian))),
            "metrics": stack.enter_context(Service(load.pinned(granian), **metrics)),
            "traces": stack.enter_context(Service(load.pinned(granian), **traces)),
            "both": stack.enter_context(Service(load.pinned(granian), **traces, METRICS_PORT=str(free_port()))),
            "without": stack.enter_context(Service(load.pinned(bare))),
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
