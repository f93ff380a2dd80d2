"""Cost of the parts, without a server around them: microseconds of CPU in one process.

The best of many rounds counts: whatever else the machine does only ever adds.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks import baselines
from src.asgi import create_app
from src.bulkhead import Bulkhead
from src.config import Settings
from src.logs.access import AccessLines
from src.logs.writer import stderr_writer
from src.rate_limit import MemoryBuckets, RateLimit
from src.security import header_policy, layers, wrap
from src.settings_loader import load_settings
from testing.small_service import ChatRequest, Flows, in_this_process

CALLS, ROUNDS = 1000, 9
STREAMS = 50
Call = Callable[[], Coroutine[Any, Any, Any]]


def settings() -> Settings:
    """As in production, with a limit that is never reached."""
    return load_settings({"model": "offline/demo", "rate_limit_default": "100000000/second"})


async def microseconds(*calls: Call) -> list[float]:
    """CPU time of one call of each, at best; they are measured in turn.

    Each call has a task of its own, as servers handle each request in one.
    """
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for number, call in enumerate(calls):
            began = time.process_time()
            for _ in range(CALLS):
                await asyncio.create_task(call())
            best[number] = min(best[number], (time.process_time() - began) / CALLS * 1e6)
    return best


def request(app: ASGIApp, method: str, path: str, body: bytes = b"") -> Callable[[], Coroutine[Any, Any, list[float]]]:
    """A function that makes a request of the app, and returns when each message left it, on the performance counter."""
    headers = [(b"host", b"127.0.0.1"), (b"user-agent", b"benchmark")]
    if body:
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def call() -> list[float]:
        left: list[float] = []
        waiting = [{"type": "http.request", "body": body, "more_body": False}]
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": list(headers),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }

        async def receive() -> Message:
            if waiting:
                return waiting.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(_message: Message) -> None:
            left.append(time.perf_counter())

        await app(scope, receive, send)
        return left

    return call


async def _nothing(_scope: Scope, _receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"15")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"status":"ok"}'})


async def layer_costs() -> dict[str, float]:
    """Microseconds that each layer adds to a request, innermost first, and the whole chain; and a bare FastAPI
    request, which they can be held against: machines differ, and change.
    """
    chosen = settings()
    policy = header_policy(chosen)
    chain = layers(chosen, RateLimit(MemoryBuckets(), chosen.rate_limit), policy, [AccessLines(chosen).write])
    apps = [
        _nothing,
        *(wrap(_nothing, chain[len(chain) - number :], policy) for number in range(len(chain) + 1)),
    ]
    *totals, bare = await microseconds(
        *(request(app, "GET", "/x") for app in apps), request(baselines.fastapi(), "GET", "/health")
    )
    names = [type(layer(_nothing)).__name__.removesuffix("Middleware") for layer in chain]
    added = dict(zip(["Edge", *reversed(names)], (more - less for less, more in pairwise(totals)), strict=True))
    return added | {
        "all": totals[-1] - totals[0],
        "bare FastAPI": bare,
    }


async def uncached_overhead() -> float:
    """Microseconds of an uncached answer over REST beyond those of the same Genkit flow, called directly."""
    app, flow = _service_and_flow()
    gc.collect()
    gc.freeze()  # as the service does once it is up
    over_rest, direct = await microseconds(
        request(app, "POST", "/chat", b'{"question":"Where to?"}'),
        lambda: flow.run(ChatRequest(question="Where to?")),
    )
    return over_rest - direct


def _service_and_flow() -> tuple[ASGIApp, Any]:
    from genkit import Genkit

    from src.app_init import build_genkit
    from src.images.fetch import ImageFetcher
    from src.llm import Llm

    chosen = settings()
    app = create_app(chosen)
    ai: Genkit = build_genkit(chosen)
    flows = Flows(Llm(ai, timeout=120, bulkhead=Bulkhead(64), breaker=None), ImageFetcher())
    return app, ai.flow(name="pirate_chat")(flows.pirate_chat)


async def first_chunk_delay() -> float:
    """Milliseconds from a flow's first chunk to its first server-sent event, the median of many streams."""
    from src.llm import Llm

    sent: list[float] = []
    original = Llm.text

    async def noting(self: Llm, *arguments: Any, **options: Any) -> str:
        on_text = options.pop("on_text")

        def note(text: str) -> None:
            sent.append(time.perf_counter())
            on_text(text)

        return await original(self, *arguments, on_text=note, **options)

    Llm.text = noting  # type: ignore[method-assign]
    try:
        call = request(create_app(settings()), "POST", "/tell-story/stream", b"{}")
        delays = []
        for _ in range(STREAMS):
            sent.clear()
            left = await call()
            delays.append(left[1] - sent[0])  # the first message is the response's start
    finally:
        Llm.text = original  # type: ignore[method-assign]
    return sorted(delays)[STREAMS // 2] * 1e3


def measure() -> dict[str, Any]:
    """All of it. Log lines are batched, as while the service serves: no request waits for its line to be written."""
    with stderr_writer().batching(), in_this_process():
        return {
            "layers": uvloop.run(layer_costs()),
            "uncached_overhead": uvloop.run(uncached_overhead()),
            "first_chunk": uvloop.run(first_chunk_delay()),
        }
