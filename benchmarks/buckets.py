"""The bucket store as clients multiply: bytes for each, and the time of one decision.

    .venv/bin/python -m benchmarks.buckets

The baseline, in the same run, is what no store with an order of use can do without: a look-up in an ordered
dictionary of that size, and a move to its end.
"""

import asyncio
import gc
import random
import statistics
import time
import tracemalloc
from collections import OrderedDict
from ipaddress import IPv4Address

from src.rate_limit import MAX_BUCKETS, MemoryBuckets
from src.util.rate import Rate

SIZES = (1_000, 100_000, 1_000_000)
DECISIONS = 20_000
ROUNDS = 5
RATE = Rate.parse("1000000/day")
MIB = 1024 * 1024


def addresses(count: int) -> list[str]:
    """So many clients' keys."""
    return [str(IPv4Address(0x0A000000 + number)) for number in range(count)]


async def filled(keys: list[str]) -> MemoryBuckets:
    """A store that each of them has asked once, where no bucket is full again before the end."""
    buckets = MemoryBuckets()
    for key in keys:
        await buckets.take([(key, RATE)])
    return buckets


async def bytes_of_store(count: int) -> int:
    """Return the bytes of the store after `count` clients, their keys included."""
    tracemalloc.start()
    buckets = MemoryBuckets()
    for number in range(count):
        await buckets.take([(str(IPv4Address(0x0A000000 + number)), RATE)])
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(buckets) == min(count, MAX_BUCKETS)
    return held


async def nanoseconds(buckets: MemoryBuckets, keys: list[str]) -> float:
    """Of one decision about a client that is known."""
    asked = [((key, RATE),) for key in keys]
    began = time.perf_counter_ns()
    for one in asked:
        await buckets.take(one)
    return (time.perf_counter_ns() - began) / len(keys)


def baseline(order: "OrderedDict[str, float]", keys: list[str]) -> float:
    """Nanoseconds of one look-up and move."""
    began = time.perf_counter_ns()
    for key in keys:
        order[key] = order.get(key, 0.0)
        order.move_to_end(key)
    return (time.perf_counter_ns() - began) / len(keys)


def decision_times() -> dict[str, float]:
    """Microseconds of one decision, by the number of clients."""

    async def measure(count: int) -> float:
        known = addresses(count)[-MAX_BUCKETS:]
        buckets = await filled(known)
        times = [await nanoseconds(buckets, random.choices(known, k=DECISIONS)) for _ in range(ROUNDS)]
        return statistics.median(times) / 1000

    return {str(count): asyncio.run(measure(count)) for count in SIZES}


async def main() -> None:
    """Print a line for each size."""
    print(
        f"{'clients':>10} {'store MiB':>10} {'bytes/client':>13} {'ns/decision':>12} {'baseline ns':>12} {'ratio':>6}"
    )
    for count in SIZES:
        held = await bytes_of_store(count)
        known = addresses(count)[-MAX_BUCKETS:]
        buckets, order = await filled(known), OrderedDict.fromkeys(known, 0.0)
        decisions, moves = [], []
        for _ in range(ROUNDS):
            asked = random.choices(known, k=DECISIONS)
            decisions.append(await nanoseconds(buckets, asked))
            moves.append(baseline(order, asked))
        one, least = statistics.median(decisions), statistics.median(moves)
        kept = min(count, MAX_BUCKETS)
        print(f"{count:12} {held / MIB:12.1f} {held / kept:12.0f} {one:12.0f} {least:12.0f} {one / least:12.1f}")


if __name__ == "__main__":
    asyncio.run(main())
