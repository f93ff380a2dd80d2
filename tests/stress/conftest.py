"""Chooses the servers of a stress test: one each, in turn, or all of them."""

from collections.abc import Callable

import pytest

from testing.service import COMMANDS
from tests.live.conftest import shared_upstream, upstream

__all__ = ["shared_upstream", "upstream"]

# One row a server, started by its own command.
SERVERS = [name for name in COMMANDS if not name.startswith("python")]

_TURN = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-servers", action="store_true", help="Run each test under every server, not under one.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Fill in the argument `server` of a test: a name of `testing.service.COMMANDS`."""
    if "server" not in metafunc.fixturenames:
        return
    if metafunc.config.getoption("--all-servers"):
        metafunc.parametrize("server", SERVERS)
        return
    turn = metafunc.config.stash.get(_TURN, 0)
    metafunc.config.stash[_TURN] = turn + 1
    metafunc.parametrize("server", [SERVERS[turn % len(SERVERS)]])


_MEASURED = pytest.StashKey[list[tuple[str, str, int, float, float]]]()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Take down a row of the table that is printed at the end."""
    rows = request.config.stash.setdefault(_MEASURED, [])
    return lambda *row: rows.append(row)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(_MEASURED, [])
    if rows:
        terminalreporter.write_line(f"{'attack':34} {'server':20} failed  p95 alone  p95 attacked")
    for attack, server, failed, alone, attacked in rows:
        terminalreporter.write_line(
            f"{attack:34} {server:20} {failed:6} {alone * 1000:7.0f} ms {attacked * 1000:10.0f} ms"
        )
