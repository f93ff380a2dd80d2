"""Free ports for what the tests start."""

import os
import random
import socket
from itertools import cycle

# Below what systems give to outgoing connections (Linux: from 32768), so that no connection takes a port between the
# moment it is named here and the start of its server; and each of the test runner's processes has ports of its own.
_FIRST, _PORTS_EACH, _PROCESSES = 20_000, 600, 20


def _own_ports() -> range:
    number = int(os.environ.get("PYTEST_XDIST_WORKER", f"gw{_PROCESSES - 1}").removeprefix("gw"))
    first = _FIRST + number % _PROCESSES * _PORTS_EACH
    return range(first, first + _PORTS_EACH)


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
