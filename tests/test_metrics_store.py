"""The directory that workers share their counts through: emptied by the first, kept for the others, never a trap."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from src.observability.metrics_store import shared_metrics_directory
from tests.live.service import ROOT
from tests.ports import free_port

JOIN = """
import os, sys
from src.observability.metrics_store import shared_metrics_directory
store = shared_metrics_directory(int(sys.argv[1]))
print(os.environ["PROMETHEUS_MULTIPROC_DIR"], flush=True)
sys.stdin.read()
"""


def worker(port: int) -> tuple["subprocess.Popen[str]", Path]:
    """A process that has joined, and the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", JOIN, str(port)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_first_worker_empties_it_and_the_others_do_not() -> None:
    port = free_port()
    first, directory = worker(port)
    with first:
        (directory / "counter_1.db").write_bytes(b"counts")
        second, same = worker(port)
        with second:
            assert same == directory
            first.communicate("")
            third, _ = worker(port)
            with third:
                assert (directory / "counter_1.db").exists(), "a worker lives: its service's counts go on"
    anew, _ = worker(port)
    with anew:
        assert not (directory / "counter_1.db").exists()


def test_one_worker_at_a_time_has_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # set by what follows, and put back
    first, second = shared_metrics_directory(1), shared_metrics_directory(1)
    with first.lock, second.lock:
        assert (first.is_first, second.is_first) == (True, False)
        lock = first.lock_port()
        assert lock is not None
        with lock:
            assert second.lock_port() is None
        taken_over = second.lock_port()
        assert taken_over is not None
        taken_over.close()


def test_a_link_in_its_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis").write_text("x")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"hardened-genkit-service-metrics-{os.getuid()}-1").symlink_to(precious)
    with pytest.raises(PermissionError, match="somebody else"):
        shared_metrics_directory(1)
    assert (precious / "thesis").exists()
