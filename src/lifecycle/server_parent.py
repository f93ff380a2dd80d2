"""Knows the server's main process, which started this one as a worker, and notices its end.

A worker that outlives it would keep serving beside the next start of the service, and no supervisor would know of it.
"""

import asyncio
import multiprocessing
import os

LOOK_SECONDS = 1.0

_forked_by: list[int] = []


def note_parent(pid: int, predecessor: int = 0) -> None:
    """Name the server's main process, for a server that forks its workers without `multiprocessing`: gunicorn.

    Args:
        predecessor: The main process that hands over to this one.
    """
    _forked_by[:] = [pid, predecessor] if predecessor else [pid]


def main_processes() -> list[int]:
    """Return the main processes of this worker's service: its parent, then the one that hands over to that, if any.

    Empty in a process that no server has started as its worker.
    """
    if _forked_by:
        return _forked_by
    # granian, uvicorn and hypercorn start their workers by `multiprocessing`, which tells a child of its parent.
    parent = multiprocessing.parent_process()
    return [parent.pid] if parent and parent.pid else []


async def server_parent_ended() -> None:
    """Return when the server's main process has ended.

    Never returns in a process that is not a worker: its parent, a shell, may end before it, and init adopts it.
    """
    parents = main_processes()
    while not parents or os.getppid() == parents[0]:  # noqa: ASYNC110 - not every system has an event for it
        await asyncio.sleep(LOOK_SECONDS)
