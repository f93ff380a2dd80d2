"""What the parts cost, without a server around them: microseconds of CPU in one process.

The best of many rounds counts: whatever else the machine does only ever adds.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.asgi import create_app
from src.bulkhead import Bulkhead
from src.config import Settings, load_settings
from src.rate_limit import MemoryBuckets
from src.schemas import ChatRequest
from src.security import layers, wrap

CALLS, ROUNDS = 1000, 9
NAMES = (
    *("AccessLog", "GZip", "CORS", "TrustedHost", "RateLimit", "Timeout", "MaxBodySize", "ExceptionHandler"),
    *("SecurityHeaders", "RequestId"),
)
STREAMS = 50


def settings() -> Settings:
    """As in production, with a limit that is never reached."""
    return load_settings({"model": "offline/demo", "rate_limit_default": "100000000/second"})


async def microseconds(call: Callable[[], Coroutine[Any, Any, Any]]) -> float:
    """CPU time of one call, at best, in a task of its own: servers handle each request in one."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(CALLS):
            await asyncio.create_task(call())
        best = min(best, (time.process_time() - began) / CALLS)
    return best * 1e6


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
    """Microseconds that each layer adds to a request, innermost first, and the whole chain."""
    chosen = settings()
    chain = layers(chosen, MemoryBuckets(chosen.rate_limit))
    so_far = await microseconds(request(_nothing, "GET", "/x"))
    bare = so_far
    costs = {}
    for number, name in enumerate(["Edge", *reversed(NAMES)]):
        total = await microseconds(request(wrap(_nothing, chain[len(chain) - number :], chosen), "GET", "/x"))
        costs[name] = total - so_far
        so_far = total
    return costs | {"all": so_far - bare}


async def uncached_overhead() -> float:
    """Microseconds of an uncached answer over REST beyond those of the same Genkit flow, called directly."""
    app, flow = _service_and_flow()
    gc.collect()
    gc.freeze()  # as the service does once it is up
    over_rest = await microseconds(request(app, "POST", "/chat", b'{"question":"Where to?"}'))
    return over_rest - await microseconds(lambda: flow.run(ChatRequest(question="Where to?")))


def _service_and_flow() -> tuple[ASGIApp, Any]:
    from genkit import Genkit

    from src.app_init import build_genkit
    from src.flows import Flows
    from src.image_fetch import ImageFetcher
    from src.llm import Llm

    chosen = settings()
    app = create_app(chosen)
    ai: Genkit = build_genkit(chosen)
    flows = Flows(ai, Llm(ai, timeout=120, bulkhead=Bulkhead(64), breaker=None), ImageFetcher())
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
    """All of it."""
    return {
        "layers": uvloop.run(layer_costs()),
        "uncached_overhead": uvloop.run(uncached_overhead()),
        "first_chunk": uvloop.run(first_chunk_delay()),
    }
