"""The response cache: one call for all who wait, nothing kept that should not be, nobody harmed by who leaves."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.bulkhead import Bulkhead
from src.cache import ENTRY_BYTES, EXPIRED_AT_ONCE, MAX_ENTRY_SHARE, CacheUse, FlowCache
from src.callers.caller import Caller, set_caller
from src.errors import ModelFailed, ShareExceeded

T = TypeVar("T")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Source:
    """The function called on a miss: counts its calls, and answers when let."""

    def __init__(self, *, opened: bool = True, error: Exception | None = None) -> None:
        self.calls = self.cancelled = 0
        self.error = error
        self.gate = asyncio.Event()
        if opened:
            self.gate.set()

    async def __call__(self) -> int:
        self.calls += 1
        number = self.calls
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return number


def new(max_size: int = 3, clock: Clock | None = None) -> FlowCache[int]:
    return FlowCache(ttl=10, max_size=max_size, max_bytes=1 << 30, clock=clock or Clock())


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def begun(*coroutines: Coroutine[Any, Any, T]) -> list[asyncio.Task[T]]:
    """Tasks that have all come to where they wait."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def value_of(cache: FlowCache[T], key: str, call: Callable[[], Awaitable[T]]) -> T:
    value, _ = await cache.get_or_call(key, call)
    return value


def test_an_answers_age_counts_from_the_end_of_its_call() -> None:
    async def scenario() -> None:
        clock, source = Clock(), Source(opened=False)
        cache = new(clock=clock)
        [first] = await begun(value_of(cache, "k", source))
        clock.now = 100
        source.gate.set()
        assert await first == 1
        clock.now = 109.9
        assert await value_of(cache, "k", source) == 1
        clock.now = 110
        assert await value_of(cache, "k", source) == 2

    run(scenario())


def test_a_thousand_who_ask_the_same_make_one_call() -> None:
    async def scenario() -> None:
        cache, source = new(), Source(opened=False)
        tasks = await begun(*(value_of(cache, "k", source) for _ in range(1000)))
        source.gate.set()
        assert set(await asyncio.gather(*tasks)) == {1}
        stats = cache.stats()
        assert (source.calls, stats.misses, stats.shared) == (1, 1, 999)

    run(scenario())


def test_the_first_to_ask_may_leave() -> None:
    async def scenario() -> None:
        cache, source = new(), Source(opened=False)
        leader, follower = await begun(value_of(cache, "k", source), value_of(cache, "k", source))
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        source.gate.set()
        assert await follower == 1
        assert (leader.cancelled(), source.cancelled) == (True, 0)

    run(scenario())


def test_when_the_last_has_left_the_call_is_cancelled_and_nobody_joins_it() -> None:
    async def scenario() -> None:
        cache, source = new(), Source(opened=False)
        tasks = await begun(*(value_of(cache, "k", source) for _ in range(3)))
        for task in tasks:
            task.cancel()
        [late] = await begun(value_of(cache, "k", source))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert source.cancelled == 1
        source.gate.set()
        assert await late == 2
        assert len(asyncio.all_tasks()) == 1

    run(scenario())


def test_a_failure_is_shared_by_those_who_wait_and_then_forgotten() -> None:
    async def scenario() -> None:
        cache, source = new(), Source(opened=False, error=ModelFailed())
        tasks = await begun(*(value_of(cache, "k", source) for _ in range(100)))
        source.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, ModelFailed) for outcome in outcomes)
        assert source.calls == 1
        source.error = None
        assert await value_of(cache, "k", source) == 2

    run(scenario())


def test_a_failure_after_everybody_left_disturbs_nobody() -> None:
    async def scenario() -> None:
        async def stubborn() -> int:
            try:
                await asyncio.Event().wait()
            finally:
                raise ModelFailed
            return 0

        cache = new()
        [task] = await begun(value_of(cache, "k", stubborn))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    run(scenario())


def test_beyond_its_size_the_least_recently_used_goes() -> None:
    async def scenario() -> None:
        cache, source = new(max_size=3), Source()
        for key in ("a", "b", "c", "a", "d", "a"):
            await value_of(cache, key, source)
        assert (source.calls, cache.stats().hits) == (4, 2)
        await value_of(cache, "b", source)
        assert source.calls == 5

    run(scenario())


