"""Which servers a stress test runs under: one each, in turn, or all of them."""

import pytest

from tests.live.service import COMMANDS

# One row a server, started by its own command.
SERVERS = [name for name in COMMANDS if not name.startswith("python")]

_TURN = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-servers", action="store_true", help="Run each test under every server, not under one.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Fill in the argument `server` of a test: a name of `tests.live.service.COMMANDS`."""
    if "server" not in metafunc.fixturenames:
        return
    if metafunc.config.getoption("--all-servers"):
        metafunc.parametrize("server", SERVERS)
        return
    turn = metafunc.config.stash.get(_TURN, 0)
    metafunc.config.stash[_TURN] = turn + 1
    metafunc.parametrize("server", [SERVERS[turn % len(SERVERS)]])
