"""The files of counts: their space is taken before it is written to, so a full disk costs counts and no process."""

import errno
import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

from src.telemetry import metrics_file
from src.telemetry.metrics_file import NEW_BYTES, AllocatedFile


class Disk:
    """A disk that can be full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        self.allocated = self.times = 0
        self._allocate = os.posix_fallocate
        monkeypatch.setattr(os, "posix_fallocate", self.allocate)
        monkeypatch.setattr(AllocatedFile, "_has_warned", False)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._allocate(fd, offset, length)
        self.allocated = offset + length
        self.times += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def read(path: Path) -> dict[str, float]:
    return {key: value for key, value, *_ in MmapedDict.read_all_values_from_file(str(path))}


def test_prometheus_client_uses_it() -> None:
    from src.telemetry import metrics  # noqa: F401

    assert vars(values)["MmapedDict"] is AllocatedFile


def test_without_room_new_values_are_missing_until_there_is_some(disk: Disk, tmp_path: Path, log_of: Any) -> None:
    late = "l" * mmap.PAGESIZE  # has no room in the page of the early one
    file = AllocatedFile(str(tmp_path / "counter_1.db"))
    file.write_value("early", 1.0, 0.0)
    disk.is_full = True
    logs = log_of(metrics_file)
    for value in (1.0, 2.0):
        assert file.read_value(late) == (0.0, 0.0)
        file.write_value(late, value, 0.0)
        file.write_value("early", value + 1, 0.0)
    assert read(tmp_path / "counter_1.db") == {"early": 3.0}
    assert [(line["event"], line["reason"]) for line in logs] == [("no room for metrics", "No space left on device")]
    disk.is_full = False
    file.write_value(late, 3.0, 0.0)
    file.close()
    assert read(tmp_path / "counter_1.db") == {"early": 3.0, late: 3.0}


def test_without_room_at_the_start_scrapes_find_no_file(disk: Disk, tmp_path: Path) -> None:
    disk.is_full = True
    file = AllocatedFile(str(tmp_path / "counter_1.db"))
    file.write_value("one", 1.0, 0.0)
    assert not list(tmp_path.glob("*.db"))
    disk.is_full = False
    file.write_value("one", 2.0, 0.0)
    file.close()
    assert read(tmp_path / "counter_1.db") == {"one": 2.0}


def test_space_is_taken_before_it_is_used(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    file = AllocatedFile(str(path))
    keys = [f"{number:0{length}}" for number, length in enumerate(range(1, 1000))]
    for key in keys:
        file.write_value(key, 1.0, 0.0)
        [used] = struct.unpack_from("i", path.read_bytes())
        assert used <= disk.allocated
    file.close()
    assert path.stat().st_size > 2 * NEW_BYTES, "it has grown"
    assert list(read(path)) == keys


def test_the_disk_is_asked_once_a_page(disk: Disk, tmp_path: Path) -> None:
    file = AllocatedFile(str(tmp_path / "counter_1.db"))
    for key in range(100):
        file.write_value(f"{key:0100}", 1.0, 0.0)
    file.close()
    for_the_new_file = 1
    assert disk.times == for_the_new_file + disk.allocated // mmap.PAGESIZE


def test_the_counts_of_an_earlier_process_with_the_same_id_stay(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    for value, keys in ((1.0, range(100)), (2.0, range(50, 1000))):
        file = AllocatedFile(str(path))
        for key in keys:
            file.write_value(f"{key:0300}", value, 0.0)
        file.close()
    assert list(read(path).values()) == [1.0] * 50 + [2.0] * 950


def test_the_file_is_not_opened_to_append(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For file systems that can't allocate, glibc writes to each block instead, which it refuses for such a file."""
    flags: list[int] = []
    monkeypatch.setattr(
        os, "posix_fallocate", lambda fd, _offset, _length: flags.append(fcntl.fcntl(fd, fcntl.F_GETFL))
    )
    file = AllocatedFile(str(tmp_path / "counter_1.db"))
    file.write_value("one", 1.0, 0.0)
    file.close()
    assert flags
    assert not [each for each in flags if each & os.O_APPEND]


def test_a_new_file_takes_a_page_and_not_all_that_it_may_grow_to(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    file = AllocatedFile(str(path))
    file.write_value("one", 1.0, 0.0)
    file.close()
    assert path.stat().st_size == NEW_BYTES
    assert path.stat().st_blocks * 512 < NEW_BYTES / 2
