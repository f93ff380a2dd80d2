"""Minutes of mixed load on a service whose LLM fails, hangs and blocks, and whose clients leave: does anything grow?

    .venv/bin/python -m benchmarks.soak --minutes 10

Exits with 1 when a caller met a bug, or when memory or tasks grew. Writes docs/performance/soak.svg.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
from matplotlib import pyplot

from src.generated import service_pb2 as pb
from src.generated import service_pb2_grpc
from tests.live import counted
from tests.live.service import COMMANDS, ROOT, Service
from tests.standins import gemini
from tests.standins.gemini import GeminiStandIn

CALLERS = 16
SAMPLE_SECONDS = 1.0
MAX_GROWTH = 1.1
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


@dataclass
class Record:
    """What was seen.

    Attributes:
        outcomes: How often each kind of call ended in each way.
        latencies: Seconds of the calls that were answered.
        samples: At each moment (seconds from the start): resident bytes, tasks.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    samples: list[tuple[float, int, int]] = field(default_factory=list)


class Callers:
    """The ways to call."""

    def __init__(self, http: httpx.AsyncClient, channel: grpc.aio.Channel) -> None:
        self._http = http
        self._stub: Any = service_pb2_grpc.GenkitServiceStub(channel)
        self.kinds: list[Callable[[], Awaitable[str]]] = [
            self.rest,
            self.rest_cached,
            self.sse,
            self.rpc,
            self.stream_rpc,
            self.rest_left,
            self.sse_left,
            self.rpc_left,
            self.stream_rpc_left,
            self.invalid,
        ]

    async def rest(self) -> str:
        answer = await self._http.post("/chat", json={"question": f"{random.random()}"})
        return str(answer.status_code)

    async def rest_cached(self) -> str:
        answer = await self._http.post("/translate", json={"text": f"{random.randrange(2000)}"})
        return str(answer.status_code)

    async def sse(self) -> str:
        answer = await self._http.post("/tell-story/stream", json={"topic": f"{random.random()}"})
        return "error event" if "event: error" in answer.text else str(answer.status_code)

    async def rpc(self) -> str:
        return await outcome(self._stub.PirateChat(pb.ChatRequest(question=f"{random.random()}")))

    async def stream_rpc(self) -> str:
        return await outcome(self._stub.TellStory(pb.StoryRequest(topic=f"{random.random()}")))

    async def rest_left(self) -> str:
        try:
            async with asyncio.timeout(random.random() * 0.05):
                return await self.rest()
        except TimeoutError:
            return "left"

    async def sse_left(self) -> str:
        async with self._http.stream("POST", "/tell-story/stream", json={"topic": f"{random.random()}"}) as answer:
            async for _ in answer.aiter_bytes():
                break
        return "left"

    async def rpc_left(self) -> str:
        call = self._stub.PirateChat(pb.ChatRequest(question=f"{random.random()}"), timeout=random.random() * 0.05)
        return await outcome(call)

    async def stream_rpc_left(self) -> str:
        call = self._stub.TellStory(pb.StoryRequest(topic=f"{random.random()}"))
        await asyncio.sleep(random.random() * 0.02)
        call.cancel()
        return "left"

    async def invalid(self) -> str:
        answer = await self._http.post("/chat", json={"question": ""})
        return str(answer.status_code)


async def outcome(call: Any) -> str:
    """The status of an RPC."""
    try:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


async def call_until(end: float, callers: Callers, record: Record) -> None:
    while time.monotonic() < end:
        kind = random.choice(callers.kinds)
        began = time.monotonic()
        try:
            result = await kind()
        except httpx.TransportError as error:
            result = type(error).__name__
        record.outcomes[f"{kind.__name__}: {result}"] += 1
        if result in ("200", "OK"):
            record.latencies.append(time.monotonic() - began)


async def sample_until(end: float, http: httpx.AsyncClient, pid: int, record: Record) -> None:
    began = time.monotonic()
    while time.monotonic() < end:
        record.samples.append((time.monotonic() - began, resident_bytes(pid), await count_tasks(http)))
        await asyncio.sleep(SAMPLE_SECONDS)


async def count_tasks(http: httpx.AsyncClient) -> int:
    return len((await http.get(counted.PATH)).json())


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def soak(service: Service, upstream: GeminiStandIn, seconds: float, record: Record) -> tuple[int, int]:
    """Load the service; its tasks at rest before and after."""
    async with (
        httpx.AsyncClient(base_url=service.rest_url, timeout=30, trust_env=False, limits=httpx.Limits()) as http,
        httpx.AsyncClient(base_url=service.rest_url, timeout=30, trust_env=False) as watching,
        grpc.aio.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel,
    ):
        callers = Callers(http, channel)
        for kind in callers.kinds:  # what is set up once
            await kind()
        before = await count_tasks(watching)
        end = time.monotonic() + seconds
        await asyncio.gather(
            sample_until(end, watching, service.process.pid, record),
            *(call_until(end, callers, record) for _ in range(CALLERS)),
        )
        await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_calls == 0, 30)
        return before, await count_tasks(watching)


def plot(record: Record) -> None:
    """Memory and tasks over time."""
    times = [at / 60 for at, _, _ in record.samples]
    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    upper.plot(times, [resident / MIB for _, resident, _ in record.samples])
    upper.set_ylabel("resident memory, MiB")
    upper.set_ylim(0, 1.2 * max(resident for _, resident, _ in record.samples) / MIB)
    lower.plot(times, [tasks for _, _, tasks in record.samples], linewidth=0.7)
    lower.set_ylabel("tasks")
    lower.set_xlabel("minutes under load")
    lower.set_ylim(bottom=0)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})


def report(record: Record, tasks: tuple[int, int]) -> list[str]:
    """Print the figures; what is wrong with them."""
    for name, count in sorted(record.outcomes.items()):
        print(f"{count:8} {name}")
    quarter = len(record.samples) // 4
    early = statistics.median(resident for _, resident, _ in record.samples[quarter : 2 * quarter])
    late = statistics.median(resident for _, resident, _ in record.samples[3 * quarter :])
    latencies = statistics.quantiles(record.latencies, n=100)
    print(f"calls {record.outcomes.total()}, p50 {latencies[49] * 1000:.0f} ms, p99 {latencies[98] * 1000:.0f} ms")
    print(f"memory: 2nd quarter {early / MIB:.1f} MiB, last {late / MIB:.1f} MiB; tasks at rest {tasks[0]}, {tasks[1]}")
    bugs = [name for name in record.outcomes if name.split(": ")[1] in ("500", "INTERNAL", "UNKNOWN", "ReadError")]
    wrong = [f"a caller met a bug: {name}" for name in bugs]
    plain = {name: count for name, count in record.outcomes.items() if name.startswith(("rest:", "rpc:"))}
    if plain.get("rest: 200", 0) + plain.get("rpc: OK", 0) < MIN_ANSWERED * sum(plain.values()):
        wrong.append("too few were answered")
    if late > early * MAX_GROWTH:
        wrong.append("memory grows")
    if tasks[1] > tasks[0]:
        wrong.append("tasks are left behind")
    return wrong


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
        patience = {"LLM_TIMEOUT": "1000", "CB_RECOVERY_TIMEOUT": "1", "LOG_LEVEL": "error"}
        with Service(command, **model, **patience, GOOGLE_GEMINI_BASE_URL=upstream.url) as service:
            tasks = asyncio.run(soak(service, upstream, seconds, record))
    plot(record)
    wrong = report(record, tasks)
    for complaint in wrong:
        print(f"error: {complaint}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
