"""A bulkhead: limits concurrency, queues some callers, refuses the rest (M. Nygard, Release It!, 2nd ed., ch. 5)."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from src.callers.caller import current_caller
from src.errors import Overloaded, ShareExceeded

QUEUE_SECONDS = 2.0
CLIENT_SHARE = 0.25


def places_of_share(size: int, share: float) -> int:
    """Return the number of places for one client: its share, rounded down, at least one."""
    return max(1, min(size, int(size * share + 1e-9)))


class Bulkhead:
    """Limits concurrent calls, in total and per client, so that slow calls can't fill the memory.

    As many calls may wait as may run, in order of arrival, for at most `queue_seconds`. Waiting calls count for their
    client.

    Args:
        size: Maximum concurrent calls.
        per_client: Maximum calls of one client, running and waiting; a quarter of `size` if not given.
        queue_seconds: Maximum time to wait for a place.
    """

    def __init__(self, size: int, *, per_client: int | None = None, queue_seconds: float = QUEUE_SECONDS) -> None:
        self._places = asyncio.Semaphore(size)
        self._size = size
        self._per_client = per_client or places_of_share(size, CLIENT_SHARE)
        self._queue_seconds = queue_seconds
        self._waiting = 0
        self._clients: Counter[str] = Counter()  # only clients with calls

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a place for the current caller.

        Raises:
            ShareExceeded: At once, if the caller has the maximum of one client.
            Overloaded: At once, if too many callers wait; otherwise after the maximum wait.
        """
        client = current_caller().share_key
        if self._clients[client] >= self._per_client:
            raise ShareExceeded(self._queue_seconds)
        self._clients[client] += 1
        try:
            await self._enter()
            try:
                yield
            finally:
                self._places.release()
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    async def _enter(self) -> None:
        if not self._places.locked():
            await self._places.acquire()  # does not wait
            return
        if self._waiting >= self._size:
            raise Overloaded(self._queue_seconds)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._queue_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise Overloaded(self._queue_seconds) from None
        finally:
            self._waiting -= 1
