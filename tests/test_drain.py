"""The drain: new work is refused, work under way has its grace, and is told when that is over."""

import asyncio

import pytest

from src.drain import Drain
from src.errors import ShuttingDown


async def work(drain: Drain, until: asyncio.Event) -> str:
    async with drain.work():
        await until.wait()
    return "done"


def test_new_work_is_refused_and_that_under_way_may_finish() -> None:
    async def scenario() -> None:
        drain, finish = Drain(60), asyncio.Event()
        under_way = asyncio.create_task(work(drain, finish))
        await asyncio.sleep(0)
        drain.check()
        drain.begin()
        with pytest.raises(ShuttingDown):
            drain.check()
        with pytest.raises(ShuttingDown):
            await work(drain, finish)
        finish.set()
        assert await under_way == "done"

    asyncio.run(scenario())


def test_when_the_grace_is_over_work_ends_with_the_reason() -> None:
    async def scenario() -> None:
        drain = Drain(0.01)
        tasks = [asyncio.create_task(work(drain, asyncio.Event())) for _ in range(10)]
        await asyncio.sleep(0)
        drain.begin()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, ShuttingDown) for outcome in outcomes)
        assert drain.seconds_left == 0

    asyncio.run(scenario())


def test_a_second_beginning_does_not_lengthen_the_grace() -> None:
    async def scenario() -> None:
        drain = Drain(60)
        assert drain.seconds_left == 60
        drain.begin()
        left = drain.seconds_left
        drain.begin()
        assert drain.seconds_left <= left <= 60

    asyncio.run(scenario())


def test_a_client_who_leaves_and_a_timeout_of_the_work_itself_stay_what_they_are() -> None:
    async def scenario() -> None:
        drain = Drain(60)
        left = asyncio.create_task(work(drain, asyncio.Event()))
        await asyncio.sleep(0)
        drain.begin()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert left.cancelled()
        other = Drain(60)
        with pytest.raises(TimeoutError):
            async with other.work():
                raise TimeoutError

    asyncio.run(scenario())
