"""Find the server's main process, which started this worker, and notice its end.

A worker that outlives it would keep serving beside the next start of the service, and no supervisor would know of it.
"""

import asyncio
import multiprocessing
import os

LOOK_SECONDS = 1.0

_forked_by: list[int] = []


def note_parent(pid: int, predecessor: int = 0) -> None:
    """Store the ids of the main processes for gunicorn, which forks its workers without `multiprocessing`.

    Args:
        pid: The server's main process.
        predecessor: The main process that hands over to it, if any.
    """
    _forked_by[:] = [pid, predecessor] if predecessor else [pid]


def main_processes() -> list[int]:
    """Return the main processes of this worker's service: its parent, then the one that hands over to that, if any.

    Empty in a process that no server has started as its worker.
    """
    if _forked_by:
        return _forked_by
    # granian, uvicorn and hypercorn start their workers by `multiprocessing`, which stores a child's parent.
    parent = multiprocessing.parent_process()
    return [parent.pid] if parent and parent.pid else []


async def server_parent_ended() -> None:
    """Return when the server's main process has ended.

    Never returns in a process that is not a worker: its parent, a shell, may end before it, and init adopts it.
    """
    parents = main_processes()
    while not parents or os.getppid() == parents[0]:  # noqa: ASYNC110 - not every system has an event for it
        await asyncio.sleep(LOOK_SECONDS)
