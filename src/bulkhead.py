"""A bulkhead: so many at once, a few waiting, the others refused (M. Nygard, Release It!, 2nd ed., ch. 5)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from src.errors import Overloaded

QUEUE_SECONDS = 2.0


class Bulkhead:
    """Bounds what is under way at once, so that something slow cannot fill memory.

    As many as may be under way may wait, in order of arrival, for at most `queue_seconds`.

    Args:
        size: Places.
        queue_seconds: How long one waits for a place.
    """

    def __init__(self, size: int, *, queue_seconds: float = QUEUE_SECONDS) -> None:
        self._places = asyncio.Semaphore(size)
        self._size = size
        self._queue_seconds = queue_seconds
        self._waiting = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Holds a place.

        Raises:
            Overloaded: at once where too many wait, or when the wait was in vain.
        """
        await self._enter()
        try:
            yield
        finally:
            self._places.release()

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
