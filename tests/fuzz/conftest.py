"""A seed, a time, and a service in production mode that is watched while hostile input comes.

just fuzz 5               five minutes, another seed each time
just fuzz 5 --seed 123    the same cases again, in the same order
"""

import random
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.strategies import SearchStrategy

from testing.fakes.gemini import GeminiStandIn
from testing.service import Service
from tests.fuzz.checks import CANARY, seen
from tests.fuzz.probe import StallProbe, resident_bytes, worker_of

MAX_STALL_SECONDS = 0.25
SLOW_SECONDS = 0.15  # an example that took longer is followed by a whole probe, so that its stall is known as its own
MAX_GROWTH_BYTES = 200 * 1024 * 1024
EXAMPLES = 50  # between two looks at the clock

_SEED = pytest.StashKey[int]()
_HUNTS = pytest.StashKey[int]()

T = TypeVar("T")


class Hunt(Protocol):
    """Runs a check on examples of a strategy until the target's share of the time is over; once at least."""

    def __call__(self, strategy: SearchStrategy[T], check: Callable[[T], None], examples: int = EXAMPLES) -> None: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minutes", type=float, default=1.0, help="How long to fuzz, all targets together.")
    parser.addoption("--seed", type=int, help="Choose the cases; the same seed gives the same ones.")


def pytest_configure(config: pytest.Config) -> None:
    given_seed = config.getoption("--seed")
    config.stash[_SEED] = random.randrange(1_000_000) if given_seed is None else given_seed


def pytest_report_header(config: pytest.Config) -> str:
    return f"fuzz: --seed {config.stash[_SEED]}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(", ".join(f"{status}: {count}" for status, count in sorted(seen.items())))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[_HUNTS] = sum("hunt" in getattr(item, "fixturenames", ()) for item in items)


@pytest.fixture(scope="session")
def upstream() -> Iterator[GeminiStandIn]:
    with GeminiStandIn() as running:
        yield running


@pytest.fixture(scope="session")
def service(upstream: GeminiStandIn) -> Iterator[Service]:
    """Production mode; at the end it has to be alive, and its log without what callers sent."""
    with Service(TRUSTED_HOSTS="api.test", REQUEST_TIMEOUT="5", CACHE_MAX_SIZE="64", **upstream.env) as running:
        yield running


@pytest.fixture(scope="session")
def probe(service: Service) -> Iterator[StallProbe]:
    with StallProbe(service.port, worker_of(service)) as running:
        yield running


@pytest.fixture
def hunt(request: pytest.FixtureRequest) -> Hunt:
    stash = request.config.stash
    seconds = request.config.getoption("--minutes") * 60 / stash[_HUNTS]

    def run(strategy: SearchStrategy[T], check: Callable[[T], None], examples: int = EXAMPLES) -> None:
        end, first = time.monotonic() + seconds, stash[_SEED]
        for number in range(first, first + 1_000_000):
            _run_once(strategy, check, number, examples)
            if time.monotonic() > end:
                return

    return run


def _run_once(strategy: SearchStrategy[T], check: Callable[[T], None], number: int, examples: int) -> None:
    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        verbosity=Verbosity.quiet,  # what failed is told below
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example: T) -> None:
        try:
            check(example)
        except Exception as error:
            error.add_note(f"example: {example!r}\nagain: just fuzz 0 --seed {number}")
            raise

    run()


@pytest.fixture
def watched(
    service: Service, upstream: GeminiStandIn, probe: StallProbe
) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Call something and check that the event loop went on meanwhile; at the end look at memory, log and process."""
    before = resident_bytes(service)
    probe.settle()
    probe.worst()

    def call(action: Callable[[], None]) -> None:
        began = time.monotonic()
        action()
        if time.monotonic() - began > SLOW_SECONDS:
            probe.settle()
        worst = probe.worst()
        assert worst < MAX_STALL_SECONDS, f"the event loop was held up for {worst:.2f} s"

    yield call
    upstream.requests.clear()
    assert service.process.poll() is None, f"ended with status {service.process.returncode}"
    grown = resident_bytes(service) - before
    assert grown < MAX_GROWTH_BYTES, f"memory grew by {grown >> 20} MiB"
    log = service.output()
    assert CANARY not in log
    assert "Traceback" not in log
