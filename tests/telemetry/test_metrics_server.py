"""The metrics' port stays of use whatever connects to it, and takes little of the process that it watches."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from src.telemetry import metrics
from src.telemetry.metrics import add_up_ended_workers, expose, sweep_dead_workers
from src.telemetry.metrics_file import AllocatedFile
from src.telemetry.metrics_server import MAX_CONNECTIONS, OPEN_METRICS, PLAIN_TEXT, MetricsServer
from testing.ports import free_port

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n"
STEP = 0.2  # seconds


def exposition(content_type: str) -> bytes:
    return f"# as {content_type}\n".encode()


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


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        pytest.param("", PLAIN_TEXT, id="none"),
        pytest.param("*/*", PLAIN_TEXT, id="any"),
        pytest.param("text/plain;version=0.0.4", PLAIN_TEXT, id="plain text"),
        pytest.param("application/openmetrics-text", OPEN_METRICS, id="OpenMetrics"),
        pytest.param("application/openmetrics-text; version=1.0.0; q=0.5,*/*", OPEN_METRICS, id="its version"),
        pytest.param("application/openmetrics-text;version=9.0.0", PLAIN_TEXT, id="a version of later"),
        pytest.param("application/openmetrics-text;version=zzz", PLAIN_TEXT, id="no version at all"),
        pytest.param("application/openmetrics-text;version=" + "1" * 5000, PLAIN_TEXT, id="a long version"),
        pytest.param("application/openmetrics-text;version=1.0.0\nx: y", PLAIN_TEXT, id="a line feed"),
    ],
)
def test_a_scraper_gets_the_metrics_in_a_format_that_it_accepts(accept: str, content_type: str) -> None:
    async def run() -> bytes:
        async with listening() as port:
            return await received(port, f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n".encode())

    head, _, body = asyncio.run(run()).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length:".encode())
    assert body == f"# as {content_type}\n".encode()


@pytest.mark.parametrize(("content_type", "last_line"), [(PLAIN_TEXT, b""), (OPEN_METRICS, b"# EOF")])
def test_both_formats_can_be_made(
    content_type: str, last_line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert expose(content_type).strip().endswith(last_line)


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
        async with listening(lambda _: b"a" * 50_000_000) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            writer.write(GET)
            await asyncio.sleep(5 * STEP)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(50_000_000)
            writer.close()

    asyncio.run(run())


def test_idle_connections_keep_no_scraper_out_and_the_oldest_of_too_many_are_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        async with listening(step_seconds=30) as port:
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
            assert (await received(port, GET)).startswith(b"HTTP/1.1 200")
            evicted = [reader for reader, _ in idle[: 300 + 1 - MAX_CONNECTIONS]]
            await asyncio.wait_for(asyncio.gather(*map(ended, evicted)), 10)
            assert (await received(port, GET)).startswith(b"HTTP/1.1 200")
            assert not any(reader.at_eof() for reader, _ in idle[300 + 1 - MAX_CONNECTIONS :])
            for _, writer in idle:
                writer.close()

    asyncio.run(run())
    assert not caplog.records


async def ended(reader: asyncio.StreamReader) -> None:
    """Return when the server has closed the connection."""
    with suppress(ConnectionError):
        assert await reader.read() == b""


def test_the_loop_goes_on_while_the_text_is_made() -> None:
    def slow(_content_type: str) -> bytes:
        time.sleep(0.5)
        return b""

    async def run() -> float:
        async with listening(slow, step_seconds=30) as port:
            scrape = asyncio.create_task(received(port, GET))
            longest = 0.0
            while not scrape.done():
                began = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - began)
            assert (await scrape).startswith(b"HTTP/1.1 200")
            return longest

    assert asyncio.run(run()) < 0.4


def test_a_scraper_waits_no_longer_than_the_limit() -> None:
    released = threading.Event()

    def hanging(_content_type: str) -> bytes:
        released.wait(30)
        return b""

    async def run() -> list[bytes]:
        async with listening(hanging) as port:
            try:
                return await asyncio.gather(*(received(port, GET) for _ in range(8)))
            finally:
                released.set()

    assert [answer.split(b"\r\n")[0] for answer in asyncio.run(run())] == [b"HTTP/1.1 503 Service Unavailable"] * 8


def test_scrapers_who_ask_at_the_same_time_share_one_text_and_none_ends_it_for_the_others() -> None:
    made: list[str] = []
    released = threading.Event()

    def slow(content_type: str) -> bytes:
        made.append(content_type)
        released.wait(30)
        return b"text"

    async def run() -> None:
        server = MetricsServer(slow)
        leaving, *staying = [asyncio.create_task(server._exposed(PLAIN_TEXT)) for _ in range(8)]
        other = asyncio.create_task(server._exposed(OPEN_METRICS))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        released.set()
        assert await asyncio.gather(*staying, other) == [b"text"] * 8
        assert await server._exposed(PLAIN_TEXT) == b"text"

    asyncio.run(run())
    assert sorted(made) == sorted([PLAIN_TEXT, OPEN_METRICS, PLAIN_TEXT]), "one for all, and a new one for the next"


def test_a_failure_is_a_500_without_its_reason() -> None:
    def failing(_content_type: str) -> bytes:
        raise ValueError("secret")

    async def run() -> bytes:
        async with listening(failing, step_seconds=30) as port:
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


def test_the_counts_of_ended_workers_are_added_up_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {11: {"a": 1.0, "b": 2.0}, 12: {"b": 3.0}, 13: {"c": 4.0}, os.getpid(): {"a": 5.0}}
    for pid, values in counts.items():
        file = AllocatedFile(str(tmp_path / f"counter_{pid}.db"))
        for key, value in values.items():
            file.write_value(key, value, 0.0)
        file.close()
    monkeypatch.setattr(metrics, "_is_alive", lambda pid: pid == os.getpid())

    with metrics._reading_files:
        add_up_ended_workers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4, "not while a scrape reads them"

    monkeypatch.setattr(AllocatedFile, "_with_room_for", lambda *_: None)
    add_up_ended_workers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4, "not without room"
    monkeypatch.undo()

    monkeypatch.setattr(metrics, "_is_alive", lambda pid: pid == os.getpid())
    for _ in range(2):
        add_up_ended_workers(tmp_path)
        [ended] = set(tmp_path.iterdir()) - {tmp_path / f"counter_{os.getpid()}.db"}
        found = {key: value for key, value, *_ in MmapedDict.read_all_values_from_file(str(ended))}
        assert found == {"a": 1.0, "b": 5.0, "c": 4.0}
