"""The response cache: bounded in time and number, and one call for all who ask the same at once."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What the cache has done since the process started, and how many entries it holds.

    Attributes:
        shared: Callers that joined a call already under way.
    """

    hits: int
    misses: int
    shared: int
    entries: int


@dataclass(slots=True)
class _Flight(Generic[V]):
    """A call under way, and how many wait for it."""

    task: asyncio.Task[V]
    waiting: int = 0


class FlowCache(Generic[V]):
    """Results by key: TTL, LRU, and single flight.

    All callers of one key get the same object, so values have to be immutable; None is no value. Failures are shared
    by those who wait for them, and never kept.

    Args:
        ttl: Seconds that a result is good for, from the end of the call that made it.
        max_size: Results kept at most; beyond it the least recently used goes.
        clock: Monotonic seconds.
    """

    def __init__(self, *, ttl: float, max_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._max_size = max_size
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, V]] = OrderedDict()  # key: (good until, value), LRU first
        self._flights: dict[str, _Flight[V]] = {}
        self._hits = self._misses = self._shared = 0

    def stats(self) -> CacheStats:
        """A snapshot, for metrics."""
        return CacheStats(self._hits, self._misses, self._shared, len(self._entries))

    def kept(self, key: str) -> V | None:
        """The result kept under `key`, if it is still good."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        good_until, value = entry
        if self._clock() >= good_until:
            del self._entries[key]
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return value

    async def get(self, key: str, call: Callable[[], Awaitable[V]]) -> V:
        """The result kept under `key`, else that of `call`, which is made once for all who wait for it.

        A caller who is cancelled leaves the others their call; when the last one has left, it is cancelled too.
        """
        value = self.kept(key)
        return await self._join(key, call) if value is None else value

    async def _join(self, key: str, call: Callable[[], Awaitable[V]]) -> V:
        flight = self._flights.get(key)
        if flight is None:
            self._misses += 1
            flight = self._flights[key] = _Flight(asyncio.ensure_future(self._fly(key, call)))
        else:
            self._shared += 1
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                await self._abandon(key, flight)

    async def _fly(self, key: str, call: Callable[[], Awaitable[V]]) -> V:
        try:
            value = await call()
            self._keep(key, value)
            return value
        finally:
            # An abandoned flight is out of the table already, and another one may have taken its place.
            flight = self._flights.get(key)
            if flight is not None and flight.task is asyncio.current_task():
                del self._flights[key]

    async def _abandon(self, key: str, flight: _Flight[V]) -> None:
        """Cancel a call that nobody waits for, and see it end."""
        del self._flights[key]
        flight.task.cancel()
        await asyncio.gather(flight.task, return_exceptions=True)

    def _keep(self, key: str, value: V) -> None:
        self._entries[key] = (self._clock() + self._ttl, value)
        if len(self._entries) > self._max_size:
            self._entries.popitem(last=False)
