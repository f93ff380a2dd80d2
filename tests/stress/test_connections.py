"""Connections that ask for nothing are closed in the time that docs/operations.md gives, and hold nobody up."""

import socket
import time
from contextlib import ExitStack, suppress
from typing import NamedTuple

import httpx

from src.lifecycle.open_files import raise_open_file_limit
from testing.service import COMMANDS, ROOT, Service

MANY = 1_100
HEALTH_SECONDS = 3.0
KEEP_ALIVE, REQUEST = 2, 3  # seconds
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


class Kind(NamedTuple):
    """The bytes that a connection sends once, and those that it repeats."""

    first: bytes
    then: bytes = b""


# By their names in the table of docs/operations.md.
KINDS = {
    "sends nothing": Kind(b""),
    "sends half a request head": Kind(b"GET /health HTTP/1.1\r\nHost: x\r\n"),
    "sends a head byte by byte": Kind(b"GET /health HTTP/1.1\r\nX-A: ", b"a"),
    "is idle after a response": Kind(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"),
    "sends half a body": Kind(
        b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    ),
    "sends half an HTTP/2 preface": Kind(PREFACE[:8]),
    "sends an HTTP/2 preface only": Kind(PREFACE + SETTINGS),
}
# The same terms as in the table: from when to when, in seconds.
TERMS = {
    "at once": (0, 2),
    "`KEEP_ALIVE_TIMEOUT`": (KEEP_ALIVE, 2 * KEEP_ALIVE + 2),
    "`REQUEST_TIMEOUT`": (REQUEST, REQUEST + 1.5),
    "`REQUEST_TIMEOUT` + 5": (REQUEST + 5, REQUEST + 7),
    "`REQUEST_TIMEOUT` + `KEEP_ALIVE_TIMEOUT`": (REQUEST + KEEP_ALIVE, REQUEST + KEEP_ALIVE + 2),
    "`KEEP_ALIVE_TIMEOUT` + 20": (KEEP_ALIVE + 20, KEEP_ALIVE + 23),
    "never": (float("inf"), float("inf")),
}
# The options that stand for the two settings, which these servers don't read.
OPTIONS = {
    "granian": ["--http1-header-read-timeout", str(KEEP_ALIVE * 1000)],
    "granian, HTTP/2 on": [
        *("--http1-header-read-timeout", str(KEEP_ALIVE * 1000), "--http", "auto"),
        *("--http2-keep-alive-interval", str(KEEP_ALIVE * 1000)),
    ],
    "uvicorn": ["--timeout-keep-alive", str(KEEP_ALIVE)],
    "hypercorn": ["--keep-alive", str(KEEP_ALIVE), "--read-timeout", str(REQUEST + 5)],
    "gunicorn": [],
}
COLUMNS = {"granian": ["granian", "granian, HTTP/2 on"]}


def documented() -> dict[str, dict[str, str]]:
    """Read from docs/operations.md when a connection is closed, by column and kind."""
    lines = (ROOT / "docs/operations.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| a connection that "))
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 9])
    return {column: {row[0]: row[place] for row in rows} for place, column in enumerate(header) if place}


def test_the_table_has_every_kind_under_every_server() -> None:
    table = documented()
    assert table.keys() == OPTIONS.keys()
    for column in table.values():
        assert column.keys() == KINDS.keys()
        assert set(column.values()) <= TERMS.keys()


def test_connections_that_ask_for_nothing_are_closed_and_hold_nobody_up(server: str) -> None:
    raise_open_file_limit()
    name = server.partition(",")[0]
    for column in COLUMNS.get(name, [name]):
        expected = documented()[column]
        command = [*COMMANDS[server], *OPTIONS[column]]
        env = {"KEEP_ALIVE_TIMEOUT": str(KEEP_ALIVE), "REQUEST_TIMEOUT": str(REQUEST)}
        with Service(command, **env) as service:
            found = {kind: closed_after(service, kind, expected[kind]) for kind in KINDS}
            assert service.process.poll() is None
        for kind, (first, last) in found.items():
            earliest, latest = TERMS[expected[kind]]
            assert earliest - 0.1 <= first <= last <= latest, (column, kind, found)


def closed_after(service: Service, kind: str, expected: str) -> tuple[float, float]:
    """The least and the greatest age, in seconds, of many such connections when the service closed them.

    While all are open it has to answer.
    """
    first, then = KINDS[kind]
    latest = TERMS[expected][1]
    with ExitStack() as stack:
        opened: dict[socket.socket, float] = {}
        for _ in range(MANY):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=5))
            client.sendall(first)
            client.setblocking(False)
            opened[client] = time.monotonic()
        began = time.monotonic()
        assert httpx.get(f"{service.rest_url}/health", timeout=10, trust_env=False).status_code == 200
        assert time.monotonic() - began < HEALTH_SECONDS, kind
        ages: list[float] = []
        deadline = began + (latest if latest < float("inf") else 2 * REQUEST) + 3
        while opened and time.monotonic() < deadline:
            for client in [client for client in opened if is_closed(client)]:
                ages.append(time.monotonic() - opened.pop(client))
            if then:
                for client in opened:
                    with suppress(OSError):
                        client.sendall(then)
            time.sleep(0.05)
        ages += [float("inf")] * len(opened)
        return min(ages), max(ages)


def is_closed(client: socket.socket) -> bool:
    """Return True if the other side has closed it. Reads and drops its bytes."""
    try:
        return not client.recv(65_536)
    except BlockingIOError:
        return False
    except OSError:
        return True
