"""Notices the end of the server's main process, which started this one as a worker.

A worker that outlives it would serve on beside the service that is started next, and no supervisor would know of it.
"""

import asyncio
import multiprocessing
import os

LOOK_SECONDS = 1.0

_forked_by: list[int] = []


def note_parent(pid: int) -> None:
    """Name the server's main process, for a server that forks its workers without `multiprocessing`: gunicorn."""
    _forked_by.append(pid)


async def server_parent_ended() -> None:
    """Return when the server's main process has ended.

    Never returns in a process that no server has started as its worker: a shell may end before it, and init adopts it.
    """
    parent = _server_parent()
    while parent is None or os.getppid() == parent:  # noqa: ASYNC110 - not every system has an event for it
        await asyncio.sleep(LOOK_SECONDS)


def _server_parent() -> int | None:
    if _forked_by:
        return _forked_by[-1]
    # granian, uvicorn and hypercorn start their workers by `multiprocessing`, which tells a child of its parent.
    parent = multiprocessing.parent_process()
    return parent.pid if parent else None
