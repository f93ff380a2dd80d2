"""A real Prometheus watches a circuit that opens: its alert holds while the model hangs, and ends with its worker."""

import os
import signal
from functools import partial
from itertools import count
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.ports import free_port
from tests.live.test_alerts import Prometheus, two_workers
from tests.live.test_metrics import directory_of
from tests.needs import needs

NAME = "GenkitServiceCircuitOpen"

pytestmark = needs("prometheus")


def circuit_states(metrics_port: int) -> dict[int, float]:
    """The state of the circuit of each worker, by its process's id."""
    return {
        int(path.stem.rpartition("_")[2]): value
        for path in directory_of(metrics_port).glob("gauge_livemax_*.db")
        for key, value, *_ in MmapedDict.read_all_values_from_file(path)
        if "circuit_breaker_state" in key
    }


def test_a_killed_worker_takes_its_open_circuit_with_it_and_leaves_its_counts(
    upstream: GeminiStandIn, tmp_path: Path
) -> None:
    port = free_port()
    with two_workers(upstream, port, CB_RECOVERY_TIMEOUT="3600") as service, Prometheus(tmp_path, port) as prometheus:
        prometheus.eventually(lambda: prometheus.query("circuit_breaker_state == 0"))
        upstream.default(gemini.error(503))

        def refused() -> bool:
            """Call the same worker, over the same connection."""
            return service.http.post("/chat", json={}).status_code == 503

        prometheus.eventually(lambda: refused() and prometheus.rules()[NAME]["state"] == "pending")
        counted = float(prometheus.query("circuit_breaker_refused_total")[0]["value"][1])
        [killed] = [pid for pid, state in circuit_states(port).items() if state == 2]
        os.kill(killed, signal.SIGKILL)
        prometheus.eventually(lambda: prometheus.query("circuit_breaker_state == 0 and on () up == 1"))
        prometheus.eventually(lambda: prometheus.rules()[NAME]["state"] == "inactive")
        assert float(prometheus.query("circuit_breaker_refused_total")[0]["value"][1]) >= counted > 0
        assert killed not in circuit_states(port)


def test_the_alert_holds_over_half_open_states_of_a_model_that_hangs_and_fails(
    upstream: GeminiStandIn, tmp_path: Path
) -> None:
    port = free_port()
    limits = {"LLM_TIMEOUT": "500", "CB_FAILURE_THRESHOLD": "2", "CB_RECOVERY_TIMEOUT": "2"}
    callers = count()
    with (
        two_workers(upstream, port, **limits, TRUSTED_PROXIES="127.0.0.1") as service,
        Prometheus(tmp_path, port) as prometheus,
    ):

        def fails() -> bool:
            caller = {"x-forwarded-for": f"203.0.113.{next(callers) % 250}"}
            return service.http.post("/chat", json={}, headers=caller).status_code in (502, 503, 504)

        def is_in(state: int) -> bool:
            return fails() and bool(prometheus.query(f"circuit_breaker_state == {state}"))

        def pending() -> set[str]:
            return {name for name, rule in prometheus.rules().items() if rule["state"] == "pending"}

        upstream.default(gemini.HANG)
        prometheus.eventually(lambda: fails() and pending() == {NAME, "GenkitServiceErrors", "GenkitServiceLlmFails"})
        since = prometheus.rules()[NAME]["alerts"][0]["activeAt"]
        for behaviour, state in [(gemini.HANG, 1), (gemini.error(503), 2)] * 2:
            upstream.default(behaviour)
            prometheus.eventually(partial(is_in, state))
        assert prometheus.rules()[NAME]["alerts"][0]["activeAt"] == since
