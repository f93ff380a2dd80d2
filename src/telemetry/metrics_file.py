"""Takes disk space for a process's metrics before they are written.

`prometheus_client` writes to mapped files with holes. Where the disk is full, such a write kills the process by SIGBUS.
"""

import mmap
import os
import sys
from pathlib import Path

import structlog
from prometheus_client.mmap_dict import MmapedDict

log = structlog.get_logger(__name__)

NEW_BYTES = 65_536  # as much as `MmapedDict` gives a new file
HEAD_BYTES = 8
ENTRY_BYTES = 32  # beside the key: its length, padding, value and timestamp


class AllocatedFile:
    """A mapped file of values by key, with the interface of `MmapedDict`.

    A value for which there is no room is not written, and `prometheus_client` keeps it in memory. It is written when it
    changes and there is room again.
    """

    _has_warned = False  # for all files of the process

    def __init__(self, filename: str) -> None:
        self._path = Path(filename)
        self._file: MmapedDict | None = None
        self._keys: set[str] = set()
        self._used = HEAD_BYTES
        self._allocated = 0  # whole pages

    def read_value(self, key: str) -> tuple[float, float]:
        """Return the key's value and timestamp, zeros for a new one."""
        file = self._with_room_for(key)
        return file.read_value(key) if file else (0.0, 0.0)  # type: ignore[no-untyped-call]

    def write_value(self, key: str, value: float, timestamp: float) -> bool:
        """Write the key's value and timestamp. Returns False if there is no room."""
        file = self._with_room_for(key)
        if file:
            file.write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        return file is not None

    def close(self) -> None:
        if self._file:
            self._file.close()  # type: ignore[no-untyped-call]

    def _with_room_for(self, key: str) -> MmapedDict | None:
        if key in self._keys:
            return self._file
        try:
            file = self._file = self._file or self._open()
            size = self._used + len(key.encode()) + ENTRY_BYTES
            if size > self._allocated:
                self._allocated = _allocate(self._path, size)
        except OSError as error:
            if not AllocatedFile._has_warned:
                log.warning("no room for metrics", path=str(self._path), reason=error.strerror)
            AllocatedFile._has_warned = True
            return None
        self._used = size
        self._keys.add(key)
        return file

    def _open(self) -> MmapedDict:
        if self._path.exists():  # from an earlier process with the same id
            self._used = self._path.stat().st_size
        else:
            new = self._path.with_suffix(".new")  # a scrape can't read an empty file
            new.touch()
            _allocate(new, HEAD_BYTES)
            os.truncate(new, NEW_BYTES)
            new.rename(self._path)
        return MmapedDict(str(self._path))  # type: ignore[no-untyped-call]


def _allocate(path: Path, size: int) -> int:
    """Allocate disk space for the file up to this size, in whole pages, because a page is written as a whole.

    Returns the size in whole pages.

    Raises:
        OSError: the disk has no room for them.
    """
    size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    if sys.platform == "linux":  # macOS lacks the call
        # Not opened to append: where the file system can't allocate, the C library writes to each block instead.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    return size
