"""Cancel work when its client disconnects."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientGone(Exception):
    """The client disconnected before the response was ready."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, which is cancelled if the client disconnects.

    ASGI servers don't cancel the app when a client disconnects. They only send `http.disconnect` to `receive` (ASGI
    specification, HTTP). The request's body must be read before. The work runs in the caller's own task, so only the
    watching needs another one.

    Raises:
        ClientGone: The client disconnected first.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("work that a disconnect cancels needs a task")
    cancelling = task.cancelling()
    has_left = has_ended = False

    def leave(_: "asyncio.Task[None]") -> None:
        nonlocal has_left
        # If others already cancelled the work, let it clean up.
        if not has_ended and task.cancelling() <= cancelling:
            has_left = True
            task.cancel()

    watching = asyncio.create_task(_disconnected(receive))
    watching.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        # If others cancelled the task too, the cancellation must survive.
        if has_left and task.cancelling() == cancelling + 1:
            raise ClientGone from None
        raise
    finally:
        has_ended = True
        watching.cancel()
        if has_left:
            task.uncancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
