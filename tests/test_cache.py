"""The response cache: one call for all who wait, nothing kept that should not be, nobody harmed by who leaves."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.cache import FlowCache
from src.errors import ModelFailed


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Source:
    """What is asked on a miss: counts its calls, and answers when let."""

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
    return FlowCache(ttl=10, max_size=max_size, clock=clock or Clock())


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def begun(*coroutines: Coroutine[Any, Any, int]) -> list[asyncio.Task[int]]:
    """Tasks that have all come to where they wait."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


def test_an_answers_age_counts_from_the_end_of_its_call() -> None:
    async def scenario() -> None:
        clock, source = Clock(), Source(opened=False)
        cache = new(clock=clock)
        [first] = await begun(cache.get("k", source))
        clock.now = 100
        source.gate.set()
        assert await first == 1
        clock.now = 109.9
        assert await cache.get("k", source) == 1
        clock.now = 110
        assert await cache.get("k", source) == 2

    run(scenario())


def test_a_thousand_who_ask_the_same_make_one_call() -> None:
    async def scenario() -> None:
        cache, source = new(), Source(opened=False)
        tasks = await begun(*(cache.get("k", source) for _ in range(1000)))
        source.gate.set()
        assert set(await asyncio.gather(*tasks)) == {1}
        stats = cache.stats()
        assert (source.calls, stats.misses, stats.shared) == (1, 1, 999)

    run(scenario())


def test_the_first_to_ask_may_leave() -> None:
    async def scenario() -> None:
        cache, source = new(), Source(opened=False)
        leader, follower = await begun(cache.get("k", source), cache.get("k", source))
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
        source.gate.set()
        assert await follower == 1
        assert (leader.cancelled(), source.cancelled) == (True, 0)

    run(scenario())


def test_when_the_last_has_left_the_call_is_cancelled_and_nobody_joins_it() -> None:
    async def scenario() -> None:
        cache, source = new(), Source(opened=False)
        tasks = await begun(*(cache.get("k", source) for _ in range(3)))
        for task in tasks:
            task.cancel()
        [late] = await begun(cache.get("k", source))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert source.cancelled == 1
        source.gate.set()
        assert await late == 2
        assert len(asyncio.all_tasks()) == 1

    run(scenario())


def test_a_failure_is_shared_by_those_who_wait_and_then_forgotten() -> None:
    async def scenario() -> None:
        cache, source = new(), Source(opened=False, error=ModelFailed())
        tasks = await begun(*(cache.get("k", source) for _ in range(100)))
        source.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, ModelFailed) for outcome in outcomes)
        assert source.calls == 1
        source.error = None
        assert await cache.get("k", source) == 2

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
        [task] = await begun(cache.get("k", stubborn))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    run(scenario())


def test_beyond_its_size_the_least_recently_used_goes() -> None:
    async def scenario() -> None:
        cache, source = new(max_size=3), Source()
        for key in ("a", "b", "c", "a", "d", "a"):
            await cache.get(key, source)
        assert (source.calls, cache.stats().hits) == (4, 2)
        await cache.get("b", source)
        assert source.calls == 5

    run(scenario())


def test_an_endless_row_of_keys_leaves_what_the_size_allows() -> None:
    async def scenario() -> None:
        cache, source = new(max_size=100), Source()
        for number in range(20_000):
            await cache.get(str(number), source)
        assert cache.stats().entries == 100
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
                assert await cache.get(argument, fail) == kept[2]
            elif what == "fail":
                with pytest.raises(ModelFailed):
                    await cache.get(argument, fail)
            else:
                assert await cache.get(argument, answer) == calls
                model.append((argument, clock.now, calls))
                del model[:-3]
            assert cache.stats().entries == len(model)

    run(scenario())
