"""The metrics' port stays of use whatever connects to it, and takes little of the process that it watches."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from src.observability.metrics import sweep_dead_workers
from src.observability.metrics_server import MetricsServer
from tests.ports import free_port

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n"
STEP = 0.2  # seconds


def exposition(accept: str) -> tuple[bytes, str]:
    return f"# for {accept}\n".encode(), "text/plain"


@asynccontextmanager
async def listening(exposition: object = exposition, **bounds: float) -> AsyncIterator[int]:
    port = free_port()
    server = MetricsServer(exposition, **{"step_seconds": STEP, **bounds})  # type: ignore[arg-type]
    await server.listen("127.0.0.1", port)
    try:
        yield port
    finally:
        await server.close()


async def received(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


def test_a_scraper_gets_the_metrics_in_the_format_it_accepts() -> None:
    async def run() -> bytes:
        async with listening() as port:
            return await received(port, GET)

    head, _, body = asyncio.run(run()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n")
    assert body == b"# for  text/plain\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(GET[:-2], b"", id="half a head"),
        pytest.param(b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000, b"", id="an endless head"),
        pytest.param(b"\xff" * 100 + b"\r\n\r\n", b"HTTP/1.1 405", id="no HTTP"),
        pytest.param(b"POST / HTTP/1.1\r\n\r\n", b"HTTP/1.1 405", id="another method"),
    ],
)
def test_any_other_connection_ends_in_time(sent: bytes, answer: bytes) -> None:
    async def run() -> bytes:
        async with listening() as port:
            try:
                return await received(port, sent)
            except ConnectionError:
                return b""

    assert asyncio.run(run()).startswith(answer)


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def run() -> None:
        async with listening(lambda _: (b"a" * 50_000_000, "text/plain")) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            writer.write(GET)
            await asyncio.sleep(5 * STEP)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(50_000_000)
            writer.close()

    asyncio.run(run())


def test_idle_connections_keep_no_scraper_out() -> None:
    async def run() -> None:
        async with listening(step_seconds=30) as port:
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
            assert (await received(port, GET)).startswith(b"HTTP/1.1 200")
            for _, writer in idle:
                writer.close()

    asyncio.run(run())


def test_the_loop_goes_on_while_the_text_is_made() -> None:
    def slow(_accept: str) -> tuple[bytes, str]:
        time.sleep(0.5)
        return b"", "text/plain"

    async def run() -> float:
        async with listening(slow) as port:
            scrape = asyncio.create_task(received(port, GET))
            longest = 0.0
            while not scrape.done():
                began = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - began)
            assert (await scrape).startswith(b"HTTP/1.1 200")
            return longest

    assert asyncio.run(run()) < 0.4


def test_a_failure_is_a_500_without_its_reason() -> None:
    def failing(_accept: str) -> tuple[bytes, str]:
        raise ValueError("secret")

    async def run() -> bytes:
        async with listening(failing) as port:
            return await received(port, GET)

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"secret" not in answer


def test_gauges_of_dead_workers_are_swept_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kinds = ("gauge_livemax", "gauge_livesum", "counter", "histogram")
    for pid in (ended.pid, os.getpid(), os.getppid()):
        for kind in kinds:
            (tmp_path / f"{kind}_{pid}.db").touch()
    sweep_dead_workers(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if str(ended.pid) in path.name} == {
        f"{kind}_{ended.pid}.db" for kind in ("counter", "histogram")
    }
    assert len(list(tmp_path.iterdir())) == 2 + 4 + 4
