"""The connections to the provider: no long wait for a host that is down, all the time of the call for its answer."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from src import connection
from src.connection import configure_httpx_defaults, provider_client
from src.settings_loader import load_settings
from testing.fakes.gemini import GeminiStandIn


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address that takes connections in no longer: its backlog is full."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_connecting_has_a_limit_of_its_own(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.2)

    async def ask() -> None:
        async with httpx.AsyncClient(**configure_httpx_defaults(load_settings({"model": "offline/demo"}))) as client:
            # An SDK's own idea of a timeout, which is the same for connecting and reading.
            await client.get(deaf, timeout=60)

    with pytest.raises(httpx.ConnectTimeout):
        asyncio.run(ask())


@pytest.mark.parametrize("is_streamed", [False, True])
def test_clients_who_leave_at_any_moment_cost_no_place_in_the_pool(is_streamed: bool) -> None:
    settings = load_settings({"model": "offline/demo", "httpx_pool_max": 2, "httpx_pool_max_keepalive": 2})
    method = "streamGenerateContent?alt=sse" if is_streamed else "generateContent"

    async def scenario(upstream: GeminiStandIn) -> None:
        url = f"{upstream.url}/v1beta/models/gemini-flash-latest:{method}"
        async with provider_client(settings) as client:
            for steps in range(80):
                calls = [asyncio.create_task(client.post(url, json={})) for _ in range(3)]
                for _ in range(steps):
                    await asyncio.sleep(0)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            async with asyncio.timeout(10):
                assert (await client.post(url, json={})).status_code == 200
            pool: Any = client._transport
            assert pool._pool._requests == []
            connections = pool._pool.connections
            assert 0 < sum(connection.is_idle() for connection in connections) == len(connections)

    with GeminiStandIn() as upstream:
        asyncio.run(scenario(upstream))


def test_reading_may_take_as_long_as_the_call() -> None:
    kwargs = configure_httpx_defaults(load_settings({"model": "offline/demo", "llm_timeout": 90_000}))
    assert kwargs["timeout"] == httpx.Timeout(90, connect=5)
    kwargs = configure_httpx_defaults(load_settings({"model": "offline/demo", "llm_timeout": 1_000}))
    assert kwargs["timeout"] == httpx.Timeout(1)
