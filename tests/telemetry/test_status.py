"""The figures of the status page."""

import json
import time

import pytest
from fastapi import FastAPI

from src.drain import Drain
from src.logs.access import EndedCall
from src.rate_limit import MemoryBuckets
from src.telemetry.sources import Sources
from src.telemetry.status import MAX_CALLS, MAX_SHOWN, WINDOW_SECONDS, Status
from src.util.probe_paths import STATUS_PATH
from testing.asgi import http_scope, play


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds since the epoch."""
    at = [1000.0]
    monkeypatch.setattr(time, "time", lambda: at[0])
    return at


@pytest.fixture
def status() -> Status:
    return Status(Sources(Drain(1), MemoryBuckets(), None, None), is_traced=False, trace_url="")


def call(status: Status, seconds: float = 0.1, path: str = "/chat") -> None:
    status.note(EndedCall("http", "POST", path, path, 200, seconds, 3, "192.0.2.1", "r-1", is_quiet=False))


def test_nothing_yet(status: Status) -> None:
    figures = status.snapshot()
    assert figures["per_second"] == [0] * WINDOW_SECONDS
    assert (figures["calls"], figures["p50_ms"], figures["p99_ms"], figures["recent"]) == (0, None, None, [])
    assert figures["breaker"] is figures["cache"] is None


def test_calls_count_in_their_second_until_the_window_has_passed(status: Status, now: list[float]) -> None:
    call(status)
    now[0] += 1.5
    call(status)
    call(status)
    assert status.snapshot()["per_second"][-2:] == [1, 2]
    now[0] += WINDOW_SECONDS - 1
    assert status.snapshot()["calls"] == 2
    now[0] += 2
    assert status.snapshot()["calls"] == 0


def test_quantiles_are_of_the_durations_in_the_window(status: Status, now: list[float]) -> None:
    for milliseconds in range(100):
        call(status, milliseconds / 1000)
    figures = status.snapshot()
    assert figures["p50_ms"] == pytest.approx(50, abs=0.01)
    assert figures["p99_ms"] == pytest.approx(99, abs=0.01)


def test_it_keeps_few_calls_and_shows_the_last_ones_first(status: Status, now: list[float]) -> None:
    for number in range(MAX_CALLS + 10):
        call(status, path=f"/{number}")
    figures = status.snapshot()
    assert figures["calls"] == MAX_CALLS
    assert len(figures["recent"]) == MAX_SHOWN
    assert figures["recent"][0]["name"] == f"POST /{MAX_CALLS + 9}"


def test_a_long_path_is_cut(status: Status) -> None:
    call(status, path="/" + "x" * 100_000)
    assert len(status.snapshot()["recent"][0]["name"]) < 300


@pytest.mark.parametrize("route", ["/health", "/debug/status.json", "/grpc.health.v1.Health/Check"])
def test_probes_and_the_pages_own_requests_are_not_shown(status: Status, route: str) -> None:
    call(status, path=route)
    assert status.snapshot()["recent"] == []


def test_an_rpc_is_shown_by_its_method(status: Status) -> None:
    name = "/genkit.sample.v1.GenkitService/Chat"
    status.note(EndedCall("grpc", name, "", name, "OK", 0.1, 3, "192.0.2.1", "r-1", is_quiet=False))
    [shown] = status.snapshot()["recent"]
    assert (shown["protocol"], shown["name"], shown["status"]) == ("gRPC", "Chat", "OK")


def test_the_page_and_its_figures_are_served(status: Status) -> None:
    app = FastAPI()
    status.add_to(app)
    call(status)
    page = play(app, http_scope(STATUS_PATH))
    assert (page.status, page.header("content-type")) == (200, ["text/html; charset=utf-8"])
    data = play(app, http_scope(f"{STATUS_PATH}.json"))
    assert json.loads(data.body)["calls"] == 1
