"""uvicorn closes connections on which no request comes, and no others."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from src.util.uvicorn_http import MAX_PIPELINED, HeadTimeoutProtocol
from tests.ports import free_port

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = REQUEST[:-2]
TIMEOUT = 1  # second

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def slow_app(_scope: Scope, _receive: Receive, send: Send) -> None:
    await asyncio.sleep(2.5 * TIMEOUT)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def quick_app(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def connected(app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> AsyncIterator[Connection]:
    port = free_port()
    config = uvicorn.Config(
        app, port=port, http=HeadTimeoutProtocol, timeout_keep_alive=TIMEOUT, lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await serving


async def sends_nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None: ...


async def sends_half_a_head(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HALF)


async def sends_half_a_head_after_a_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(REQUEST)
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HALF)


async def trickles(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HALF)
    for _ in range(20):
        writer.write(b"a")
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("client", [sends_nothing, sends_half_a_head, sends_half_a_head_after_a_request, trickles])
def test_a_connection_without_a_request_is_closed(client: Client) -> None:
    async def run() -> None:
        async with connected(quick_app) as (reader, writer):
            sending = asyncio.ensure_future(client(reader, writer))
            async with asyncio.timeout(3 * TIMEOUT):
                await reader.read()
            sending.cancel()

    asyncio.run(run())


def test_one_that_waits_for_its_response_is_not() -> None:
    async def run() -> None:
        async with connected(slow_app) as (reader, writer):
            writer.write(REQUEST)
            assert (await reader.readline()).startswith(b"HTTP/1.1 204")

    asyncio.run(run())


def test_a_client_that_sends_requests_without_end_and_reads_none_is_cut_off() -> None:
    async def run() -> bytes:
        async with connected(slow_app) as (reader, writer):
            writer.write(REQUEST * 1000)
            with suppress(ConnectionError):
                return await asyncio.wait_for(reader.read(), TIMEOUT)
            return b""

    assert asyncio.run(run()) == b""


def test_some_requests_may_be_sent_ahead() -> None:
    async def run() -> None:
        async with connected(quick_app) as (reader, writer):
            writer.write(REQUEST * MAX_PIPELINED)
            for _ in range(MAX_PIPELINED):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")

    asyncio.run(run())
