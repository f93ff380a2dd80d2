"""The shared directory in whose files the worker processes of one service add up their metrics."""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, slots=True)
class MetricsStore:
    """The directory of one service, as one of its workers has joined it.

    Attributes:
        lock: The file whose lock says that this process lives; it has to stay open as long.
        is_first: No other worker lived when this one joined.
    """

    directory: Path
    lock: IO[bytes]
    is_first: bool

    def lock_port(self) -> IO[bytes] | None:
        """Return the lock of the one worker that listens, until it is closed; None while another worker has it.

        So a port that is taken although this lock was free is taken by a stranger.
        """
        lock = (self.directory / "port.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return lock


def join_store(port: int) -> MetricsStore:
    """Share the directory of the service whose metrics are at `port`, whoever started its workers.

    The first worker finds nobody there, and empties it; a worker that is started again later finds the counts of the
    one before it. It must be called before `prometheus_client` is imported, which looks for the directory then.

    Raises:
        OSError: the directory belongs to somebody else, or can't be written.
    """
    directory = Path(tempfile.gettempdir()) / f"hardened-genkit-service-metrics-{os.getuid()}-{port}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()  # of a link that somebody else has put there, not of what it leads to
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(errno.EACCES, "belongs to somebody else", str(directory))
    lock = (directory / "lock").open("ab")
    is_first = True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_first = False
    else:
        _empty(directory)
    fcntl.flock(lock, fcntl.LOCK_SH)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    return MetricsStore(directory, lock, is_first)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
