"""The ways to call the service while it is soaked: as most callers do, and as the worst do."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from testing import small_service
from testing.small_service import pb

QUESTION_CHARS, TEXT_CHARS, PATH_CHARS = 5_000, 10_000, 30_000
TOO_LARGE_BYTES = 1_048_577
ADDRESSES = 5_000
HOLD_SECONDS = 1.0

Kind = Callable[[], Awaitable[str]]


class Callers:
    """The kinds of call; each returns how it ended.

    Attributes:
        kinds: Those that most callers make, clients who leave and invalid input among them.
        worst: Those that cost most: large answers to cache, many addresses, bodies and lines at their limit or beyond,
            streams that nobody reads.
    """

    def __init__(self, http: httpx.AsyncClient, channel: grpc.aio.Channel, port: int) -> None:
        self._http = http
        self._port = port
        self._stub: Any = small_service.stub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)
        self.kinds: list[Kind] = [
            *(self.rest, self.rest_cached, self.sse, self.rpc, self.stream_rpc),
            *(self.rest_left, self.sse_left, self.rpc_left, self.stream_rpc_left, self.invalid),
        ]
        self.worst: list[Kind] = [
            *(self.large_answer, self.large_question, self.many_addresses, self.too_large, self.long_path),
            *(self.tiny_chunks, self.unread, self.watch, self.large_metadata),
        ]

    async def rest(self) -> str:
        return await self._post("/chat", {"question": f"{random.random()}"})

    async def rest_cached(self) -> str:
        return await self._post("/translate", {"text": f"{random.randrange(2000)}"})

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
        return await self._post("/chat", {"question": ""})

    async def large_answer(self) -> str:
        """Another text each time, as long as may be: the answer repeats it and is cached."""
        return await self._post("/translate", {"text": f"{random.random()} ".ljust(TEXT_CHARS, "x")})

    async def large_question(self) -> str:
        return await self._post("/chat", {"question": f"{random.random()} ".ljust(QUESTION_CHARS, "x")})

    async def many_addresses(self) -> str:
        """From one of thousands of addresses, by the word of a proxy that is trusted here."""
        number = random.randrange(ADDRESSES)
        return await self._post("/chat", {"question": "a"}, {"x-forwarded-for": f"198.18.{number >> 8}.{number & 255}"})

    async def too_large(self) -> str:
        answer = await self._http.post("/chat", content=b" " * TOO_LARGE_BYTES)
        return str(answer.status_code)

    async def long_path(self) -> str:
        return str((await self._http.get("/" + "eyJ-" * (PATH_CHARS // 4))).status_code)

    async def tiny_chunks(self) -> str:
        answer = await self._http.post("/chat", content=_bytewise(), headers={"content-type": "application/json"})
        return str(answer.status_code)

    async def unread(self) -> str:
        """An event stream that nobody reads; the client leaves after a while."""
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", self._port))
            await loop.sock_sendall(client, b"POST /tell-story/stream HTTP/1.1\r\nhost: a\r\n" + _EMPTY_JSON)
            await asyncio.sleep(HOLD_SECONDS)
        return "left"

    async def watch(self) -> str:
        """A health watch of a name that nobody knows, as long as may be."""
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                return await outcome(self._health.Watch(health_pb2.HealthCheckRequest(service="a" * 10_000)))
        except TimeoutError:
            return "left"

    async def large_metadata(self) -> str:
        metadata = (("x-large", "a" * 8000),)
        return await outcome(self._stub.PirateChat(pb.ChatRequest(), metadata=metadata))

    async def _post(self, path: str, body: dict[str, str], headers: dict[str, str] | None = None) -> str:
        return str((await self._http.post(path, json=body, headers=headers)).status_code)


_EMPTY_JSON = b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


async def _bytewise() -> AsyncIterator[bytes]:
    for _ in range(2000):
        yield b" "
    yield b"{}"


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
