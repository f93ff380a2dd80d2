"""Deadlines end work as `asyncio.timeout` does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest

from src.util.deadlines import Deadlines

SECONDS = 10.0


class Clock:
    """The event loop's time, moved by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        loop = asyncio.new_event_loop()
        loop.time = lambda: self.now  # type: ignore[method-assign]
        try:
            return loop.run_until_complete(main)
        finally:
            loop.close()

    async def advance(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(5):
            await asyncio.sleep(0)


Limit = Callable[[], AbstractAsyncContextManager[Any]]


def ours() -> Limit:
    deadlines = Deadlines(SECONDS)

    @asynccontextmanager
    async def limit() -> AsyncIterator[None]:
        with deadlines.begin():
            yield

    return limit


def asyncios() -> Limit:
    return lambda: asyncio.timeout(SECONDS)


async def hangs() -> None:
    await asyncio.Event().wait()


async def is_done_at_once() -> None: ...


async def fails() -> None:
    raise ValueError


async def times_out_by_itself() -> None:
    raise TimeoutError("its own")


async def swallows_the_first_cancellation() -> None:
    with suppress(asyncio.CancelledError):
        await hangs()
    await hangs()


async def ends_well_when_cancelled() -> None:
    with suppress(asyncio.CancelledError):
        await hangs()


async def outcome(limit: Limit, work: Callable[[], Awaitable[None]], seen: list[str]) -> None:
    """Note how the work ended inside of the limit, how the limit told of it, and what the task is left with."""
    task = asyncio.current_task()
    assert task is not None
    try:
        async with limit():
            await work()
        seen.append("done")
    except BaseException as error:
        seen.append(f"{type(error).__name__} {error}")
        raise
    finally:
        seen.append(str(task.cancelling()))


@pytest.mark.parametrize("cancelled_by_others_at", [None, 3.0, SECONDS, SECONDS + 1])
@pytest.mark.parametrize(
    "work",
    [
        hangs,
        is_done_at_once,
        fails,
        times_out_by_itself,
        swallows_the_first_cancellation,
        ends_well_when_cancelled,
    ],
)
def test_work_ends_as_under_asyncio_timeout(
    work: Callable[[], Awaitable[None]], cancelled_by_others_at: float | None
) -> None:
    """Whatever the work does, and whoever else cancels it: the same exception, the same count of cancellations."""

    def play(limit: Limit) -> list[str]:
        clock = Clock()
        seen: list[str] = []

        async def main() -> None:
            task = asyncio.ensure_future(outcome(limit, work, seen))
            for _ in range(14):
                if clock.now == cancelled_by_others_at:
                    task.cancel()
                await clock.advance(1.0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        clock.run(main())
        return seen

    assert play(ours()) == play(asyncios())


def test_each_falls_due_in_its_own_time_and_none_is_left() -> None:
    """Work that begins later ends later, work that is done is never touched, and the last one leaves no timer."""
    clock = Clock()
    deadlines = Deadlines(SECONDS)
    ended: dict[str, float] = {}

    async def work(name: str, is_quick: bool) -> None:
        try:
            with deadlines.begin():
                await (is_done_at_once() if is_quick else hangs())
        except TimeoutError:
            ended[name] = clock.now

    async def main() -> None:
        tasks = []
        for second in range(4):
            tasks += [asyncio.ensure_future(work(f"{second}{kind}", kind == "quick")) for kind in ("slow", "quick")]
            await clock.advance(1.0)
        for _ in range(12):
            await clock.advance(1.0)
        assert all(task.done() for task in tasks)
        assert not asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]

    clock.run(main())
    assert ended == {"0slow": 11.0, "1slow": 12.0, "2slow": 13.0, "3slow": 14.0}


def test_another_event_loop_has_deadlines_too() -> None:
    deadlines = Deadlines(SECONDS)

    async def times_out(clock: Clock) -> bool:
        task = asyncio.ensure_future(hangs_within(deadlines))
        await clock.advance(0.0)
        await clock.advance(SECONDS)
        try:
            return task.done() and isinstance(task.exception(), TimeoutError)
        finally:
            task.cancel()

    async def is_left_half_way(clock: Clock) -> None:
        task = asyncio.ensure_future(hangs_within(deadlines))
        await clock.advance(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for clock in (Clock(), Clock()):
        clock.run(is_left_half_way(clock))
    clock = Clock()
    assert clock.run(times_out(clock))


async def hangs_within(deadlines: Deadlines) -> None:
    with deadlines.begin():
        await hangs()
