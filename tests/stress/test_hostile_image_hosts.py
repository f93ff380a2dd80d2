"""Image hosts that send what is dear to parse, without end: the event loop stays free for everybody else."""

import asyncio
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

import pytest

from src.callers.caller import Caller, set_caller
from src.errors import InvalidInput
from src.images.fetch import MAX_FETCHES, ImageFetcher
from src.images.name_lookup import Address
from testing.ports import free_port

MAX_LAG = 0.25
ROUNDS = 10
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
# What is sent first, and then again and again.
HOSTILE = {
    "1xx responses": (b"", b"HTTP/1.1 103 E\r\n\r\n" * 3000),
    "chunks of a byte": (CHUNKED, b"1\r\na\r\n" * 10_000),
    "chunks of the least average size": (CHUNKED, (b"200\r\n" + b"a" * 512 + b"\r\n") * 100),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 3000),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\n", b"a: b\r\n" * 3000),
}


def serve(port: int, head: bytes, piece: bytes) -> None:
    """Answer everybody in this way, in a process of its own."""

    def one(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.recv(4096)
            client.sendall(head)
            while True:
                client.sendall(piece)

    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()


@contextmanager
def hostile_host(kind: str) -> Iterator[int]:
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, *HOSTILE[kind]), daemon=True)
    process.start()
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the host never came up"
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_loop_is_free_beside_as_many_hostile_fetches_as_there_can_be(kind: str) -> None:
    async def resolve(_host: str, _port: int) -> list[Address]:
        return [ip_address("127.0.0.1")]

    async def scenario(port: int) -> float:
        images = ImageFetcher(resolve=resolve, is_allowed=lambda _: True, ports={"http": port})

        async def fetch(client: int) -> None:
            set_caller(Caller(str(client), str(client)))
            for _ in range(ROUNDS):
                with pytest.raises(InvalidInput):
                    await images.fetch(f"http://hostile.test:{port}/")

        await asyncio.gather(fetch(0))  # what is imported when it is first used
        fetches = asyncio.gather(*(fetch(client) for client in range(MAX_FETCHES)))
        worst = 0.0
        while not fetches.done():
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            worst = max(worst, time.perf_counter() - began - 0.005)
        await fetches
        return worst

    with hostile_host(kind) as port:
        assert asyncio.run(scenario(port)) < MAX_LAG
