"""Minutes of mixed load on a service whose LLM fails, hangs and blocks, and whose clients leave or attack.

    .venv/bin/python -m benchmarks.soak --minutes 10

Exits with 1 when a caller met a bug, when memory, tasks or open files grew, or when memory grew by more than
docs/bounds.md allows. Writes docs/performance/soak.svg.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
from matplotlib import pyplot

from benchmarks.callers import ADDRESSES, Callers, Kind
from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.service import COMMANDS, ROOT, Service
from tests.live import counted
from tools.site.bounds import value_of

CALLERS, WORST_CALLERS = 16, 8
SAMPLE_SECONDS = 1.0
MAX_GROWTH = 1.1
BYTES_A_BUCKET = 250
CACHE_BYTES = 16 * 1024 * 1024  # so little that it is full early
# What the allocator and the libraries keep beyond what is counted: of memory that was used, not all goes back.
OVERHEAD_BYTES = 100 * 1024 * 1024
MIN_ANSWERED = 0.75  # of the calls of clients who wait; the LLM fails one in ten
PLOT = ROOT / "docs/performance/soak.svg"
MIB = 1024 * 1024

# What the LLM does, and how often of a hundred calls.
MOODS = [
    (gemini.ECHO, 90),
    (gemini.error(503), 3),
    (gemini.error(429, retry_after="1"), 1),
    (gemini.GARBAGE, 1),
    (gemini.RESET, 1),
    (gemini.HANG, 1),
    (gemini.BLOCKED_ANSWER, 2),
    (gemini.text("Once ", "upon ", "a ", cut_after=1), 1),
]


class Sample(NamedTuple):
    """A moment, in seconds from the start of the load, and what the service held then."""

    at: float
    resident: int
    tasks: int
    files: int


@dataclass
class Record:
    """Observations of a run.

    Attributes:
        outcomes: How often each kind of call ended in each way.
        latencies: Seconds of the calls that were answered.
        samples: One a second.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


async def call_until(end: float, kinds: Sequence[Kind], record: Record) -> None:
    while time.monotonic() < end:
        kind = random.choice(kinds)
        began = time.monotonic()
        try:
            result = await kind()
        except httpx.TransportError as error:
            result = type(error).__name__
        record.outcomes[f"{name_of(kind)}: {result}"] += 1
        if result in ("200", "OK"):
            record.latencies.append(time.monotonic() - began)


def name_of(kind: Kind) -> str:
    return str(getattr(kind, "__name__", kind))


async def sample_until(end: float, http: httpx.AsyncClient, pid: int, record: Record) -> None:
    began = time.monotonic()
    while time.monotonic() < end:
        tasks = await count_tasks(http)
        record.samples.append(Sample(time.monotonic() - began, resident_bytes(pid), tasks, open_files(pid)))
        await asyncio.sleep(SAMPLE_SECONDS)


async def count_tasks(http: httpx.AsyncClient) -> int:
    return len((await http.get(counted.PATH)).json())


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def soak(service: Service, upstream: GeminiStandIn, seconds: float, record: Record) -> tuple[int, int]:
    """Load the service; its tasks at rest before and after."""
    async with (
        httpx.AsyncClient(base_url=service.rest_url, timeout=30, trust_env=False, limits=httpx.Limits()) as http,
        httpx.AsyncClient(base_url=service.rest_url, timeout=30, trust_env=False) as watching,
        grpc.aio.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel,
    ):
        callers = Callers(http, channel, service.port)
        for kind in (*callers.kinds, *callers.worst):  # what is set up once
            await kind()
        before = await count_tasks(watching)
        end = time.monotonic() + seconds
        await asyncio.gather(
            sample_until(end, watching, service.process.pid, record),
            *(call_until(end, callers.kinds, record) for _ in range(CALLERS)),
            *(call_until(end, callers.worst, record) for _ in range(WORST_CALLERS)),
        )
        await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_calls == 0, 30)
        return before, await count_tasks(watching)


