"""The service against its baselines, in one run: `.venv/bin/python -m benchmarks` (or `just bench`).

Production mode, every layer, a JSON access log that goes to a file, the embedded model; granian with one worker on one
core, the load on another. What is compared is measured in turn, round by round, and what counts is the median of the
ratios: whatever else the machine does, it does to both. Writes docs/performance/results.json, .md and plots, and ends
with 1 where a figure is more than a tenth worse than in the results that were there before.
"""

import argparse
import json
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx

from benchmarks import buckets, in_process, load, startup
from benchmarks.bare_grpc import MESSAGE, TRANSLATE_TEXT
from benchmarks.load import Cost
from benchmarks.report import GOALS, plots, table
from testing.service import COMMANDS, Service
from testing.small_service import pb

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "performance"
GRANIAN = COMMANDS["granian"]
WORSE = 1.1  # by which factor a ratio may get worse from one recorded run to the next
GROWTH = {
    "connections": (10, 100, 1000),
    "body bytes": (1_000, 100_000, 1_000_000),
    "cache entries": (1, 64, 1024),
}
Measure = Callable[[], Cost]


class Baseline(Service):
    """An app of `benchmarks.baselines`, started as the service is."""

    def __init__(self, factory: str) -> None:
        command = [part.replace("src.asgi:create_app", f"benchmarks.baselines:{factory}") for part in GRANIAN]
        super().__init__(load.pinned(command))

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                if self.http.get("/health").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise TimeoutError(self.output())


class BareGrpc(Service):
    """`benchmarks.bare_grpc`, in a process of its own: no ASGI server beside it."""

    def __init__(self) -> None:
        super().__init__(load.pinned([sys.executable, "-m", "benchmarks.bare_grpc"]))

    def _wait_until_up(self) -> None:
        grpc.channel_ready_future(self.channel).result(timeout=30)


