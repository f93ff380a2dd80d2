"""Metrics count calls that have ended and take over the counts of the watched parts. No client chooses a label."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from src.cache import CacheStats
from src.circuit_breaker import BreakerStats, State
from src.drain import Drain
from src.errors import ModelFailed
from src.llm import LlmUsage
from src.logs.access import EndedCall
from src.rate_limit import BucketStats
from src.telemetry import metrics
from src.telemetry.metrics import OTHER, ROUTES, RPCS, Metrics
from src.telemetry.metrics_store import MetricsStore
from src.telemetry.sources import Sources
from src.util.scope import METHODS


class Part:
    """A part of the service with counts of its own."""

    def __init__(self, stats: Any) -> None:
        self.now = stats

    def stats(self) -> Any:
        return self.now


@pytest.fixture
def sources() -> Any:
    buckets, breaker = Part(BucketStats(0, 0)), Part(BreakerStats(State.CLOSED, 0, 0, 0))
    return Sources(Drain(1), buckets, breaker, Part(CacheStats(0, 0, 0, 0, 0)))  # type: ignore[arg-type]


@pytest.fixture
def counted(tmp_path: Path, sources: Any) -> Iterator[Metrics]:
    with (tmp_path / "lock").open("ab") as lock:
        yield Metrics(model="offline/demo", sources=sources, store=MetricsStore(tmp_path, lock, is_first=True))


def labels(metric: Any) -> list[dict[str, str]]:
    """Return the labels of all series of a histogram."""
    [family] = metric.collect()
    return [sample.labels for sample in family.samples if sample.name.endswith("_count")]


def values(metric: Any) -> dict[Any, float]:
    """Return the values of a counter or a gauge, by its one label if it has any."""
    [family] = metric.collect()
    samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    return {next(iter(sample.labels.values()), None): sample.value for sample in samples}


def ended(protocol: Any, method: str, route: str, status: int | str) -> EndedCall:
    return EndedCall(protocol, method, route, route, status, 0.1, 3, "192.0.2.1", "r-1", is_quiet=False)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.sampled_from(sorted(METHODS)), st.text() | st.sampled_from(sorted(ROUTES | RPCS)))
def test_a_client_adds_no_value_to_a_label(counted: Metrics, method: str, path: str) -> None:
    counted.observe(ended("http", method, path, 404))
    counted.observe(ended("grpc", path, path, "UNIMPLEMENTED"))
    for series in labels(counted._requests):
        assert series["http_request_method"] in METHODS | {OTHER}
        assert series["http_route"] in ROUTES | {OTHER}
    assert {f"/{series['rpc_method']}" for series in labels(counted._rpc_calls)} <= RPCS | {f"/{OTHER}"}


def test_calls_are_counted_by_route_or_method_and_status(counted: Metrics) -> None:
    counted.observe(ended("http", "POST", "/ready", 200))
    counted.observe(ended("http", "POST", "/ready", 503))
    counted.observe(ended("grpc", "", "/grpc.health.v1.Health/Check", "OK"))
    assert labels(counted._requests) == [
        {"http_request_method": "POST", "http_route": "/ready", "http_response_status_code": status}
        for status in ("200", "503")
    ]
    assert labels(counted._rpc_calls) == [
        {"rpc_method": "grpc.health.v1.Health/Check", "rpc_response_status_code": "OK"}
    ]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        pytest.param(None, "ok", id="none"),
        pytest.param(ModelFailed(), "model-failed", id="of the table"),
        pytest.param(LookupError("x"), "internal", id="a bug"),
        pytest.param(asyncio.CancelledError(), "cancelled", id="a client that left"),
    ],
)
def test_an_llm_call_is_counted_by_its_outcome_with_its_tokens(
    counted: Metrics, error: BaseException | None, outcome: str
) -> None:
    usage, raised = LlmUsage(), None
    try:
        with counted.llm_call(usage):
            usage.input_tokens, usage.output_tokens = 7, 5
            if error is not None:
                raise error
    except BaseException as caught:
        raised = caught
    assert raised is error
    assert labels(counted._llm_calls) == [{"gen_ai_request_model": "offline/demo", "outcome": outcome}]
    [family] = counted._llm_tokens.collect()
    tokens = {each.labels["gen_ai_token_type"]: each.value for each in family.samples if each.name.endswith("_total")}
    assert tokens == {"input": 7, "output": 5}


def test_a_sample_adds_what_is_new_and_sets_what_is_now(counted: Metrics, sources: Any) -> None:
    for half in (1, 2):
        sources.buckets.now = BucketStats(allowed=4 * half, refused=half)
        sources.breaker.now = BreakerStats(State.HALF_OPEN, failures=0, opened=half, refused=3 * half)
        sources.cache.now = CacheStats(hits=5 * half, misses=2 * half, shared=half, entries=9 - half, bytes=100)
        counted._samples.take()
    counted._samples.take()
    assert values(counted._samples._decisions) == {"allowed": 8, "refused": 2}
    assert values(counted._samples._breaker_state) == {None: 1}
    assert values(counted._samples._breaker_opened) == {None: 2}
    assert values(counted._samples._breaker_refused) == {None: 6}
    assert values(counted._samples._cache_results) == {"hit": 10, "miss": 4, "shared": 2}
    assert values(counted._samples._cache_entries) == {None: 7}
    assert values(counted._samples._cache_bytes) == {None: 100}
    assert values(counted._samples._active) == {"http": 0, "grpc": 0}


def test_dropped_log_lines_are_counted(counted: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SimpleNamespace(dropped=3)
    monkeypatch.setattr(metrics, "stderr_writer", lambda: writer)
    counted._samples.take()
    writer.dropped = 5
    counted._samples.take()
    counted._samples.take()
    assert values(counted._samples._log_lines_dropped) == {None: 5}


def test_a_sample_that_fails_is_not_the_last(counted: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def sweep(_: Path) -> None:
        taken.append(1)
        if len(taken) == 1:
            raise OSError("too many open files")
        if len(taken) == 3:
            raise asyncio.CancelledError

    async def listen(*_: object) -> None: ...

    monkeypatch.setattr(metrics, "SAMPLE_SECONDS", 0)
    monkeypatch.setattr(metrics, "sweep_dead_workers", sweep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(counted._keep_sampling(SimpleNamespace(listen=listen), "127.0.0.1", 1))  # type: ignore[arg-type]
    assert counted._port_lock is not None
    counted._port_lock.close()
    assert len(taken) == 3
