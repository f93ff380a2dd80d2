"""uvicorn closes connections on which no request comes, and no others."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from src.lifecycle.uvicorn_http import MAX_HEAD_BYTES, MAX_PIPELINED, HeadTimeoutProtocol
from testing.ports import free_port

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = REQUEST[:-2]
POST_CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
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


@pytest.mark.parametrize(
    "sent", [b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n"]
)
def test_what_is_no_request_gets_a_hardened_refusal(sent: bytes) -> None:
    async def run() -> bytes:
        async with connected(quick_app) as (reader, writer):
            writer.write(sent)
            return await asyncio.wait_for(reader.read(), 10)

    head, _, body = asyncio.run(run()).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    assert len(headers) == len(fields), "each once"
    assert status == "HTTP/1.1 400 Bad Request"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["connection"] == "close"
    assert "strict-transport-security" not in headers
    problem = json.loads(body)
    assert problem["request_id"] == headers["x-request-id"]
    assert (problem["status"], headers["content-type"]) == (400, "application/problem+json")
    assert headers["content-length"] == str(len(body))


def test_no_refusal_follows_a_response_that_has_begun() -> None:
    async def half_an_answer(_scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"half ", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async def run() -> bytes:
        async with connected(half_an_answer) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            begun = await reader.readuntil(b"half ")
            writer.write(b"no chunk\r\n")
            return begun + await asyncio.wait_for(reader.read(), 10)

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"half ")


@pytest.mark.parametrize(
    ("before", "endless"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n", id="headers"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\na: ", b"a", id="one header"),
        pytest.param(b"GET /", b"a", id="path"),
        pytest.param(POST_CHUNKED + b"1\r\na\r\n1;", b"a", id="a chunk's extension"),
        pytest.param(POST_CHUNKED + b"1\r\na\r\n0\r\n", b"a: b\r\n", id="trailers"),
    ],
)
def test_what_comes_without_end_and_is_no_body_is_refused_by_its_amount(before: bytes, endless: bytes) -> None:
    async def waits_for_the_body(_scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] != "http.disconnect" and message.get("more_body", False):
            pass

    async def run() -> tuple[bytes, int]:
        async with connected(waits_for_the_body) as (reader, writer):
            writer.write(before)
            sent = 0
            with suppress(ConnectionError):
                async with asyncio.timeout(10):
                    while not reader.at_eof() and not writer.is_closing():
                        writer.write(piece := endless * (4096 // len(endless)))
                        sent += len(piece)
                        await writer.drain()
                        await asyncio.sleep(0.001)
            return await received(reader), sent

    answer, sent = asyncio.run(run())
    assert sent < 20 * MAX_HEAD_BYTES
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 "), "a reset may overtake it"


async def received(reader: asyncio.StreamReader) -> bytes:
    with suppress(ConnectionError):
        return await reader.read()
    return b""


def test_a_head_that_comes_at_once_is_bounded_too() -> None:
    async def run() -> tuple[bytes, bytes]:
        answers = []
        for size in (MAX_HEAD_BYTES - 100, MAX_HEAD_BYTES):
            async with connected(quick_app) as (reader, writer):
                writer.write(REQUEST[:-2] + b"a: " + b"a" * size + b"\r\n\r\n")
                answers.append(await asyncio.wait_for(reader.readline(), 10))
        return answers[0], answers[1]

    allowed, refused = asyncio.run(run())
    assert allowed.startswith(b"HTTP/1.1 204 ")
    assert refused.startswith(b"HTTP/1.1 431 ")


def test_a_large_body_with_requests_behind_it_is_not_taken_for_a_head() -> None:
    async def reads_all(_scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        await quick_app(_scope, receive, send)

    async def run() -> None:
        async with connected(reads_all) as (reader, writer):
            post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"a" * 200_000
            writer.write(post * 3 + HALF)
            writer.write(REQUEST[-2:])
            for _ in range(4):
                async with asyncio.timeout(10):
                    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")

    asyncio.run(run())
