"""Watches a running service from outside: how late it answers /health, and how much memory it takes.

On a busy machine a late answer proves nothing. So the time in which the service or the probe itself was ready to run
but had no core is taken off: what is left is time in which the event loop was held up.
"""

import http.client
import multiprocessing
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from testing.service import Service

PAUSE_SECONDS = 0.01
GIVE_UP_SECONDS = 10.0


class StallProbe:
    """Asks for /health again and again, in a process of its own; a context manager.

    Args:
        port: The REST port.
        pid: The process that serves it.
    """

    def __init__(self, port: int, pid: int) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._worst = spawning.Value("d", 0.0)
        self._rounds = spawning.Value("L", 0)
        self._process = spawning.Process(target=_probe, args=(port, pid, self._worst, self._rounds), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self.settle()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def settle(self) -> None:
        """Wait until a probe that begins now has ended."""
        enough = self._rounds.value + 2  # one may be in flight
        deadline = time.monotonic() + 3 * GIVE_UP_SECONDS
        while self._rounds.value < enough:
            assert self._process.is_alive(), "the probe has ended"
            assert time.monotonic() < deadline, "/health does not answer"
            time.sleep(PAUSE_SECONDS)

    def worst(self) -> float:
        """The longest time, in seconds, for which the event loop was held up since this was asked last."""
        with self._worst.get_lock():
            worst, self._worst.value = float(self._worst.value), 0.0
        return worst


def _probe(
    port: int,
    pid: int,
    worst: "multiprocessing.sharedctypes.Synchronized[float]",
    rounds: "multiprocessing.sharedctypes.Synchronized[int]",
) -> None:
    connection = _connection(port)
    while True:
        began, waited = time.perf_counter(), _seconds_without_a_core(pid)
        try:
            connection.request("GET", "/health")
            connection.getresponse().read()
        except ConnectionError:  # a keep-alive connection that the server has closed
            connection = _connection(port)
            continue
        except (OSError, http.client.HTTPException):
            connection = _connection(port)
        took = time.perf_counter() - began
        held_up = took - (_seconds_without_a_core(pid) - waited)
        with worst.get_lock():
            worst.value = max(worst.value, held_up)
        rounds.value += 1
        time.sleep(PAUSE_SECONDS)


def _connection(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=GIVE_UP_SECONDS)


def _seconds_without_a_core(pid: int) -> float:
    """For how long threads of that process and of this one have been ready to run without running, and cores stolen."""
    waited = 0
    for thread in (*Path(f"/proc/{pid}/task").glob("*"), Path("/proc/self")):
        with suppress(OSError):  # it has ended meanwhile
            waited += int((thread / "schedstat").read_text().split()[1])
    return waited / 1e9 + _stolen_seconds()


def _stolen_seconds() -> float:
    """Seconds that the machine's host gave to others."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")


def worker_of(service: Service) -> int:
    """The process that answers: of those that the service started, the one with most memory."""
    return max(_processes(service), key=lambda process: process[1])[0]


def resident_bytes(service: Service) -> int:
    """Resident memory of all processes of the service."""
    return sum(resident for _, resident in _processes(service))


def _processes(service: Service) -> list[tuple[int, int]]:
    """Each process's id and resident bytes."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == service.process.pid:  # its session
                found.append((int(stat.parent.name), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")))
    return found
