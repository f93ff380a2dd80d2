"""The end of a process's life: new work is refused, what is under way may finish, and at the end of the grace stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from src.errors import ShuttingDown


class Drain:
    """Knows the work under way, and ends it in time.

    Args:
        grace: Seconds from `begin` that work may go on for.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._limits: set[asyncio.Timeout] = set()
        self._ends_at: float | None = None  # on the loop's clock; None: not begun

    @property
    def has_begun(self) -> bool:
        """Whether new work is refused."""
        return self._ends_at is not None

    @property
    def seconds_left(self) -> float:
        """Of the grace; all of it before the beginning."""
        return self._grace if self._ends_at is None else max(0.0, self._ends_at - asyncio.get_running_loop().time())

    def begin(self) -> None:
        """Refuse new work, and end in `grace` seconds what is under way. The first call counts."""
        if self.has_begun:
            return
        self._ends_at = asyncio.get_running_loop().time() + self._grace
        for limit in self._limits:
            limit.reschedule(self._ends_at)

    def check(self) -> None:
        """Raises ShuttingDown where new work is refused."""
        if self.has_begun:
            raise ShuttingDown

    @asynccontextmanager
    async def work(self) -> AsyncIterator[None]:
        """Encloses one piece of work, in the task that does it.

        Raises:
            ShuttingDown: before the work, or instead of its result when the grace is over.
        """
        self.check()
        try:
            async with asyncio.timeout(None) as limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ShuttingDown from None
