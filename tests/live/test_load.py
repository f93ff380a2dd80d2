"""Many callers at once: equal ones cost one call of the LLM, and an LLM that hangs costs neither memory nor sockets."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import grpc
import httpx

from testing import small_service
from testing.fakes import gemini
from testing.fakes.gemini import Gate, GeminiStandIn
from testing.service import COMMANDS, Service
from testing.small_service import pb
from tests.live import counted

TRANSLATION = gemini.text('{"translated_text":"bonjour","confidence":"high"}')
# One process, whose sockets and memory can be looked at.
ONE_PROCESS = COMMANDS["python -m src, uvicorn"]
COUNTED = [part.replace("src.asgi", "tests.live.counted") for part in COMMANDS["uvicorn"]]


def started(upstream: GeminiStandIn, command: Sequence[str] = ONE_PROCESS, **env: str) -> Service:
    return Service(command, **upstream.env, **env)


class Crowd:
    """Callers over both protocols, on connections of their own."""

    def __init__(self, service: Service, channels: int = 10) -> None:
        self._service = service
        self._channels = channels
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Crowd":
        # Many, because what a client costs grows with the square of its connections.
        tls = ssl.create_default_context()
        clients = [
            await self._stack.enter_async_context(
                httpx.AsyncClient(base_url=self._service.rest_url, timeout=30, verify=tls, trust_env=False)
            )
            for _ in range(25)
        ]
        self._http = cycle(clients)
        # Channels to one address share a connection unless told not to.
        options = (("grpc.use_local_subchannel_pool", 1),)
        address = f"127.0.0.1:{self._service.grpc_port}"
        self.stubs = [
            small_service.stub(await self._stack.enter_async_context(grpc.aio.insecure_channel(address, options)))
            for _ in range(self._channels)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def over_rest(self, path: str, body: dict[str, Any]) -> Any:
        answer = await next(self._http).post(path, json=body)
        return answer.json() if answer.status_code == 200 else answer.status_code

    async def over_grpc(self, number: int, rpc: str, request: Any) -> Any:
        try:
            return await getattr(self.stubs[number % self._channels], rpc)(request)
        except grpc.aio.AioRpcError as error:
            return error.code()


def in_crowd(service: Service, scenario: Callable[[Crowd], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with Crowd(service) as crowd:
            return await scenario(crowd)

    return asyncio.run(run())


async def translations(crowd: Crowd, count: int) -> list[str]:
    rest = [crowd.over_rest("/translate", {"text": "hello"}) for _ in range(count // 2)]
    rpcs = [crowd.over_grpc(n, "TranslateText", pb.TranslateRequest(text="hello")) for n in range(count // 2)]
    answers = await asyncio.gather(*rest, *rpcs)
    return [
        answer["translated_text"] if isinstance(answer, dict) else getattr(answer, "translated_text", str(answer))
        for answer in answers
    ]


def test_a_thousand_equal_calls_make_one_call_of_the_llm(upstream: GeminiStandIn) -> None:
    gate = Gate()
    upstream.default(gemini.Behaviour(parts=TRANSLATION.parts, gate=gate))

    async def scenario(crowd: Crowd) -> list[str]:
        calls = asyncio.ensure_future(translations(crowd, 1000))
        await asyncio.to_thread(upstream.wait_for, lambda: len(upstream.requests) == 1)
        gate.release()
        return await calls

    with started(upstream) as service:
        assert in_crowd(service, scenario) == ["bonjour"] * 1000
        assert len(upstream.requests) == 1


def test_the_first_callers_leaving_harms_nobody(upstream: GeminiStandIn) -> None:
    gate = Gate()
    upstream.default(gemini.Behaviour(parts=TRANSLATION.parts, gate=gate))

    async def scenario(crowd: Crowd) -> Any:
        leader = asyncio.ensure_future(crowd.over_rest("/translate", {"text": "hello"}))
        await asyncio.to_thread(upstream.wait_for, lambda: len(upstream.requests) == 1)
        follower = asyncio.ensure_future(crowd.over_grpc(0, "TranslateText", pb.TranslateRequest(text="hello")))
        for _ in range(3):  # on the follower's own connection: it has been read when these are answered
            await crowd.over_grpc(0, "Health", pb.HealthRequest())
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        for _ in range(3):
            await crowd.over_rest("/health", {})
        gate.release()
        return await follower

    with started(upstream) as service:
        assert in_crowd(service, scenario).translated_text == "bonjour"
        assert (len(upstream.requests), upstream.closed_early) == (1, 0)


def test_a_failing_call_fails_those_who_wait_at_once_and_is_not_kept(upstream: GeminiStandIn) -> None:
    gate = Gate()
    # An answer that breaks the schema, when the test lets it through.
    upstream.script(gemini.Behaviour(parts=({"text": "no JSON"},), gate=gate))
    upstream.default(TRANSLATION)

    async def scenario(crowd: Crowd) -> tuple[list[str], list[str]]:
        calls = [asyncio.ensure_future(crowd.over_rest("/translate", {"text": "hello"})) for _ in range(50)]
        calls += [
            asyncio.ensure_future(crowd.over_grpc(0, "TranslateText", pb.TranslateRequest(text="hello")))
            for _ in range(50)
        ]
        await asyncio.to_thread(upstream.wait_for, lambda: len(upstream.requests) == 1)
        for _ in range(3):
            await crowd.over_grpc(0, "Health", pb.HealthRequest())
        gate.release()
        first = [str(answer) for answer in await asyncio.gather(*calls)]
        return first, await translations(crowd, 2)

    with started(upstream) as service:
        first, then = in_crowd(service, scenario)
        assert {"502", "StatusCode.UNAVAILABLE"} <= set(first)
        assert then == ["bonjour"] * 2
        assert len(upstream.requests) == 2


def test_an_llm_that_hangs_is_survived_by_five_hundred_callers(upstream: GeminiStandIn) -> None:
    upstream.default(gemini.HANG)

    async def crowd_of(crowd: Crowd, count: int) -> tuple[list[Any], float]:
        began = time.monotonic()
        rest = [crowd.over_rest("/chat", {"question": f"{n}"}) for n in range(count // 2)]
        rpcs = [crowd.over_grpc(n, "PirateChat", pb.ChatRequest(question=f"{n}")) for n in range(count // 2)]
        answers = await asyncio.gather(*rest, *rpcs)
        return answers, time.monotonic() - began

    with started(upstream, COUNTED, LLM_TIMEOUT="1000") as service:
        pid = service.process.pid
        in_crowd(service, lambda crowd: crowd_of(crowd, 500))  # memory that is allocated once
        upstream.wait_for(lambda: upstream.open_calls == 0)
        sockets, resident = settled_sockets(pid), resident_bytes(pid)
        tasks = service.http.get(counted.PATH).json()
        answers, took = in_crowd(service, lambda crowd: crowd_of(crowd, 500))
        timed_out = {504, grpc.StatusCode.DEADLINE_EXCEEDED}
        unavailable = {503, grpc.StatusCode.UNAVAILABLE}  # the bulkhead is full, or the circuit open
        assert set(answers) <= timed_out | unavailable
        assert took < 10  # busy clients included; without a limit it is their own patience, 30 seconds
        upstream.wait_for(lambda: upstream.open_calls == 0)
        assert settled_sockets(pid) <= sockets
        assert len(service.http.get(counted.PATH).json()) <= len(tasks)
        assert resident_bytes(pid) < resident * 1.1


def test_beyond_the_bulkhead_callers_are_told_to_come_back(upstream: GeminiStandIn) -> None:
    gate = Gate()
    upstream.default(gemini.text("aye", gate=gate))

    async def scenario(crowd: Crowd) -> list[Any]:
        calls = [asyncio.ensure_future(crowd.over_rest("/chat", {"question": f"{n}"})) for n in range(10)]
        calls += [
            asyncio.ensure_future(crowd.over_grpc(n, "PirateChat", pb.ChatRequest(question=f"{n}"))) for n in range(10)
        ]
        await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_calls == 4)
        # Four are under way, four wait; the others come to nothing at once, and those who wait when they have waited.
        refused = [await call for call in islice(asyncio.as_completed(calls), 16)]
        gate.release(4)
        await asyncio.wait(calls)
        return refused

    with started(upstream, LLM_MAX_CONCURRENCY="4", LLM_MAX_PER_CLIENT="20") as service:
        assert set(in_crowd(service, scenario)) == {503, grpc.StatusCode.UNAVAILABLE}
        assert len(upstream.requests) == 4


def test_the_pool_of_connections_is_that_of_the_sdk(upstream: GeminiStandIn) -> None:
    gate = Gate()
    upstream.default(gemini.text("aye", gate=gate))

    async def scenario(crowd: Crowd) -> list[Any]:
        calls = [asyncio.ensure_future(crowd.over_rest("/chat", {"question": f"{n}"})) for n in range(8)]
        await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_calls == 3)
        gate.release(8)
        return await asyncio.gather(*calls)

    with started(upstream, HTTPX_POOL_MAX="3", HTTPX_POOL_MAX_KEEPALIVE="2") as service:
        assert [answer["answer"] for answer in in_crowd(service, scenario)] == ["aye"] * 8
        assert (upstream.max_open_connections, len(upstream.requests)) == (3, 8)
        upstream.wait_for(lambda: upstream.open_connections == 2)


def settled_sockets(pid: int) -> int:
    """The process' open sockets, once their number no longer falls: it learns of closed ones as it goes."""
    last, falling = open_sockets(pid), time.monotonic() + 1
    while time.monotonic() < falling:
        now = open_sockets(pid)
        if now < last:
            last, falling = now, time.monotonic() + 1
        time.sleep(0.02)
    return last


def open_sockets(pid: int) -> int:
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            count += str(link.readlink()).startswith("socket:")
    return count


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096
