"""The figures of the status page."""

import time

import pytest

from src.observability.status import MAX_CALLS, MAX_SHOWN, WINDOW_SECONDS, Status
from src.rate_limit import MemoryBuckets


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, of both clocks."""
    at = [1000.0]
    monkeypatch.setattr(time, "time", lambda: at[0])
    monkeypatch.setattr(time, "perf_counter", lambda: at[0])
    return at


@pytest.fixture
def status() -> Status:
    return Status(MemoryBuckets(), None, None, is_traced=False, trace_url="")


def call(status: Status, began: float, name: str = "POST /chat") -> None:
    status.note("REST", name, "200", began, "r-1")


def test_nothing_yet(status: Status) -> None:
    figures = status.snapshot()
    assert figures["per_second"] == [0] * WINDOW_SECONDS
    assert (figures["calls"], figures["p50_ms"], figures["p99_ms"], figures["recent"]) == (0, None, None, [])
    assert figures["breaker"] is figures["cache"] is None


def test_calls_count_in_their_second_until_the_window_has_passed(status: Status, now: list[float]) -> None:
    call(status, now[0])
    now[0] += 1.5
    call(status, now[0])
    call(status, now[0])
    assert status.snapshot()["per_second"][-2:] == [1, 2]
    now[0] += WINDOW_SECONDS - 1
    assert status.snapshot()["calls"] == 2
    now[0] += 2
    assert status.snapshot()["calls"] == 0


def test_quantiles_are_of_the_durations_in_the_window(status: Status, now: list[float]) -> None:
    for milliseconds in range(100):
        call(status, now[0] - milliseconds / 1000)
    figures = status.snapshot()
    assert figures["p50_ms"] == pytest.approx(50, abs=0.01)
    assert figures["p99_ms"] == pytest.approx(99, abs=0.01)


def test_it_keeps_few_calls_and_shows_the_last_ones_first(status: Status, now: list[float]) -> None:
    for number in range(MAX_CALLS + 10):
        call(status, now[0], f"POST /{number}")
    figures = status.snapshot()
    assert figures["calls"] == MAX_CALLS
    assert len(figures["recent"]) == MAX_SHOWN
    assert figures["recent"][0]["name"] == f"POST /{MAX_CALLS + 9}"


def test_a_long_path_is_cut(status: Status) -> None:
    call(status, time.perf_counter(), "GET /" + "x" * 100_000)
    assert len(status.snapshot()["recent"][0]["name"]) < 300
