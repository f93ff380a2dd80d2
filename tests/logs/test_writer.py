"""No reader of the log holds the service up: lines wait in a bounded queue, and those that are dropped are counted."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from src.logs.writer import (
    MAX_LINE_BYTES,
    MAX_QUEUED_BYTES,
    MAX_QUEUED_LINES,
    MAX_WRITE_BYTES,
    LogWriter,
)
from testing.service import ROOT


class Reader:
    """A sink that stalls until it is told to go on."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_reading = threading.Event()
        self.is_stalled = threading.Event()

    def __call__(self, data: bytes) -> None:
        self.is_stalled.set()
        assert self.is_reading.wait(10)
        self.writes.append(data)

    @property
    def lines(self) -> list[bytes]:
        return b"".join(self.writes).splitlines()


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.is_reading.set()


def stalled(reader: Reader) -> LogWriter:
    """A writer whose thread waits for the reader, with one line."""
    writer = LogWriter(reader)
    with writer.batching():
        writer.write(b"first\n")
    assert reader.is_stalled.wait(5)
    return writer


@pytest.mark.parametrize(
    ("line", "limit"),
    [(b"x\n", MAX_QUEUED_LINES), (b"x" * 9999 + b"\n", MAX_QUEUED_BYTES // 10_000)],
    ids=["many lines", "long lines"],
)
def test_a_stalled_reader_costs_the_newest_lines_and_gets_their_number(reader: Reader, line: bytes, limit: int) -> None:
    writer = stalled(reader)
    writer.describe_dropped = "dropped: {}".format
    sent = MAX_QUEUED_LINES + 100
    with writer.batching():
        began = time.perf_counter()
        for _ in range(sent):
            writer.write(line)
        assert time.perf_counter() - began < 5, "no line waits for the reader"
        reader.is_reading.set()
        assert writer.flush(10)
        writer.write(b"later\n")
        assert writer.flush(10)
    assert abs(writer.dropped - (sent - limit)) <= 1
    told = [text for text in reader.lines if text.startswith(b"dropped: ")]
    assert told == [b"dropped: %d" % writer.dropped]
    kept = [text for text in reader.lines if text not in told]
    assert kept == [b"first", *[line[:-1]] * (sent - writer.dropped), b"later"]


def test_where_nothing_is_served_a_line_is_waited_for_but_not_for_long(reader: Reader) -> None:
    writer = LogWriter(reader)
    reader.is_reading.set()
    for number in range(20):
        writer.write(b"%d\n" % number)
        assert reader.lines[-1] == b"%d" % number
    reader.is_reading.clear()
    began = time.perf_counter()
    for _ in range(100):
        writer.write(b"x\n")
    writer.close()
    assert time.perf_counter() - began < 5, "one wait for all of them, and one at the end"


def test_a_line_is_rendered_by_the_thread_in_its_turn(reader: Reader) -> None:
    reader.is_reading.set()
    writer = LogWriter(reader)
    threads: list[threading.Thread] = []

    def render() -> bytes:
        threads.append(threading.current_thread())
        return b"second\n"

    with writer.batching():
        writer.write(b"first\n")
        writer.write_later(render, 100)
        writer.write(b"third\n")
    assert reader.lines == [b"first", b"second", b"third"]
    assert threads[0] is not threading.current_thread()


def test_a_line_that_cannot_be_rendered_costs_no_other(reader: Reader, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    reader.is_reading.set()
    writer = LogWriter(reader)

    def render() -> bytes:
        raise LookupError("what a client wrote")

    with writer.batching():
        writer.write(b"first\n")
        writer.write_later(render, 100)
        writer.write_later(lambda: b"x" * 2 * MAX_LINE_BYTES + b"\n", 100)
    first, cut = reader.lines
    assert first == b"first"
    assert len(cut) == MAX_LINE_BYTES - 1
    assert [record.getMessage() for record in caplog.records] == ["log line could not be rendered: LookupError"]


def test_unrendered_lines_take_their_part_of_the_queue_until_they_are_written(reader: Reader) -> None:
    writer = stalled(reader)
    limit = MAX_QUEUED_BYTES // 5000
    with writer.batching():
        for _ in range(limit + 100):
            writer.write_later(lambda: b"x\n", 5000)
        assert abs(writer.dropped - 100) <= 1
        reader.is_reading.set()
        assert writer.flush(10)
        dropped = writer.dropped
        for _ in range(limit):
            writer.write_later(lambda: b"y\n", 5000)
    assert writer.dropped == dropped
    assert reader.lines.count(b"y") == limit


def test_once_the_reader_is_back_lines_are_waited_for_again(reader: Reader) -> None:
    writer = stalled(reader)
    writer.write(b"x\n")
    reader.is_reading.set()
    assert writer.flush(10)
    writer.write(b"y\n")
    assert reader.lines[-1] == b"y"


def test_lines_are_written_together_but_never_mixed(reader: Reader) -> None:
    writer = stalled(reader)
    lines = [b"%d" % size * size + b"\n" for size in range(1, 2000, 7)]
    with writer.batching():
        for line in lines:
            writer.write(line)
        reader.is_reading.set()
        assert writer.flush(10)
    assert b"".join(reader.writes) == b"first\n" + b"".join(lines)
    assert all(data.endswith(b"\n") for data in reader.writes)
    assert all(len(data) <= MAX_WRITE_BYTES or data.count(b"\n") == 1 for data in reader.writes)
    assert len(reader.writes) < len(lines)


def test_a_long_line_is_cut_and_marked(reader: Reader) -> None:
    reader.is_reading.set()
    writer = LogWriter(reader)
    writer.write("é".encode() * MAX_LINE_BYTES + b"\n")
    assert writer.flush(10)
    [line] = reader.writes
    assert (len(line) <= MAX_LINE_BYTES, line.decode()[-2:]) == (True, "…\n")


def test_lines_of_all_threads_arrive_in_the_order_of_each(reader: Reader) -> None:
    reader.is_reading.set()
    writer = LogWriter(reader)

    def write(name: int) -> None:
        for number in range(200):
            writer.write(b"%d %d\n" % (name, number))

    with writer.batching():
        threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert writer.flush(10)
    for name in range(8):
        assert [line for line in reader.lines if line.startswith(b"%d " % name)] == [
            b"%d %d" % (name, number) for number in range(200)
        ]


def test_a_line_from_a_destructor_or_signal_handler_does_not_lock_up(reader: Reader) -> None:
    reader.is_reading.set()
    writer = LogWriter(reader)
    with writer.batching(), writer._lock:
        writer.write(b"inner\n")
        assert writer.flush(10)
    assert reader.lines == [b"inner"]


# Closes stderr before it starts the command. A `preexec_fn` would run in a fork of this process, among its threads.
WITHOUT_STDERR = ("/bin/sh", "-c", 'exec "$@" 2>&-', "sh")


def run(code: str, *before: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [*before, sys.executable, "-c", f"import os, sys\n{PREPARED}{code}"],
        cwd=ROOT,
        env={"MODEL": "offline/demo", "PATH": ""},
        text=True,
        timeout=30,
        check=False,
        **options,
    )
    return done


PREPARED = """
import structlog
from src.settings_loader import load_settings
from src.logs.writer import stderr_writer
from src.logs.setup import configure_logging
configure_logging(load_settings())
log, writer = structlog.get_logger("x"), stderr_writer()
"""


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param("pass", id="end"),
        pytest.param("sys.exit(3)", id="exit"),
        pytest.param("raise LookupError", id="crash"),
    ],
)
def test_no_line_is_lost_when_the_process_ends(ending: str) -> None:
    code = f"with writer.batching():\n    for number in range(500): log.info('line', number=number)\n    {ending}"
    lines = run(code, stderr=subprocess.PIPE).stderr.splitlines()
    assert [f'"number":{number},' in line for number, line in enumerate(lines[:500])] == [True] * 500
    assert ("LookupError" in "".join(lines[500:])) == ("LookupError" in ending)


def test_a_line_is_written_before_the_process_could_be_killed() -> None:
    assert "before" in run("log.info('before')\nos.kill(os.getpid(), 9)", stderr=subprocess.PIPE).stderr


def test_a_forked_child_writes_its_own_lines_and_none_of_its_parent() -> None:
    code = """
log.info("parent")
if os.fork() == 0:
    with writer.batching():
        log.info("child")
    sys.exit()
os.wait()
log.info("parent again")
"""
    lines = run(code, stderr=subprocess.PIPE).stderr.splitlines()
    events = [next(word for word in ("parent again", "parent", "child") if word in line) for line in lines]
    assert events == ["parent", "child", "parent again"]


def test_a_parent_whose_reader_has_stalled_has_children_that_end() -> None:
    read, write = os.pipe()
    code = """
os.set_blocking(2, False)
try:
    while True: os.write(2, b"x" * 4096)
except BlockingIOError: os.set_blocking(2, True)
log.info("parent")
if os.fork() == 0:
    log.info("child")
    sys.exit()
assert os.wait()[1] == 0
"""
    try:
        assert run(code, stderr=write).returncode == 0
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_closed_stderr_fails_nothing(when: str) -> None:
    before, code = (WITHOUT_STDERR, "") if when == "at the start" else ((), "os.close(2)\n")
    code += "log.info('line')\nwith writer.batching(): log.info('line')\nprint('done')"
    done = run(code, *before, stdout=-1, stderr=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_reader_that_went_away_fails_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = run("log.info('line')\nprint('done')", stdout=-1, stderr=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_pipe_that_its_owner_made_non_blocking_loses_no_line() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    code = "with writer.batching():\n    for number in range(2000): log.info('line', number=number)"
    got = b""

    def drain() -> None:
        nonlocal got
        while part := os.read(read, 1 << 16):
            got += part

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        run(code, stderr=write)
    finally:
        os.close(write)
        thread.join(10)
        os.close(read)
    assert got.count(b"\n") == 2000


def test_a_wrong_setting_ends_the_process_with_its_status_where_stderr_is_closed() -> None:
    done = subprocess.run(
        [*WITHOUT_STDERR, sys.executable, "-m", "src", "--port", "x"],
        cwd=ROOT,
        env={"MODEL": "offline/demo", "PATH": ""},
        stdout=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
