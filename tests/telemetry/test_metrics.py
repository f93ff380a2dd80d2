"""Metrics that are sampled: they take over what the watched parts have counted."""

from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from src.drain import Drain
from src.rate_limit import MemoryBuckets
from src.telemetry import metrics
from src.telemetry.metrics import Samples
from src.telemetry.sources import Sources


def test_dropped_log_lines_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SimpleNamespace(dropped=3)
    monkeypatch.setattr(metrics, "stderr_writer", lambda: writer)
    samples = Samples(Sources(Drain(1), MemoryBuckets(), breaker=None, cache=None), CollectorRegistry())
    samples.take()
    writer.dropped = 5
    samples.take()
    samples.take()
    [family] = samples._log_lines_dropped.collect()
    assert {sample.name: sample.value for sample in family.samples}["log_lines_dropped_total"] == 5
