"""The response cache: limited in age, number and bytes, with one call for concurrent equal requests."""

import asyncio
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from src.errors import ServiceError

V = TypeVar("V")

ENTRY_BYTES = 512  # per entry, beside its value: the key and two dictionary slots
MAX_ENTRY_SHARE = 16  # a value above a sixteenth of `max_bytes` would evict too many others
MAX_JOINS = 2  # of calls that fail because of the limits of the caller who started them
EXPIRED_AT_ONCE = 16  # maximum expired entries that adding one removes, so that no caller waits for thousands
SWEPT_AT_ONCE = 256  # per sweep, which no caller waits for
SWEEP_SECONDS = 0.05  # between two parts of a sweep


class CacheUse(StrEnum):
    """A result's use of the cache, as in the header `Cache-Status` (RFC 9211)."""

    HIT = "hit"
    MISS = "fwd=miss"
    COLLAPSED = "fwd=miss; collapsed"


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the process started, and the current size.

    Attributes:
        shared: Callers that joined a call in flight.
        bytes: Size of all entries together.
    """

    hits: int
    misses: int
    shared: int
    entries: int
    bytes: int


@dataclass(slots=True)
class _Entry(Generic[V]):
    """A value, its expiry time and its size in bytes."""

    value: V
    good_until: float
    size: int


@dataclass(slots=True)
class _Flight(Generic[V]):
    """A call in flight, and the number of callers that wait for it."""

    task: asyncio.Task[V]
    waiting: int = 0


class FlowCache(Generic[V]):
    """Caches results by key, with TTL, LRU eviction and single flight.

    All callers with the same key get the same object, so values must be immutable. None can't be a value. Callers who
    wait for a call share its failure; failures are not cached.

    A call belongs to the caller who started it, even after that caller has disconnected: it counts for that caller's
    share of the pools. If it fails because of that caller's limits, the others start a new call in their own name.

    Args:
        ttl: Cache lifetime in seconds, from the end of the call.
        max_size: Maximum number of results; beyond it the least recently used is removed.
        max_bytes: Maximum bytes of all results; beyond it the least recently used are removed.
        size_of: Returns the bytes that a value takes.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        ttl: float,
        max_size: int,
        max_bytes: int,
        size_of: Callable[[V], int] = sys.getsizeof,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl = ttl
        self._max_size = max_size
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._clock = clock
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()  # least recently used first
        self._ages: OrderedDict[str, None] = OrderedDict()  # the same keys, oldest first
        self._bytes = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._flights: dict[str, _Flight[V]] = {}
        self._hits = self._misses = self._shared = 0

    def stats(self) -> CacheStats:
        return CacheStats(self._hits, self._misses, self._shared, len(self._entries), self._bytes)

    def get(self, key: str) -> V | None:
        """Return the cached result, or None. Never awaits, so callers can skip watching for a disconnect."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry.good_until:
            self._drop(key)
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return entry.value

    async def get_or_call(self, key: str, call: Callable[[], Awaitable[V]]) -> tuple[V, CacheUse]:
        """Return the cached result, otherwise the result of `call`. Concurrent callers with this key share one call.

        A cancelled caller does not cancel the call for the others. When the last one is cancelled, so is the call.
        """
        value = self.get(key)
        if value is not None:
            return value, CacheUse.HIT
        flight = self._flights.get(key)
        use = CacheUse.MISS if flight is None else CacheUse.COLLAPSED
        for _ in range(MAX_JOINS):
            if flight is None:
                break
            self._shared += 1
            try:
                return await self._wait(key, flight), use
            except ServiceError as failure:
                if not failure.concerns_one_caller:
                    raise
                flight = self._flights.get(key)
        return await self._wait(key, self._begin(key, call)), use

    def _begin(self, key: str, call: Callable[[], Awaitable[V]]) -> _Flight[V]:
        self._misses += 1
        flight = self._flights[key] = _Flight(asyncio.ensure_future(self._fly(key, call)))
        return flight

    async def _wait(self, key: str, flight: _Flight[V]) -> V:
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                await self._abandon(key, flight)

    def resized(self, key: str, value: V) -> None:
        """Update the size of a cached value that has grown. Does nothing if the value is no longer cached."""
        entry = self._entries.get(key)
        if entry is not None and entry.value is value:
            size = self._size_of(value) + ENTRY_BYTES
            self._bytes += size - entry.size
            entry.size = size
            self._shrink(key)

    async def _fly(self, key: str, call: Callable[[], Awaitable[V]]) -> V:
        try:
            value = await call()
            self._keep(key, value)
            return value
        finally:
            # An abandoned flight has left the table, and another one may have its key.
            flight = self._flights.get(key)
            if flight is not None and flight.task is asyncio.current_task():
                del self._flights[key]

    async def _abandon(self, key: str, flight: _Flight[V]) -> None:
        """Cancel a call that nobody waits for, and wait for its end."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        flight.task.cancel()
        await asyncio.gather(flight.task, return_exceptions=True)

    def _keep(self, key: str, value: V) -> None:
        self._drop(key)
        entry = _Entry(value, self._clock() + self._ttl, self._size_of(value) + ENTRY_BYTES)
        self._entries[key] = entry
        self._ages[key] = None
        self._bytes += entry.size
        self._drop_expired(EXPIRED_AT_ONCE)
        self._shrink(key)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._ttl, self._sweep_up)

    def _shrink(self, key: str) -> None:
        """Evict entries until the limits hold, after the entry under `key` was added or has grown."""
        if self._entries[key].size > self._max_bytes // MAX_ENTRY_SHARE:
            self._drop(key)
        while len(self._entries) > self._max_size or self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            del self._ages[key]
            self._bytes -= entry.size

    def _drop_expired(self, limit: int) -> None:
        now = self._clock()
        for _ in range(min(limit, len(self._ages))):
            oldest = next(iter(self._ages))
            if now < self._entries[oldest].good_until:
                return
            self._drop(oldest)

    def _sweep_up(self) -> None:
        """Remove expired entries in small parts, also if no new entries arrive."""
        self._sweep = None
        self._drop_expired(SWEPT_AT_ONCE)
        if not self._ages:
            return
        wait = self._entries[next(iter(self._ages))].good_until - self._clock()
        self._sweep = asyncio.get_running_loop().call_later(max(wait, SWEEP_SECONDS), self._sweep_up)