def test_an_endless_row_of_keys_leaves_what_the_size_allows() -> None:
    async def scenario() -> None:
        cache, source = new(max_size=100), Source()
        for number in range(20_000):
            await value_of(cache, str(number), source)
        assert cache.stats().entries == len(cache._ages) == 100
        assert not cache._flights

    run(scenario())


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.just("get"), st.sampled_from("abcde"))
        | st.tuples(st.just("fail"), st.sampled_from("abcde"))
        | st.tuples(st.just("wait"), st.sampled_from([1, 2, 10])),
        min_size=30,
        max_size=60,
    )
)
def test_it_keeps_what_a_plain_list_of_the_last_used_would(steps: list[tuple[str, Any]]) -> None:
    async def scenario() -> None:
        clock = Clock()
        cache = new(clock=clock)
        model: list[tuple[str, float, int]] = []  # key, made at, value; the last used is last
        calls = 0

        async def answer() -> int:
            nonlocal calls
            calls += 1
            return calls

        async def fail() -> int:
            raise ModelFailed

        for what, argument in steps:
            if what == "wait":
                clock.now += argument
                continue
            kept = next((entry for entry in model if entry[0] == argument), None)
            if kept is not None:
                model.remove(kept)
            if kept is not None and clock.now < kept[1] + 10:
                model.append(kept)
                assert await value_of(cache, argument, fail) == kept[2]
            elif what == "fail":
                with pytest.raises(ModelFailed):
                    await value_of(cache, argument, fail)
            else:
                assert await value_of(cache, argument, answer) == calls
                model.append((argument, clock.now, calls))
                model[:] = [entry for entry in model if clock.now < entry[1] + 10][-3:]
            assert cache.stats().entries == len(cache._ages) == len(model)

    run(scenario())


LARGE = 2000


def sized(max_bytes: int, clock: Clock | None = None, max_size: int = 1000) -> "FlowCache[bytearray]":
    """One that counts a value's length."""
    return FlowCache(ttl=10, max_size=max_size, max_bytes=max_bytes, size_of=len, clock=clock or Clock())


async def put(cache: "FlowCache[bytearray]", key: str, size: int) -> bytearray:
    async def call() -> bytearray:
        return bytearray(size)

    return await value_of(cache, key, call)


def test_its_bytes_are_bounded_and_the_least_recently_used_go() -> None:
    async def scenario() -> None:
        cache = sized(max_bytes=20 * (LARGE + ENTRY_BYTES))
        for number in range(20):
            await put(cache, str(number), LARGE)
        cache.get("0")
        await put(cache, "more", LARGE)
        assert cache.get("0") is not None
        assert cache.get("1") is None
        stats = cache.stats()
        assert (stats.entries, stats.bytes) == (20, 20 * (LARGE + ENTRY_BYTES))

    run(scenario())


