"""The service in this process, behind both adapters, over a stand-in for its provider."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any, NamedTuple

import grpc
import httpx
from starlette.types import ASGIApp

from src.app_init import build_genkit
from src.bulkhead import Bulkhead
from src.cache import FlowCache
from src.circuit_breaker import CircuitBreaker
from src.drain import Drain
from src.images.fetch import ImageFetcher
from src.llm import Llm
from src.rate_limit import MemoryBuckets, RateLimit
from src.rest.app import build_endpoints, build_rest
from src.rpc.server import GrpcServer
from src.runner import EncodedOutput, Runner
from src.security import apply_security_middleware
from src.settings_loader import load_settings
from src.util.surrogates import replace_lone_surrogates
from testing import small_service
from testing.fakes.provider import Played, ProviderStandIn
from testing.ports import free_port
from testing.small_service import OPERATIONS, Flows, pb
from tests.providers.answers import Case, Format

GRPC_CODES = {
    "ok": grpc.StatusCode.OK,
    "truncated": grpc.StatusCode.OK,
    "content-blocked": grpc.StatusCode.FAILED_PRECONDITION,
    "model-failed": grpc.StatusCode.UNAVAILABLE,
    "timeout": grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Way(NamedTuple):
    """An operation, asked over both protocols with input that was never asked before."""

    path: str
    rpc: str
    input: Callable[[int], dict[str, Any]]
    message: Callable[..., Any]
    field: str
    cached: bool = False


def image(number: int) -> dict[str, Any]:
    return {"image_url": "data:image/png;base64," + base64.b64encode(b"image %d" % number).decode()}


WAYS = {
    "text": Way("/chat", "PirateChat", lambda n: {"question": f"{n}?"}, pb.ChatRequest, "answer"),
    "cached text": Way("/describe-image", "DescribeImage", image, pb.ImageRequest, "description", cached=True),
    "structured": Way(
        "/translate", "TranslateText", lambda n: {"text": f"{n}"}, pb.TranslateRequest, "translated_text", cached=True
    ),
    "stream": Way("/tell-story/stream", "TellStory", lambda n: {"topic": f"{n}"}, pb.StoryRequest, "story"),
}


class Outcome(NamedTuple):
    """The outcome for a caller.

    Attributes:
        kind: `ok`, `truncated`, or the slug of the failure.
        value: The whole answer.
        chunks: Of a stream: all its chunks.
    """

    kind: str
    value: dict[str, Any] | None
    chunks: str = ""


class InProcess:
    """The service over one provider's stand-in, and the loop that both run in."""

    def __init__(self, wire_format: Format) -> None:
        self.format = wire_format
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._numbers = count()
        with small_service.in_this_process():
            self._run(self._start())

    def close(self) -> None:
        self._run(self._stack.aclose())
        self._runner.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    async def _start(self) -> None:
        self.provider = await self._stack.enter_async_context(ProviderStandIn())
        port = free_port()
        address = {self.format.base_url: self.provider.url + self.format.path}
        chosen: dict[str, Any] = {"model": self.format.model, "host": "127.0.0.1", "grpc_port": port, **address}
        chosen |= {"rate_limit_default": "1000000/second", "gemini_api_key": "k", "log_level": "error"}
        settings = load_settings(chosen)
        ai = build_genkit(settings)
        self.breaker = CircuitBreaker(failure_threshold=100, recovery_timeout=30)
        llm = Llm(ai, timeout=20, bulkhead=Bulkhead(8), breaker=self.breaker)
        cache = FlowCache[EncodedOutput](ttl=600, max_size=100, max_bytes=2**24, size_of=lambda result: result.size)
        drain = Drain(1, accepting=0)
        runner = Runner(ai, Flows(llm, ImageFetcher()), model=settings.model, cache=cache, drain=drain)
        limit = RateLimit(MemoryBuckets(), settings.rate_limit)
        endpoints = build_endpoints(runner, lambda: True, tells_cache=settings.debug)
        rest = build_rest(settings, endpoints, _no_lifespan)
        app: ASGIApp = apply_security_middleware(
            rest, settings, limit, operations={op.path: op.name for op in OPERATIONS}
        )
        server = GrpcServer(settings, runner, limit)
        await server.start()
        self._stack.push_async_callback(server.stop, 0)
        transport = httpx.ASGITransport(app)
        self._http = await self._stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://t"))
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        self._stub = small_service.stub(channel)

    def check(self, case: Case) -> None:
        """Ask twice, and hold what is told against what the answer is."""
        self._run(self._check(case))

    async def _check(self, case: Case) -> None:
        way, number = WAYS[case.way], next(self._numbers)
        self.provider.play = lambda request: self._play(case, request)
        # Nothing of an example before counts for this one.
        CircuitBreaker.__init__(self.breaker, failure_threshold=100, recovery_timeout=30)
        first = await self._over_rest(way, number)
        calls = self.provider.calls
        second = await self._over_grpc(way, number)
        is_from_cache = self.provider.calls == calls
        seen = (first.kind, self.breaker.stats().failures)
        assert seen in {verdict.value for verdict in case.verdicts}, seen
        assert second == first, "both protocols tell the same, and the cache holds no less"
        assert is_from_cache == (way.cached and first.value is not None)
        if first.value is not None:
            assert first.value == expected(case)
        if case.way == "stream":
            whole = first.value["story"] if first.value else case.text
            assert whole.startswith(first.chunks)
            assert first.value is None or first.chunks == whole

    def _play(self, case: Case, request: dict[str, Any]) -> Played:
        arguments = case.answer.asks_tool
        if arguments is not None and self.format.wants_tool(request):
            return Played(json.dumps(self.format.tool_call(arguments)).encode(), "application/json")
        return case.played

    async def _over_rest(self, way: Way, number: int) -> Outcome:
        response = await self._http.post(way.path, json=way.input(number))
        if way.rpc == "TellStory":
            *chunks, last = [json.loads(block.partition("data: ")[2]) for block in response.text.strip().split("\n\n")]
            text = "".join(chunk["chunk"] for chunk in chunks)
            if "done" not in last:
                return Outcome(_slug(last), None, text)
            return Outcome("truncated" if last.get("truncated") else "ok", {"story": last["story"]}, text)
        body = response.json()
        if response.status_code != 200:
            assert response.status_code == body["status"]
            return Outcome(_slug(body), None)
        return Outcome("truncated" if response.headers.get("x-truncated") else "ok", _compared(way, body))

    async def _over_grpc(self, way: Way, number: int) -> Outcome:
        call = getattr(self._stub, way.rpc)(way.message(**way.input(number)))
        text = ""
        value: dict[str, Any] | None = None
        try:
            if way.rpc == "TellStory":
                async for chunk in call:
                    text += chunk.text
                value = {"story": text}
            else:
                message = await call
                value = _compared(way, {name.name: getattr(message, name.name) for name in message.DESCRIPTOR.fields})
        except grpc.aio.AioRpcError:
            pass
        trailers = dict(await call.trailing_metadata())
        kinds = [kind for kind, code in GRPC_CODES.items() if code == await call.code()]
        assert kinds, await call.code()
        kind = kinds[0] if value is None else "truncated" if "x-truncated" in trailers else "ok"
        return Outcome(kind, value, text)


def _slug(problem: dict[str, Any]) -> str:
    return str(problem["type"]).removeprefix("urn:problem:")


def _compared(way: Way, body: dict[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in (way.field, "confidence") if name in body}


def expected(case: Case) -> dict[str, Any]:
    """The answer that callers have to get."""
    meant = case.answer.meant
    if meant is None:
        return {WAYS[case.way].field: case.text}
    value, _ = json.JSONDecoder(strict=False).raw_decode(case.text.removeprefix(meant.before))
    return {name: replace_lone_surrogates(text) for name, text in value.items()}


@asynccontextmanager
async def _no_lifespan(_app: object) -> AsyncIterator[dict[str, Any]]:
    yield {}