def plot(record: Record) -> None:
    """Memory and tasks over time."""
    times = [sample.at / 60 for sample in record.samples]
    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    upper.plot(times, [sample.resident / MIB for sample in record.samples])
    upper.set_ylabel("resident memory, MiB")
    upper.set_ylim(0, 1.2 * max(sample.resident for sample in record.samples) / MIB)
    lower.plot(times, [sample.tasks for sample in record.samples], linewidth=0.7)
    lower.set_ylabel("tasks")
    lower.set_xlabel("minutes under load")
    lower.set_ylim(bottom=0)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})


def report(record: Record, tasks: tuple[int, int]) -> list[str]:
    """Print the figures; what is wrong with them."""
    for name, count in sorted(record.outcomes.items()):
        print(f"{count:8} {name}")
    latencies = statistics.quantiles(record.latencies, n=100)
    print(f"calls {record.outcomes.total()}, p50 {latencies[49] * 1000:.0f} ms, p99 {latencies[98] * 1000:.0f} ms")
    print(f"tasks at rest {tasks[0]}, {tasks[1]}")
    bugs = [name for name in record.outcomes if name.split(": ")[1] in ("500", "INTERNAL", "UNKNOWN", "ReadError")]
    wrong = [f"a caller met a bug: {name}" for name in bugs]
    plain = {name: count for name, count in record.outcomes.items() if name.startswith(("rest:", "rpc:"))}
    if plain.get("rest: 200", 0) + plain.get("rpc: OK", 0) < MIN_ANSWERED * sum(plain.values()):
        wrong.append("too few were answered")
    if tasks[1] > tasks[0]:
        wrong.append("tasks are left behind")
    return [*wrong, *growth(record.samples)]


def growth(samples: Sequence[Sample]) -> Iterator[str]:
    """Print what the service held early and late; name what has grown."""
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[3 * quarter :]
    for name, unit in (("resident", MIB), ("files", 1)):
        before, after = (statistics.median(getattr(sample, name) for sample in part) for part in (early, late))
        print(f"{name}: 2nd quarter {before / unit:.1f}, last {after / unit:.1f}{' MiB' if unit == MIB else ''}")
        if after > before * MAX_GROWTH:
            yield f"{name} grows"
    grown, allowed = max(sample.resident for sample in samples) - samples[0].resident, allowed_bytes()
    print(f"memory at most {grown / MIB:.1f} MiB above the beginning, of {allowed / MIB:.1f} MiB that the bounds allow")
    if grown > allowed:
        yield "memory is over its bounds"


def allowed_bytes() -> int:
    """The sum of what may be kept: cached answers, buckets, log lines that wait."""
    buckets = min(ADDRESSES, int(value_of("src.rate_limit.MAX_BUCKETS"))) * BYTES_A_BUCKET
    return CACHE_BYTES + buckets + int(value_of("src.logs.writer.MAX_QUEUED_BYTES")) + OVERHEAD_BYTES


def main() -> None:
    """Soak, report, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    seconds = parser.parse_args().minutes * 60
    record = Record()
    command = [part.replace("src.asgi", "tests.live.counted") for part in COMMANDS["uvicorn"]]
    with GeminiStandIn() as upstream:
        moods, weights = zip(*MOODS, strict=True)
        upstream.script(*random.choices(moods, weights, k=int(seconds * 1000)))
        model = {"MODEL": "googleai/gemini-flash-latest", "GEMINI_API_KEY": "k"}
        patience = {"LLM_TIMEOUT": "1000", "CB_RECOVERY_TIMEOUT": "1"}
        # All callers are one client here, but for those of other addresses, who have a bucket each.
        bounds = {"CACHE_MAX_BYTES": str(CACHE_BYTES), "LLM_MAX_PER_CLIENT": "64", "TRUSTED_PROXIES": "127.0.0.0/8"}
        with Service(command, **model, **patience, **bounds, GOOGLE_GEMINI_BASE_URL=upstream.url) as service:
            tasks = asyncio.run(soak(service, upstream, seconds, record))
    plot(record)
    wrong = report(record, tasks)
    for complaint in wrong:
        print(f"error: {complaint}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
