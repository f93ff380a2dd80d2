"""Work that ends when its client leaves."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection before the answer was ready."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client disconnects.

    ASGI servers don't cancel the app when a client leaves: they only say `http.disconnect` on `receive` (ASGI
    specification, HTTP). The request's body has to be read before. The work is done in the caller's own task, so that
    only the watching takes another one.

    Raises:
        ClientGone: the client left first.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("what a client's leaving ends is a task, and there is none")
    cancelling = task.cancelling()
    has_left = has_ended = False

    def leave(_: "asyncio.Task[None]") -> None:
        nonlocal has_left
        # Work that someone else is ending already is to be left to clean up.
        if not has_ended and task.cancelling() <= cancelling:
            has_left = True
            task.cancel()

    watching = asyncio.create_task(_disconnected(receive))
    watching.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        # Someone else may have cancelled the task as well, and must find it so.
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
