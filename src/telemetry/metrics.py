"""Prometheus metrics of all worker processes, on a port of their own.

Names follow OpenTelemetry's semantic conventions where these have one. All labels come from sets that are fixed when
the process starts, so clients can't add any. Import this module after `metrics_store.shared_metrics_directory`.
"""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.openmetrics import exposition as openmetrics

from src.cache import CacheStats
from src.circuit_breaker import BreakerStats, State
from src.config import ConfigError
from src.errors import as_service_error
from src.lifecycle.ports import describe_listen_error
from src.llm import LlmUsage
from src.logs.access import EndedCall
from src.logs.writer import stderr_writer
from src.operations import OPERATIONS
from src.rate_limit import BucketStats
from src.rpc.hooks import PROBE_METHODS
from src.telemetry.metrics_file import AllocatedFile
from src.telemetry.metrics_server import OPEN_METRICS, MetricsServer
from src.telemetry.metrics_store import MetricsStore
from src.telemetry.sources import Sources
from src.util.probe_paths import PROBE_PATHS
from src.util.scope import METHODS

log = structlog.get_logger(__name__)

values.MmapedDict = AllocatedFile  # type: ignore[attr-defined, assignment]

_reading_files = threading.Lock()

SAMPLE_SECONDS = 1.0
OTHER = "other"
ROUTES = frozenset(operation.path for operation in OPERATIONS) | PROBE_PATHS
RPCS = frozenset(f"/genkit.sample.v1.GenkitService/{operation.rpc}" for operation in OPERATIONS) | PROBE_METHODS
LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
STATES = (State.CLOSED, State.HALF_OPEN, State.OPEN)


