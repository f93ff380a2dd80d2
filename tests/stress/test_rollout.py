"""Replacing one of two instances, or losing one of two workers, as well-behaved clients see it (docs/operations.md)."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import httpx
import pytest

from testing import small_service
from testing.fakes import gemini
from testing.fakes.gemini import Gate, GeminiStandIn
from testing.service import COMMANDS, Service
from testing.small_service import pb
from tests.stress.test_workers import REPLACING, workers

CALLS_A_SECOND = 20
SLOW_SECONDS = 6
SLOW_CALLS = 12  # some of each kind to either instance
SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
RETRIED = (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


@dataclass
class Outcomes:
    """Counts of calls, and the time and reason of each failure."""

    ok: int = 0
    failures: list[tuple[float, str]] = field(default_factory=list)

    async def note(self, call: Awaitable[object]) -> None:
        """Wait for a call, and note how it ends."""
        try:
            await call
        except (httpx.HTTPError, grpc.RpcError, AssertionError) as error:
            self.failures.append((time.monotonic(), repr(error)[:600]))
        else:
            self.ok += 1


class RestClient:
    """Keeps connections alive, and sends a call to the next instance if one hangs up before a byte of its response."""

    def __init__(self, urls: list[str]) -> None:
        self._clients = [httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) for url in urls]
        self._turn = 0

    async def call(self, path: str) -> httpx.Response:
        """Call an instance, and the others after it while it is not there."""
        self._turn += 1
        for attempt in range(len(self._clients)):
            client = self._clients[(self._turn + attempt) % len(self._clients)]
            try:
                answer = await client.post(path, json={"name": str(self._turn)})
            except RETRIED:
                if attempt + 1 == len(self._clients):
                    raise
                continue
            assert answer.status_code == 200, answer.text
            return answer
        raise AssertionError("there are no instances")

    async def stream(self, path: str) -> None:
        """The same for a stream, which has to be whole."""
        answer = await self.call(path)
        assert '"done":true' in answer.text, answer.text

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


@asynccontextmanager
async def load(services: list[Service]) -> AsyncIterator[dict[str, Outcomes]]:
    """Steady calls of three clients that know all these services."""
    rest = RestClient([service.rest_url for service in services])
    addresses = ",".join(f"127.0.0.1:{service.grpc_port}" for service in services)
    options = [("grpc.service_config", SERVICE_CONFIG), ("grpc.initial_reconnect_backoff_ms", 100)]
    outcomes = {"gRPC": Outcomes(), "REST": Outcomes(), "stream": Outcomes()}
    calls: set[asyncio.Task[None]] = set()
    async with grpc.aio.insecure_channel(f"ipv4:{addresses}", options) as channel:
        stub = small_service.stub(channel)
        makers: dict[str, Callable[[], Awaitable[object]]] = {
            "gRPC": lambda: stub.PirateChat(pb.ChatRequest()),
            "REST": lambda: rest.call("/chat"),
            "stream": lambda: rest.stream("/tell-story/stream"),
        }

        async def keep_calling(name: str) -> None:
            while True:
                calls.add(asyncio.create_task(outcomes[name].note(makers[name]())))
                await asyncio.sleep(1 / CALLS_A_SECOND)

        callers = [asyncio.create_task(keep_calling(name)) for name in makers]
        try:
            yield outcomes
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, *calls, return_exceptions=True)
            await rest.close()


def environment(upstream: GeminiStandIn) -> dict[str, str]:
    return {**upstream.env, "CACHE_ENABLED": "false", "LLM_MAX_CONCURRENCY": "1000", "LLM_MAX_PER_CLIENT": "1000"}


async def until_answered(service: Service) -> None:
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(30):
        while True:
            try:
                if (await client.get(f"{service.rest_url}/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


def test_a_rollout_loses_no_call(server: str) -> None:
    async def scenario(first: Service, second: Service, upstream: GeminiStandIn) -> dict[str, Outcomes]:
        async with load([first, second]) as outcomes:
            await asyncio.sleep(2)
            gate = Gate()
            upstream.script(*[gemini.text("slow", gate=gate)] * SLOW_CALLS)
            await asyncio.to_thread(upstream.wait_for, lambda: upstream.open_calls >= SLOW_CALLS)
            first.terminate()
            await asyncio.sleep(SLOW_SECONDS)
            gate.release(SLOW_CALLS)
            await asyncio.to_thread(first.wait)
            first.start_again()
            await until_answered(first)
            await asyncio.sleep(3)
        return outcomes

    with GeminiStandIn() as upstream:
        upstream.default(gemini.text("one"))
        env = environment(upstream)
        with Service(COMMANDS[server], **env) as first, Service(COMMANDS[server], **env) as second:
            outcomes = asyncio.run(scenario(first, second, upstream))
    # gRPC's core cancels a call that it has accepted and not yet handed over when the server stops.
    unlucky = [failure for failure in outcomes["gRPC"].failures if "StatusCode.CANCELLED" in failure[1]]
    assert len(unlucky) <= 1
    outcomes["gRPC"].failures = [failure for failure in outcomes["gRPC"].failures if failure not in unlucky]
    assert {name: found.failures for name, found in outcomes.items()} == {name: [] for name in outcomes}
    assert all(found.ok > 10 * CALLS_A_SECOND / 2 for found in outcomes.values()), outcomes


@pytest.mark.parametrize("name", ["granian", "uvicorn", "gunicorn"])
def test_a_killed_worker_costs_only_its_calls(name: str) -> None:
    async def scenario(service: Service) -> tuple[float, dict[str, Outcomes]]:
        async with load([service, service]) as outcomes:
            await asyncio.sleep(2)
            os.kill(min(workers(service)), signal.SIGKILL)
            killed = time.monotonic()
            await asyncio.sleep(8)
        return killed, outcomes

    with GeminiStandIn() as upstream:
        upstream.default(gemini.text("one"))
        with Service(REPLACING[name], **environment(upstream)) as service:
            time.sleep(3)  # the second worker comes up a little after the first
            killed, outcomes = asyncio.run(scenario(service))
    for found in outcomes.values():
        assert len(found.failures) < CALLS_A_SECOND / 2, found
        assert all(at < killed + 5 for at, _ in found.failures), (killed, found)
