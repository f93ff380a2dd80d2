"""Free ports for what the tests start."""

import fcntl
import os
import random
import socket
import tempfile
from itertools import cycle
from pathlib import Path

# Below what systems give to outgoing connections (Linux: from 32768), so that no connection takes a port between the
# moment it is named here and the start of its server.
_FIRST, _PORTS_EACH, _PROCESSES = 20_000, 600, 20


def _own_ports() -> range:
    """Ports of this process alone, until it ends: granian would share one with a service of another run of tests."""
    for number in range(_PROCESSES):
        path = Path(tempfile.gettempdir()) / f"hardened-genkit-service-tests-{number}.lock"
        try:
            lock = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        except PermissionError:
            continue  # another user's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        first = _FIRST + number * _PORTS_EACH
        return range(first, first + _PORTS_EACH)
    raise AssertionError(f"{_PROCESSES} processes run tests on this machine already")


_ports = cycle(random.sample(_own_ports(), _PORTS_EACH))


def free_port() -> int:
    """A port that nobody listens on now, and that is named once only for a long while."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("a cycle has no end")