class Metrics:
    """All metrics of one process.

    Args:
        model: The LLM's name.
        sources: The parts whose own counts are read once a second.
        store: The directory of the workers' metrics files.
    """

    def __init__(self, *, model: str, sources: Sources, store: MetricsStore) -> None:
        registry = CollectorRegistry()  # never read: `expose` reads the workers' files
        self._store = store
        self._port_lock: IO[bytes] | None = None  # held while this process listens
        self._has_warned = False
        self._model = model
        self._samples = Samples(sources, registry)
        self._requests = Histogram(
            "http_server_request_duration_seconds",
            "Duration of requests over REST.",
            ("http_request_method", "http_route", "http_response_status_code"),
            buckets=LATENCIES,
            registry=registry,
        )
        self._rpc_calls = Histogram(
            "rpc_server_call_duration_seconds",
            "Duration of RPCs.",
            ("rpc_method", "rpc_response_status_code"),
            buckets=LATENCIES,
            registry=registry,
        )
        self._llm_calls = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "Duration of LLM calls, tool rounds included.",
            ("gen_ai_request_model", "outcome"),
            buckets=LATENCIES,
            registry=registry,
        )
        self._llm_tokens = Counter(
            "gen_ai_client_tokens",
            "Tokens that the LLM read and wrote.",
            ("gen_ai_request_model", "gen_ai_token_type"),
            registry=registry,
        )
        self._known_requests: dict[tuple[str, str, int | str], Histogram] = {}

    def observe(self, call: EndedCall) -> None:
        if call.protocol == "grpc":
            name = call.route.removeprefix("/") if call.route in RPCS else OTHER
            self._rpc_calls.labels(name, call.status).observe(call.seconds)
            return
        method = call.method if call.method in METHODS else OTHER
        labels = (method, call.route if call.route in ROUTES else OTHER, call.status)
        histogram = self._known_requests.get(labels)
        if histogram is None:
            histogram = self._known_requests[labels] = self._requests.labels(*labels)
        histogram.observe(call.seconds)

    @contextmanager
    def llm_call(self, call: LlmUsage) -> Iterator[None]:
        outcome = "ok"
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            outcome = as_service_error(error).slug
            raise
        except BaseException:
            outcome = "cancelled"
            raise
        finally:
            self._llm_calls.labels(self._model, outcome).observe(time.perf_counter() - began)
            self._llm_tokens.labels(self._model, "input").inc(call.input_tokens)
            self._llm_tokens.labels(self._model, "output").inc(call.output_tokens)

    @asynccontextmanager
    async def served(self, host: str, port: int) -> AsyncIterator[None]:
        """Sample the sources and serve the metrics at this address, as a context manager.

        Raises:
            ConfigError: The service's first worker can't listen there. A worker that joins others, or replaces one,
                does not stop the service.
        """
        server = MetricsServer(expose)
        if self._store.is_first:
            try:
                await self._listen(server, host, port)
            except OSError as error:
                raise ConfigError(_why_not_listening(host, port, error)) from None
        sampling = asyncio.create_task(self._keep_sampling(server, host, port))
        try:
            yield
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
            await server.close()
            if self._port_lock is not None:
                self._port_lock.close()  # after the port, which another worker takes over now
            self._samples.take()
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]

    async def _listen(self, server: MetricsServer, host: str, port: int) -> None:
        """Listen, unless another worker or this one already does."""
        if self._port_lock is not None or (lock := self._store.lock_port()) is None:
            return
        try:
            await server.listen(host, port)
        except BaseException:
            lock.close()
            raise
        self._port_lock = lock

    async def _keep_sampling(self, server: MetricsServer, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        has_failed = False
        while True:
            due = loop.time() + SAMPLE_SECONDS
            await asyncio.sleep(SAMPLE_SECONDS)
            try:
                self._samples.take(loop_lag=max(0.0, loop.time() - due))
                sweep_dead_workers(self._store.directory)
                if self._port_lock is not None:  # one worker alone
                    add_up_ended_workers(self._store.directory)
                await self._take_over(server, host, port)
            except Exception as error:
                if not has_failed:
                    log.exception("metrics endpoint failed", exc_info=error)
                has_failed = True

    async def _take_over(self, server: MetricsServer, host: str, port: int) -> None:
        """Listen in place of a worker that has ended. If another process took the port before, log it once."""
        try:
            await self._listen(server, host, port)
        except OSError as error:
            if not self._has_warned:
                log.warning("no metrics until the port is free", reason=_why_not_listening(host, port, error))
            self._has_warned = True


class Samples:
    """The counts of parts that count for themselves, the delay of the event loop, and the log lines that were dropped.

    Args:
        sources: The parts.
    """

    def __init__(self, sources: Sources, registry: CollectorRegistry) -> None:
        self._sources = sources
        self._active = Gauge(
            "server_active_requests",
            "Requests and RPCs in flight.",
            ("protocol",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._decisions = Counter(
            "rate_limit_decisions",
            "Requests and RPCs, by decision of the rate limit.",
            ("decision",),
            registry=registry,
        )
        self._breaker_state = Gauge(
            "circuit_breaker_state",
            "State of the circuit, the highest of all workers: 0 closed, 1 half-open, 2 open.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._breaker_opened = Counter(
            "circuit_breaker_opened", "Number of times that the circuit opened.", registry=registry
        )
        self._breaker_refused = Counter(
            "circuit_breaker_refused", "LLM calls that the open circuit refused.", registry=registry
        )
        self._cache_results = Counter("cache_lookups", "Cache lookups.", ("result",), registry=registry)
        self._cache_entries = Gauge("cache_entries", "Cached results.", registry=registry, multiprocess_mode="livesum")
        self._cache_bytes = Gauge(
            "cache_bytes", "Size of the cached results, in bytes.", registry=registry, multiprocess_mode="livesum"
        )
        self._loop_lag = Gauge(
            "event_loop_lag_seconds",
            "Delay of a due task in the last second, the highest of all workers.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._log_lines_dropped = Counter(
            "log_lines_dropped", "Log lines dropped because nothing read them in time.", registry=registry
        )
        self._last_dropped = 0
        self._last_buckets = BucketStats(0, 0)
        self._last_breaker = BreakerStats(State.CLOSED, 0, 0, 0)
        self._last_cache = CacheStats(0, 0, 0, 0, 0)

    def take(self, *, loop_lag: float | None = None) -> None:
        """Take over what the parts have counted since the last time."""
        if loop_lag is not None:
            self._loop_lag.set(loop_lag)
        buckets, before = self._sources.buckets.stats(), self._last_buckets
        self._decisions.labels("allowed").inc(buckets.allowed - before.allowed)
        self._decisions.labels("refused").inc(buckets.refused - before.refused)
        self._last_buckets = buckets
        dropped = stderr_writer().dropped
        self._log_lines_dropped.inc(dropped - self._last_dropped)
        self._last_dropped = dropped
        for protocol, active in self._sources.drain.in_flight.items():
            self._active.labels(protocol).set(active)
        if self._sources.breaker is not None:
            self._sample_breaker(self._sources.breaker.stats())
        if self._sources.cache is not None:
            self._sample_cache(self._sources.cache.stats())

    def _sample_breaker(self, now: BreakerStats) -> None:
        self._breaker_state.set(STATES.index(now.state))
        self._breaker_opened.inc(now.opened - self._last_breaker.opened)
        self._breaker_refused.inc(now.refused - self._last_breaker.refused)
        self._last_breaker = now

    def _sample_cache(self, now: CacheStats) -> None:
        before = self._last_cache
        self._cache_results.labels("hit").inc(now.hits - before.hits)
        self._cache_results.labels("miss").inc(now.misses - before.misses)
        self._cache_results.labels("shared").inc(now.shared - before.shared)
        self._cache_entries.set(now.entries)
        self._cache_bytes.set(now.bytes)
        self._last_cache = now


def expose(content_type: str) -> bytes:
    """Return the metrics of all workers in the format of this content type."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    generate = openmetrics.generate_latest if content_type == OPEN_METRICS else generate_latest
    with _reading_files:
        return generate(registry)


def _why_not_listening(host: str, port: int, error: OSError) -> str:
    return describe_listen_error("METRICS_HOST", host, "METRICS_PORT", port, error)


def sweep_dead_workers(directory: Path) -> None:
    """Remove the gauges of killed workers. They would keep their last values, for example an open circuit."""
    for pid in {_pid_of(path) for path in directory.glob("gauge_live*.db")}:
        if not _is_alive(pid):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def add_up_ended_workers(directory: Path) -> None:
    """Merge the files of ended workers into one for each kind of metric, with their sums.

    Does nothing during a scrape, which reads the files. The next call tries again.
    """
    if not _reading_files.acquire(blocking=False):
        return
    try:
        for kind in ("counter", "histogram"):
            ended = [path for path in directory.glob(f"{kind}_*.db") if not _is_alive(_pid_of(path))]
            if len(ended) > 1:
                _add_up(ended)
    finally:
        _reading_files.release()


def _add_up(files: list[Path]) -> None:
    sums: dict[str, float] = {}
    for file in files:
        for key, value, *_ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            sums[key] = sums.get(key, 0.0) + value
    new = files[0].with_suffix(".sum")  # scrapes don't read it
    new.unlink(missing_ok=True)
    into = AllocatedFile(str(new))
    has_room = all(into.write_value(key, value, 0.0) for key, value in sums.items())
    into.close()
    if not has_room:
        new.unlink(missing_ok=True)
        return
    for file in files[1:]:  # first: counts that get lost are a reset to Prometheus, but doubled ones are wrong for good
        file.unlink()
    new.replace(files[0])


def _pid_of(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
