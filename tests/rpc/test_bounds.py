"""Bounds of RPCs whose real time, or number, would take long to reach."""

import asyncio
from typing import Any, cast

import grpc
import pytest
from google.rpc import status_pb2

from src.errors import PayloadTooLarge
from src.rate_limit import MemoryBuckets, RateLimit
from src.rpc import interceptors as grpc_interceptors
from src.rpc import server as grpc_server
from src.rpc.health import WATCH_SECONDS, HealthService
from src.rpc.requests import MAX_MESSAGES, RequestReaders
from src.rpc.server import GrpcServer
from src.settings_loader import load_settings
from testing.ports import free_port

ANY: Any = None


class Client:
    """The context of an RPC whose client sends so many messages, and never reads."""

    def __init__(self, messages: int = 0) -> None:
        self.left = messages

    async def read(self) -> object:
        if not self.left:
            return grpc.aio.EOF
        self.left -= 1
        return b"message"

    async def abort(self, *_: object) -> None:
        await asyncio.Event().wait()


def messages_read(sent: int) -> int:
    """Return the number of messages that the handler gets."""

    async def run() -> int:
        handler: Any = grpc.stream_unary_rpc_method_handler(ANY)
        read = RequestReaders().reader(handler, "/some/Method")
        count = 0
        async for _ in await read(cast("Any", Client(sent)), ANY, ANY):
            count += 1
        return count

    return asyncio.run(run())


def test_a_stream_of_requests_has_so_many_messages_and_no_more() -> None:
    assert messages_read(MAX_MESSAGES) == MAX_MESSAGES
    with pytest.raises(PayloadTooLarge):
        messages_read(MAX_MESSAGES + 1)


def test_the_status_of_a_failure_waits_only_so_long_for_a_client_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grpc_interceptors, "ABORT_SECONDS", 0.01)
    monkeypatch.setattr(grpc_interceptors, "abort", lambda *_: Client().abort())

    async def run() -> None:
        async with asyncio.timeout(20):
            await grpc_interceptors._send_status(ANY, status_pb2.Status(), ())

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())


def test_a_watch_ends_when_it_is_old_enough() -> None:
    async def run() -> bool:
        health = HealthService([], watch_seconds=0.01)
        health.start()
        async with asyncio.timeout(20):
            return await health._has_stopped()

    assert asyncio.run(run()) is False


def test_the_server_has_the_real_age_of_a_watch() -> None:
    settings = load_settings({"model": "offline/demo", "grpc_port": str(free_port())})

    async def run() -> float:
        server = GrpcServer(settings, ANY, RateLimit(MemoryBuckets(), settings.rate_limit))
        await server.start()
        await server.stop(0)
        return server._health._watch_seconds

    assert asyncio.run(run()) == WATCH_SECONDS


@pytest.mark.parametrize("seen", [[True], [False, True]], ids=["before it listens", "started at the same moment"])
def test_a_stranger_at_the_port_is_refused_whenever_it_came(seen: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings({"model": "offline/demo", "host": "127.0.0.1", "grpc_port": str(free_port())})
    monkeypatch.setattr(grpc_server, "is_shared_with_strangers", lambda *_: seen.pop(0))

    async def run() -> None:
        server = GrpcServer(settings, ANY, RateLimit(MemoryBuckets(), settings.rate_limit))
        with pytest.raises(RuntimeError, match="another service"):
            await server.start()
        await server.stop(0)

    asyncio.run(run())
    assert not seen
