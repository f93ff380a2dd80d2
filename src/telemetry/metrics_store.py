"""The shared directory for the metrics files of one service's worker processes."""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

from src.lifecycle.server_parent import main_processes

_MAIN_PROCESSES = "main-processes"


@dataclass(frozen=True, slots=True)
class MetricsStore:
    """A worker's membership in the directory of its service.

    Attributes:
        lock: The locked file that shows that this process lives. It must stay open.
        is_first: True if no other worker was alive when this one joined.
    """

    directory: Path
    lock: IO[bytes]
    is_first: bool

    def lock_port(self) -> IO[bytes] | None:
        """Return the lock of the one worker that listens, or None while another worker has it.

        If the lock is free but the port is taken, another program has the port.
        """
        lock = (self.directory / "port.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return lock


def shared_metrics_directory(host: str, port: int) -> MetricsStore:
    """Join the directory of the service whose metrics are at this address, whichever process started its workers.

    The first worker empties it. A restarted worker finds the counters of its predecessor. Call it before
    `prometheus_client` is imported, because the import looks for the directory.

    Raises:
        OSError: The directory belongs to another user, or can't be written; or (EADDRINUSE) another service of this
            user has its metrics at the address.
    """
    name = f"hardened-genkit-service-metrics-{os.getuid()}-{quote(host, safe='')}-{port}"
    directory = Path(tempfile.gettempdir(), name)
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()  # checks a link itself, which another user may have put there, not its target
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(errno.EACCES, "belongs to another user, or is not a directory", str(directory))
    lock = (directory / "lock").open("ab")
    is_first = True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_first = False
    else:
        _empty(directory)
        _note_service(directory)
    fcntl.flock(lock, fcntl.LOCK_SH)
    if not is_first:
        try:
            _check_service(directory)
            _note_service(directory)
        except BaseException:
            lock.close()
            raise
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    return MetricsStore(directory, lock, is_first)


def _note_service(directory: Path) -> None:
    """Note the main processes of this worker, so that workers with one of them accept the directory as theirs.

    After gunicorn's USR2 there are two, the old and the new one. Later workers have the new one only.
    """
    with (directory / _MAIN_PROCESSES).open("a") as file:
        file.write("".join(f"{pid}\n" for pid in _service()))


def _check_service(directory: Path) -> None:
    noted = {int(line) for line in (directory / _MAIN_PROCESSES).read_text().split()}
    if noted.isdisjoint(_service()):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(directory))


def _service() -> list[int]:
    return main_processes() or [os.getpid()]


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
