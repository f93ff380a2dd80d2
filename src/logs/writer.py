"""Write log lines to stderr from a thread, so that a stalled reader delays only the log.

Lines wait in a queue that is bounded in lines and bytes. When it is full, new lines are dropped and counted. When the
reader is back, a log line gives their number.
"""

import atexit
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from queue import Empty, SimpleQueue

MAX_LINE_BYTES = 16 * 1024
MAX_QUEUED_LINES = 16_384
MAX_QUEUED_BYTES = 4 * 1024 * 1024
# Seconds that lines wait for others while the process serves, so that the thread wakes up once for all of them.
BATCH_SECONDS = 0.01
# Maximum seconds that `write` waits for its line while the process does not serve. The process may end at any moment
# then, and the line would be lost.
PROMPT_SECONDS = 0.25
EXIT_SECONDS = 0.5  # for the remaining lines at the end
# A pipe takes this many bytes at once or not at all (POSIX: PIPE_BUF is at least 512, on Linux 4096), so lines of
# several workers do not mix.
MAX_WRITE_BYTES = select.PIPE_BUF
_END_OF_CUT = "…\n".encode()

Sink = Callable[[bytes], None]
Render = Callable[[], bytes]


class LogWriter:
    """A bounded queue of log lines, and the thread that writes them.

    `write` may be called from any thread, from signal handlers and from destructors. It never waits for long.

    Attributes:
        dropped: Number of lines dropped so far in this process.
        describe_dropped: Returns the log line that reports this number of dropped lines.

    Args:
        sink: Writes bytes. May block.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.describe_dropped: Callable[[int], str] = "{} log lines dropped".format
        self.renew()

    def renew(self) -> None:
        """Reset the writer in the child of a fork. The thread and the queued lines belong to the parent."""
        self._queue: SimpleQueue[bytes | tuple[Render, int] | threading.Event] = SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._is_batching = self._is_stalled = False
        self.dropped = self._reported = 0
        # The lock guards the counts of queued lines. Only the thread changes the counts of written lines.
        self._put_lines = self._put_bytes = self._written_lines = self._written_bytes = 0

    def write(self, line: bytes) -> None:
        """Queue a line, which ends with a line feed. A line over 16 KiB is cut.

        While the process does not serve (see `batching`), wait up to a quarter of a second until it is written.
        """
        line = _cut(line)
        self._put(line, len(line))

    def write_later(self, render: Render, size: int) -> None:
        """Queue a line that the thread renders, so that it costs the event loop little.

        Args:
            render: Returns the line, line feed included.
            size: Bytes of memory that its values take until then, which count for the queue's limit.
        """
        self._put((render, size), size)

    @contextmanager
    def batching(self) -> Iterator[None]:
        """Write lines in batches, a few milliseconds later, without waiting for them. For while an event loop runs.

        The end of the block writes the remaining lines: processes that `multiprocessing` started run no `atexit`
        handlers.
        """
        self._is_batching = True
        try:
            yield
        finally:
            self.close()

    def flush(self, seconds: float) -> bool:
        """Wait at most this long until all lines so far are written. Returns True if they are."""
        if self._thread is None or self._thread is threading.current_thread():
            return True
        written = threading.Event()
        self._queue.put(written)
        return written.wait(seconds)

    def close(self) -> None:
        """Write the remaining lines, in half a second at most."""
        self._is_batching = False
        self._is_stalled = not self.flush(EXIT_SECONDS)

    def _put(self, item: bytes | tuple[Render, int], size: int) -> None:
        with self._lock:
            if not self._has_room(size):
                self.dropped += 1
                return
            self._put_lines += 1
            self._put_bytes += size
            self._queue.put(item)
            if self._thread is None:
                self._start()
        if not self._is_batching and not self._is_stalled:
            self._is_stalled = not self.flush(PROMPT_SECONDS)

    def _has_room(self, size: int) -> bool:
        lines = self._put_lines - self._written_lines
        return lines < MAX_QUEUED_LINES and self._put_bytes - self._written_bytes + size <= MAX_QUEUED_BYTES

    def _start(self) -> None:
        """Start the thread, with all signals blocked: they are for the main thread, and must interrupt its waits."""
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        except RuntimeError:  # no more threads; the next line tries again
            self._thread = None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _run(self) -> None:
        while True:
            items = [self._queue.get()]
            if self._is_batching:
                time.sleep(BATCH_SECONDS)
            with suppress(Empty):
                while True:
                    items.append(self._queue.get_nowait())
            dropped = self.dropped  # after all of these lines: they have emptied the queue
            self._write_in_order(items)
            self._report(dropped)

    def _write_in_order(self, items: "list[bytes | tuple[Render, int] | threading.Event]") -> None:
        """Write the lines, in chunks that a pipe takes at once; set each event when all before it are written."""
        chunk: list[tuple[bytes, int]] = []
        size = 0
        for item in items:
            if isinstance(item, threading.Event):
                self._write_chunk(chunk)
                item.set()
                continue
            line, queued = (item, len(item)) if isinstance(item, bytes) else (_rendered(item[0]), item[1])
            if size + len(line) > MAX_WRITE_BYTES:
                self._write_chunk(chunk)
            size = len(line) + (size if chunk else 0)
            chunk.append((line, queued))
        self._write_chunk(chunk)

    def _write_chunk(self, chunk: list[tuple[bytes, int]]) -> None:
        """Write the lines, each with the bytes that it took in the queue, and empty the chunk."""
        if not chunk:
            return
        self._sink(b"".join(line for line, _ in chunk))
        self._written_lines += len(chunk)
        self._written_bytes += sum(queued for _, queued in chunk)
        self._is_stalled = False
        chunk.clear()

    def _report(self, dropped: int) -> None:
        """Write how many lines were dropped since the last report."""
        if dropped > self._reported:
            self._sink(self.describe_dropped(dropped - self._reported).encode() + b"\n")
            self._reported = dropped


def _rendered(render: Render) -> bytes:
    try:
        return _cut(render())
    except Exception as error:  # must not end the thread
        logging.getLogger(__name__).warning("log line could not be rendered: %s", type(error).__name__)
        return b""


def _cut(line: bytes) -> bytes:
    if len(line) <= MAX_LINE_BYTES:
        return line
    return line[: MAX_LINE_BYTES - len(_END_OF_CUT)].decode(errors="ignore").encode() + _END_OF_CUT


@cache
def stderr_writer() -> LogWriter:
    """Return the only log writer of this process."""
    writer = LogWriter(write_to_stderr)
    os.register_at_fork(after_in_child=writer.renew)
    atexit.register(writer.close)
    return writer


def write_to_stderr(data: bytes) -> None:
    """Write all bytes, however long it takes. They are lost if stderr is closed or nobody reads it any more."""
    stream = sys.stderr
    if stream is None:  # closed when the process started; its number may be another file's by now
        return
    with suppress(OSError, ValueError):
        is_replaced = stream is not sys.__stderr__  # as by tests
        if is_replaced:
            stream.write(data.decode())
        else:
            # Bypass the stream's buffer: a blocked thread would hold its lock while the process wants to end.
            _write_all(stream.fileno(), data)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # whoever started the process shares this pipe, and has made it non-blocking
            select.select([], [fd], [])


def is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False
