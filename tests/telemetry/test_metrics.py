"""Metrics that are sampled: they take over what the watched parts have counted."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from src.drain import Drain
from src.rate_limit import MemoryBuckets
from src.telemetry import metrics
from src.telemetry.metrics import Metrics
from src.telemetry.metrics_store import MetricsStore
from src.telemetry.sources import Sources


def test_dropped_log_lines_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SimpleNamespace(dropped=3)
    monkeypatch.setattr(metrics, "stderr_writer", lambda: writer)
    with (tmp_path / "lock").open("ab") as lock:
        sources = Sources(Drain(1), MemoryBuckets(), breaker=None, cache=None)
        counted = Metrics(model="offline/demo", sources=sources, store=MetricsStore(tmp_path, lock, is_first=True))
        counted.sample()
        writer.dropped = 5
        counted.sample()
        counted.sample()
        [family] = counted._log_lines_dropped.collect()
    assert {sample.name: sample.value for sample in family.samples}["log_lines_dropped_total"] == 5
