"""The directory that workers share their counts through: emptied by the first, kept for the others, never a trap."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from src.telemetry.metrics_store import shared_metrics_directory
from testing.ports import free_port
from testing.service import ROOT

JOIN = """
import os, sys
from src.telemetry.metrics_store import shared_metrics_directory
from src.lifecycle.server_parent import note_parent
if pids := [int(pid) for pid in sys.argv[2:]]:
    note_parent(*pids)
try:
    store = shared_metrics_directory("127.0.0.1", int(sys.argv[1]))
except OSError as error:
    sys.exit(error.strerror)
print(os.environ["PROMETHEUS_MULTIPROC_DIR"], flush=True)
sys.stdin.read()
"""


def worker(port: int, *main_processes: int) -> tuple["subprocess.Popen[str]", Path]:
    """A process that has joined, and the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", JOIN, str(port), *map(str, main_processes)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_first_worker_empties_it_and_the_others_do_not() -> None:
    port = free_port()
    first, directory = worker(port, 7)
    with first:
        (directory / "counter_1.db").write_bytes(b"counts")
        second, same = worker(port, 7)
        with second:
            assert same == directory
            first.communicate("")
            third, _ = worker(port, 7)
            with third:
                assert (directory / "counter_1.db").exists(), "a worker lives: its service's counts go on"
    anew, _ = worker(port)
    with anew:
        assert not (directory / "counter_1.db").exists()


def test_another_service_is_refused() -> None:
    port = free_port()
    first, directory = worker(port, 7)
    with first:
        for others in ((), (8,)):
            stranger, reason = worker(port, *others)
            with stranger:
                assert str(reason) == "Address already in use"
        other_port, other_directory = worker(free_port(), 8)
        with other_port:
            assert other_directory != directory


def test_main_processes_that_hand_over_share_it() -> None:
    port = free_port()
    old, directory = worker(port, 7)
    with old:
        handed_over, _ = worker(port, 8, 7)
        with handed_over:
            old.communicate("")
            later, same = worker(port, 8)  # the old main process has ended
            with later:
                assert same == directory


def test_one_worker_at_a_time_has_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # set by what follows, and put back
    first, second = shared_metrics_directory("::1", 1), shared_metrics_directory("::1", 1)
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
    (tmp_path / f"hardened-genkit-service-metrics-{os.getuid()}-%3A%3A1-1").symlink_to(precious)
    with pytest.raises(PermissionError, match="another user"):
        shared_metrics_directory("::1", 1)
    assert (precious / "thesis").exists()
