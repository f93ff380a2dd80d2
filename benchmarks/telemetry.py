"""Cost of telemetry: requests for each second of CPU, with telemetry off, on, and without its module.

    .venv/bin/python -m benchmarks.telemetry

The same build several times, loaded in turn in each round, the servers on one core and the load (wrk) on another: as it
is by default; with metrics, with one request in ten traced, with both; and with nothing of
`src.telemetry.build` in it. The answer is a translation: one from the cache, beside which nothing hides the
cost, and one that the embedded model makes anew. Printed are medians, of the ratios to the last too.
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
from src import asgi, service
from src.telemetry.build import Telemetry
from testing.fakes.sinks import OtlpOverHttp
from testing.ports import free_port
from testing.service import COMMANDS, Service

ROUNDS = 9
SECONDS = 3
CONNECTIONS = 8
POST = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
"""
REQUESTS = {
    "cached": """
wrk.body = '{"text":"hello"}'
""",
    "new": """
local number = os.time() * 1000000
function request()
    number = number + 1
    return wrk.format(nil, nil, nil, string.format('{"text":"%.0f"}', number))
end
""",
}


def without() -> ASGIApp:
    """The service with nothing that could watch it."""
    with mock.patch.multiple(
        service, start_telemetry=lambda _: None, build_telemetry=lambda settings, *_: Telemetry(settings)
    ):
        return asgi.create_app()


def requests_per_cpu_second(service: Service, script: Path) -> float:
    """Answers for each second that the service computed."""
    return 1e6 / load.over_http(service, "/translate", script, seconds=SECONDS, connections=CONNECTIONS).cpu


def compare(services: dict[str, Service], script: Path) -> None:
    """Print the medians and their ratios."""
    measured: dict[str, list[float]] = {name: [] for name in services}
    for number in range(ROUNDS + 1):
        for name in random.sample(list(services), len(services)):
            rate = requests_per_cpu_second(services[name], script)
            if number:  # the first round warms up
                measured[name].append(rate)
    for name, rates in measured.items():
        ratios = [rate / baseline for rate, baseline in zip(rates, measured["without"], strict=True)]
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:8} {statistics.median(rates):8.0f}  {statistics.median(ratios):.3f}  {spread}")


def main() -> None:
    """Start the servers and compare them."""
    load.need_tools()
    os.sched_setaffinity(0, {load.LOAD_CORE})  # the collector is in here
    granian = COMMANDS["granian"]
    with ExitStack() as stack:
        collector = stack.enter_context(OtlpOverHttp())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        traces = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
        }
        bare = [part.replace("src.asgi:create_app", "benchmarks.telemetry:without") for part in granian]
        services = {
            "off": stack.enter_context(Service(load.pinned(granian))),
            "metrics": stack.enter_context(Service(load.pinned(granian), METRICS_PORT=str(free_port()))),
            "traces": stack.enter_context(Service(load.pinned(granian), **traces)),
            "both": stack.enter_context(Service(load.pinned(granian), **traces, METRICS_PORT=str(free_port()))),
            "without": stack.enter_context(Service(load.pinned(bare))),
        }
        for name, request in REQUESTS.items():
            script = folder / f"{name}.lua"
            script.write_text(POST + request)
            print(f"{name}: requests for each second of CPU, and their ratio")
            compare(services, script)


if __name__ == "__main__":
    main()