class Requests:
    """The requests to send: scripts for wrk, and a framed message for h2load, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.translate = self.post("translate", '{"text":"hello"}')
        message = pb.TranslateRequest(text="hello").SerializeToString()
        self.message = folder / "message.bin"
        self.message.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)

    def post(self, name: str, body: str) -> Path:
        """Always the same JSON."""
        return self._script(name, f"wrk.body = [==[{body}]==]")

    def one_of(self, count: int) -> Path:
        """One of so many texts, in turn."""
        return self._script(
            f"one-of-{count}",
            "local number = 0\n"
            f"request = function() number = (number + 1) % {count}\n"
            "return wrk.format(nil, nil, nil, '{\"text\":\"hello ' .. number .. '\"}') end",
        )

    def _script(self, name: str, lua: str) -> Path:
        file = self._folder / f"{name}.lua"
        file.write_text(f'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n{lua}\n')
        return file


def in_turn(rounds: int, *measures: Measure) -> list[list[Cost]]:
    """Each of them once a round; the first round warms up and is not kept."""
    found: list[list[Cost]] = [[] for _ in measures]
    for number in range(rounds + 1):
        for measure, costs in zip(measures, found, strict=True):
            cost = measure()
            if number:
                costs.append(cost)
    return found


def compared(rounds: int, service: Measure, baseline: Measure) -> dict[str, float]:
    """Medians of both, and of their ratio: above 1 where the service is the faster one."""
    ours, theirs = in_turn(rounds, service, baseline)
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "ratio": statistics.median(a.per_second / b.per_second for a, b in pairs),
        "per_second": statistics.median(a.per_second for a in ours),
        "baseline_per_second": statistics.median(b.per_second for b in theirs),
        "cpu_us": statistics.median(a.cpu for a in ours),
        "baseline_cpu_us": statistics.median(b.cpu for b in theirs),
        "p50_us": statistics.median(a.p50 for a in ours),
        "p99_us": statistics.median(a.p99 for a in ours),
        "p99_ratio": statistics.median(a.p99 / b.p99 for a, b in pairs),
    }


def throughput(rounds: int, seconds: int, requests: Requests) -> dict[str, Any]:
    """Endpoints and the RPC against bare ones."""
    with ExitStack() as stack:
        service = stack.enter_context(Service(load.pinned(GRANIAN)))
        refusing = stack.enter_context(Service(load.pinned(GRANIAN), RATE_LIMIT_DEFAULT="1/day"))
        bare = stack.enter_context(Baseline("fastapi"))
        raw = stack.enter_context(Baseline("raw"))
        bare_grpc = stack.enter_context(BareGrpc())
        if service.stub.TranslateText(pb.TranslateRequest(text="hello")).ByteSize() != len(MESSAGE):
            raise ValueError("the service's answer is longer or shorter than TRANSLATION of benchmarks.bare_grpc")

        def get(server: Service) -> Measure:
            return lambda: load.over_http(server, "/health", seconds=seconds)

        def refuse() -> Cost:
            return load.over_http(refusing, "/translate", seconds=seconds, refused=True)

        def post(server: Service) -> Measure:
            return lambda: load.over_http(server, "/translate", requests.translate, seconds=seconds)

        def rpc(server: Service) -> Measure:
            return lambda: load.over_grpc(server, TRANSLATE_TEXT, requests.message, seconds=seconds)

        return {
            "GET /health": compared(rounds, get(service), get(bare)),
            "GET /health, beside raw ASGI": compared(rounds, get(service), get(raw)),
            "POST /translate, cached": compared(rounds, post(service), post(bare)),
            "RPC TranslateText, cached": compared(rounds, rpc(service), rpc(bare)),
            "RPC TranslateText, cached, beside grpc.aio alone": compared(rounds, rpc(service), rpc(bare_grpc)),
            "429": compared(rounds, refuse, get(bare)),
        }


def growth(rounds: int, seconds: int, requests: Requests) -> dict[str, dict[str, float]]:
    """Microseconds of CPU a request as something grows."""
    with Service(load.pinned(GRANIAN), MAX_BODY_SIZE="2000000") as service:

        def cost(script: Path, connections: int = load.CONNECTIONS) -> float:
            def measure() -> Cost:
                return load.over_http(service, "/translate", script, seconds=seconds, connections=connections)

            [costs] = in_turn(rounds, measure)
            return statistics.median(each.cpu for each in costs)

        for number in range(max(GROWTH["cache entries"])):
            service.http.post("/translate", json={"text": f"hello {number}"}).raise_for_status()

        def body(size: int) -> Path:
            return requests.post(f"body-{size}", json.dumps({"text": "hello", "unknown": "x" * (size - 40)}))

        return {
            "connections": {str(n): cost(requests.translate, n) for n in GROWTH["connections"]},
            "body bytes": {str(n): cost(body(n)) for n in GROWTH["body bytes"]},
            "cache entries": {str(n): cost(requests.one_of(n)) for n in GROWTH["cache entries"]},
        }


def workers(rounds: int, seconds: int, requests: Requests) -> float:
    """Requests for each second of CPU with two workers, against one: 1 where nothing is lost. Both share both cores
    with the load.
    """
    both = "0,1"
    with (
        Service(load.pinned(GRANIAN, both)) as one,
        Service(load.pinned([*GRANIAN, "--workers", "2"], both)) as two,
    ):
        costs = in_turn(
            rounds,
            *(
                lambda server=server: load.over_http(server, "/translate", requests.translate, seconds=seconds)
                for server in (two, one)
            ),
        )
        return float(statistics.median(b.cpu / a.cpu for a, b in zip(*costs, strict=True)))


def memory(seconds: int, requests: Requests) -> dict[str, float]:
    """Megabytes of the worker when it is up, and after load."""
    found = {}
    models = {"offline": {}, "Gemini": {"MODEL": "googleai/gemini-flash-latest", "GEMINI_API_KEY": "unused"}}
    for name, model in models.items():
        with Service(load.pinned(GRANIAN), **model) as service:
            found[f"{name}, idle"] = load.megabytes(service)
            if name == "offline":
                load.over_http(service, "/translate", requests.translate, seconds=seconds)
                found[f"{name}, after load"] = load.megabytes(service)
    return found


def measure(rounds: int, seconds: int) -> dict[str, Any]:
    """All figures of one run."""
    load.need_tools()
    with tempfile.TemporaryDirectory() as folder:
        requests = Requests(Path(folder))
        return {
            "throughput": throughput(rounds, seconds, requests),
            "in_process": in_process.measure(),
            "start_up": startup.ratio(),
            "memory": memory(seconds, requests),
            "workers": workers(rounds, seconds, requests),
            "growth": growth(max(1, rounds // 2), seconds, requests) | {"clients": buckets.decision_times()},
        }


def worse(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The goals whose figure got worse by more than a tenth; times are held against a bare request of their own run."""
    return [
        f"{goal.name}: {old:.2f} before, {new:.2f} now{', in bare requests' if goal.is_time else ''}"
        for goal in GOALS
        for old, new in [(goal.comparable(before), goal.comparable(now))]
        if (old > new * WORSE if goal.more_is_better else new > old * WORSE)
    ]


def main(argv: Sequence[str]) -> int:
    """Measure, compare, write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each load in each round")
    options = parser.parse_args(argv)
    now = measure(options.rounds, options.seconds)
    file = RESULTS / "results.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else now
    regressions = worse(before, now)
    file.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "results.md").write_text(table(now), encoding="utf-8")
    plots(now, RESULTS)
    print(table(now))
    for regression in regressions:
        print(f"worse than the last run: {regression}", file=sys.stderr)
    return bool(regressions)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
