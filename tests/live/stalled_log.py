"""A log that nobody reads: what the service does then, and when the reader is back."""

import json
import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from src.logs.writer import MAX_QUEUED_BYTES
from testing.service import Service
from testing.small_service import pb

LONG_PATH = "/" + "%F3%A0%80%81" * 256  # a character that is logged as ten
LINE_BYTES = 2800
FLOOD = MAX_QUEUED_BYTES // LINE_BYTES + 300
STOP_SECONDS = 6.0  # nothing is in flight


class Pipe:
    """A pipe that is full until somebody reads it."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.fill()

    def fill(self) -> None:
        """Fill it up, so that the next write waits."""
        os.set_blocking(self.write_end, False)
        try:
            while True:
                os.write(self.write_end, b"\n" * select.PIPE_BUF)
        except BlockingIOError:
            os.set_blocking(self.write_end, True)

    def entries_until(self, event: str, seconds: float = 20) -> list[dict[str, Any]]:
        """Read until a line of the log has this event; all lines up to there."""
        data = b""
        deadline = time.monotonic() + seconds
        while event.encode() not in data or not data.endswith(b"\n"):
            ready, _, _ = select.select([self.read_end], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{event!r} is not in the log"
            data += os.read(self.read_end, 1 << 20)
        return [json.loads(line) for line in data.splitlines() if line]

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


@contextmanager
def unread(command: Sequence[str], **env: str) -> Iterator[tuple[Service, Pipe]]:
    """The service, with a log that is full from the start."""
    pipe = Pipe()
    service = Service(command, **env)
    service.stderr = pipe.write_end
    try:
        with service:
            yield service, pipe
    finally:
        pipe.close()


def flood(service: Service) -> None:
    """Send more requests than the queue has room for."""
    for _ in range(FLOOD):
        assert service.http.get(LONG_PATH).status_code == 404


def check_answers(service: Service) -> None:
    began = time.monotonic()
    assert service.http.get("/health").status_code == 200
    assert service.http.post("/chat", json={}).status_code == 200
    assert service.stub.PirateChat(pb.ChatRequest(), timeout=5).answer
    assert time.monotonic() - began < 5


def check_an_unread_log(command: Sequence[str], exit_status: int, workers: int = 1) -> None:
    """It starts, answers, gives the number of the dropped lines once it is read, and stops in time unread again."""
    with unread(command) as (service, pipe):
        check_answers(service)
        for _ in range(workers):
            flood(service)
        check_answers(service)
        entries = pipe.entries_until("log lines dropped")
        dropped = sum(entry["lines"] for entry in entries if entry["event"].startswith("log lines dropped"))
        assert {"service is up"} <= {entry["event"] for entry in entries}
        if workers == 1:
            logged = sum(entry.get("path", "").endswith("…") for entry in entries)
            assert logged < FLOOD <= logged + dropped
        pipe.fill()
        check_answers(service)
        began = time.monotonic()
        service.terminate()
        assert service.wait() == exit_status
        assert time.monotonic() - began < STOP_SECONDS
