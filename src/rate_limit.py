"""One rate limit for both protocols: a token bucket per client, in one shared store.

A bucket is stored as its theoretical arrival time (GCRA, ITU-T I.371): one number per client, no timers, no refilling.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

from src.callers.caller import caller_at, set_caller
from src.util.rate import Rate

MAX_BUCKETS = 200_000
MAX_KNOWN_CALLERS = 4096


class Decision(NamedTuple):
    """The outcome of a request for a token.

    Attributes:
        remaining: Requests that could follow at once.
        retry_after: Seconds until this request would pass; 0 if it passed.
    """

    allowed: bool
    remaining: int
    retry_after: float


@dataclass(frozen=True, slots=True)
class BucketStats:
    """Decisions since the process started."""

    allowed: int
    refused: int


class BucketStore(Protocol):
    """A store of token buckets."""

    def stats(self) -> BucketStats:
        """Return a snapshot, for metrics."""
        ...

    async def take(self, buckets: Sequence[tuple[str, Rate]], cost: int = 1) -> Decision:
        """Take `cost` tokens from each of these buckets, or from none; the tightest decides. A key has one rate."""
        ...


class MemoryBuckets:
    """Token buckets in this process. Full ones are dropped, and beyond the maximum the least recently used.

    Args:
        clock: Monotonic seconds.
        max_buckets: Maximum number of buckets, about 250 bytes each.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, max_buckets: int = MAX_BUCKETS) -> None:
        self._clock = clock
        self._max = max_buckets
        self._arrivals: OrderedDict[str, float] = OrderedDict()  # least recently used first
        self._allowed = self._refused = 0

    def stats(self) -> BucketStats:
        """Return a snapshot, for metrics."""
        return BucketStats(self._allowed, self._refused)

    def __len__(self) -> int:
        return len(self._arrivals)

    async def take(self, buckets: Sequence[tuple[str, Rate]], cost: int = 1) -> Decision:
        """Take `cost` tokens from each of these buckets, or from none; the tightest decides. A key has one rate."""
        now = self._clock()
        arrivals = self._arrivals
        remaining, wait = math.inf, 0.0
        for key, rate in buckets:
            interval = rate.seconds / rate.count
            arrival = arrivals.get(key, now)
            left = rate.seconds - cost * interval - (arrival - now if arrival > now else 0.0)
            # Floating point: the last token of a burst must not be refused for a rounding error.
            if left < interval * -1e-6:
                wait = max(wait, -left)
            remaining = min(remaining, left / interval)
        if wait:
            self._refused += 1
            return Decision(False, 0, wait)
        self._allowed += 1
        for key, rate in buckets:
            arrival = arrivals.get(key, now)
            arrivals[key] = (arrival if arrival > now else now) + cost * rate.seconds / rate.count
            arrivals.move_to_end(key)
            self._forget(now)
        return Decision(True, int(remaining + 1e-6), 0.0)

    def _forget(self, now: float) -> None:
        """Drop up to two full buckets. Past clients' buckets thus leave faster than new ones arrive."""
        for _ in range(2):
            oldest = next(iter(self._arrivals))
            if self._arrivals[oldest] > now and len(self._arrivals) <= self._max:
                return
            del self._arrivals[oldest]


class RateLimit:
    """Limits callers known by their address only. The only place that takes tokens.

    Args:
        store: The buckets, the same for both protocols.
        rate: The rate of a single client; larger IPv6 networks have multiples of it.
    """

    def __init__(self, store: BucketStore, rate: Rate) -> None:
        self.rate = rate
        self._store = store
        self._caller_at = lru_cache(maxsize=MAX_KNOWN_CALLERS)(partial(caller_at, rate=rate))

    async def admit(self, address: str) -> Decision:
        """Take a token for a request from `address`, and set the caller of the current task."""
        caller = self._caller_at(address)
        set_caller(caller)
        return await self._store.take(caller.buckets)