def test_a_value_too_large_for_its_part_of_the_bytes_is_answered_and_not_kept() -> None:
    async def scenario() -> None:
        cache = sized(max_bytes=100_000)
        await put(cache, "small", 10)
        assert len(await put(cache, "huge", 100_000 // MAX_ENTRY_SHARE)) == 100_000 // MAX_ENTRY_SHARE
        assert (cache.get("huge"), cache.stats().entries) == (None, 1)

    run(scenario())


def test_a_value_that_grows_is_counted_anew() -> None:
    async def scenario() -> None:
        cache = sized(max_bytes=100_000)
        first = await put(cache, "k", 100)
        first.extend(bytes(1000))
        cache.resized("k", first)
        assert cache.stats().bytes == 1100 + ENTRY_BYTES
        cache.resized("k", bytearray(1))  # another value that was kept under the key once
        cache.resized("unknown", first)
        assert cache.stats().bytes == 1100 + ENTRY_BYTES
        first.extend(bytes(100_000))
        cache.resized("k", first)
        assert (cache.stats().entries, cache.stats().bytes) == (0, 0)

    run(scenario())


def test_what_has_expired_leaves_as_new_ones_come() -> None:
    async def scenario() -> None:
        clock = Clock()
        cache = sized(max_bytes=1 << 30, clock=clock)
        for number in range(500):
            await put(cache, str(number), 10)
        clock.now = 10
        for number in range(500 // EXPIRED_AT_ONCE + 1):
            await put(cache, f"new {number}", 10)
        assert cache.stats().entries == 500 // EXPIRED_AT_ONCE + 1

    run(scenario())


def test_what_has_expired_leaves_although_nothing_comes() -> None:
    async def scenario() -> None:
        cache: FlowCache[bytearray] = FlowCache(ttl=0.05, max_size=1000, max_bytes=1 << 30, size_of=len)
        for number in range(600):
            await put(cache, str(number), 10)
        async with asyncio.timeout(10):
            while cache.stats().entries:
                await asyncio.sleep(0.01)
        assert (cache.stats().bytes, cache._sweep) == (0, None)
        await put(cache, "later", 10)
        async with asyncio.timeout(10):
            while cache.stats().entries:
                await asyncio.sleep(0.01)

    run(scenario())


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.just("put"), st.sampled_from("abcdefgh"), st.integers(0, 3000))
        | st.tuples(st.just("grow"), st.sampled_from("abcdefgh"), st.integers(1, 3000))
        | st.tuples(st.just("wait"), st.just(""), st.integers(1, 6)),
        max_size=60,
    )
)
def test_its_count_of_bytes_is_always_what_its_entries_take(steps: list[tuple[str, str, int]]) -> None:
    async def scenario() -> None:
        clock = Clock()
        cache = sized(max_bytes=40_000, clock=clock, max_size=5)
        for what, key, amount in steps:
            if what == "wait":
                clock.now += amount
            elif what == "put":
                await put(cache, key, amount)
            elif (value := cache.get(key)) is not None:
                value.extend(bytes(amount))
                cache.resized(key, value)
            held = [len(entry.value) + ENTRY_BYTES for entry in cache._entries.values()]
            assert cache.stats().bytes == sum(held) <= 40_000
            assert set(cache._ages) == set(cache._entries)
            assert all(size <= 40_000 // MAX_ENTRY_SHARE for size in held)

    run(scenario())


def become(client: str) -> None:
    set_caller(Caller(client, client))


def test_who_joins_a_call_is_not_refused_for_the_share_of_the_one_who_began_it() -> None:
    async def scenario() -> None:
        cache, bulkhead, source = new(), Bulkhead(8, per_client=1), Source(opened=False)

        async def call() -> int:
            async with bulkhead.slot():
                return await source()

        async def ask(client: str) -> int:
            become(client)
            return await value_of(cache, "k", call)

        async def hold() -> None:
            become("hostile")
            async with bulkhead.slot():
                await source.gate.wait()

        holding = asyncio.create_task(hold())
        await asyncio.sleep(0)
        asked = [asyncio.create_task(ask(client)) for client in ("hostile", "a", "b", "hostile")]
        for _ in range(10):
            await asyncio.sleep(0)
        source.gate.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(outcomes[0], ShareExceeded)
        assert outcomes[1:] == [1, 1, 1]
        assert source.calls == 1, "those who were refused began one call together"
        await holding
        assert not bulkhead._clients

    run(scenario())


def test_a_call_holds_the_share_of_the_one_who_began_it_until_it_ends() -> None:
    async def scenario() -> None:
        cache, bulkhead, source = new(), Bulkhead(8, per_client=1), Source(opened=False)

        async def call() -> int:
            async with bulkhead.slot():
                return await source()

        async def ask(client: str, key: str) -> int:
            become(client)
            return await value_of(cache, key, call)

        first, second = await begun(ask("first", "k"), ask("second", "k"))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert dict(bulkhead._clients) == {"first": 1}
        [refused] = await begun(ask("first", "another"))
        with pytest.raises(ShareExceeded):
            await refused
        source.gate.set()
        assert await second == 1

    run(scenario())


def test_it_says_how_an_answer_was_had() -> None:
    async def scenario() -> None:
        cache, source = new(), Source(opened=False)
        tasks = await begun(*(cache.get_or_call("k", source) for _ in range(2)))
        source.gate.set()
        uses = [use for _, use in [*await asyncio.gather(*tasks), await cache.get_or_call("k", source)]]
        assert uses == [CacheUse.MISS, CacheUse.COLLAPSED, CacheUse.HIT]

    run(scenario())
