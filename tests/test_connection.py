"""The connections to the provider: no long wait for a host that is down, all the time of the call for its answer."""

import asyncio
import socket
from collections.abc import Iterator

import httpx
import pytest

from src import connection
from src.config import load_settings
from src.connection import configure_httpx_defaults


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


def test_reading_may_take_as_long_as_the_call() -> None:
    kwargs = configure_httpx_defaults(load_settings({"model": "offline/demo", "llm_timeout": 90_000}))
    assert kwargs["timeout"] == httpx.Timeout(90, connect=5)
    kwargs = configure_httpx_defaults(load_settings({"model": "offline/demo", "llm_timeout": 1_000}))
    assert kwargs["timeout"] == httpx.Timeout(1)
