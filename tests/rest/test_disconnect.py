import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from starlette.types import Message

from src.rest.disconnect import ClientGone, while_connected

T = TypeVar("T")


class Client:
    """Stays until it is told to leave."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self.is_watched = False
        self._has_sent = False

    async def receive(self) -> Message:
        if not self._has_sent:
            self._has_sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        self.is_watched = True
        try:
            await self.leaves.wait()
        finally:
            self.is_watched = False
        return {"type": "http.disconnect"}


class Work:
    """Goes on until it is told to end."""

    def __init__(self) -> None:
        self.began, self.ends = asyncio.Event(), asyncio.Event()
        self.was_cancelled = False

    async def run(self) -> str:
        self.began.set()
        try:
            await self.ends.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return "done"


def in_loop(scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(asyncio.wait_for(scenario(), 5))


async def settled() -> None:
    """All that can run has."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_work_whose_client_stays_is_done_and_the_watch_ends() -> None:
    async def scenario() -> tuple[str, bool]:
        client, work = Client(), Work()
        task = asyncio.create_task(while_connected(client.receive, work.run()))
        await settled()
        assert client.is_watched
        work.ends.set()
        result = await task
        await settled()
        return result, client.is_watched

    assert in_loop(scenario) == ("done", False)


def test_a_client_that_leaves_ends_the_work() -> None:
    async def scenario() -> bool:
        client, work = Client(), Work()
        task = asyncio.create_task(while_connected(client.receive, work.run()))
        await work.began.wait()
        client.leaves.set()
        with pytest.raises(ClientGone):
            await task
        return work.was_cancelled and not task.cancelling()

    assert in_loop(scenario)


def test_a_connection_that_fails_counts_as_left() -> None:
    missed: list[Any] = []

    async def broken() -> Message:
        raise ConnectionResetError

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: missed.append(context))
        with pytest.raises(ClientGone):
            await while_connected(broken, Work().run())

    in_loop(scenario)
    gc.collect()
    assert not missed


def test_a_failure_of_the_work_is_the_callers() -> None:
    async def fail() -> None:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        in_loop(lambda: while_connected(Client().receive, fail()))


def test_someone_elses_cancellation_stays_one() -> None:
    async def scenario() -> bool:
        work = Work()
        task = asyncio.create_task(while_connected(Client().receive, work.run()))
        await work.began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return work.was_cancelled

    assert in_loop(scenario)


def test_a_client_that_leaves_at_the_same_time_hides_no_cancellation() -> None:
    async def scenario() -> None:
        client, work = Client(), Work()
        task = asyncio.create_task(while_connected(client.receive, work.run()))
        await work.began.wait()
        client.leaves.set()
        await asyncio.sleep(0)  # the watch sees it
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    in_loop(scenario)


def test_a_timeout_around_the_work_is_told_from_a_client_that_leaves() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(0):
            await while_connected(Client().receive, Work().run())

    with pytest.raises(TimeoutError):
        in_loop(scenario)


@pytest.mark.parametrize("turns", range(6))
def test_a_client_that_leaves_as_the_work_ends_costs_its_task_nothing(turns: int) -> None:
    """Whichever comes first, what the task does next is not cancelled."""

    async def scenario() -> None:
        client, work = Client(), Work()

        async def request() -> None:
            with suppress(ClientGone):
                await while_connected(client.receive, work.run())
            await settled()

        task = asyncio.create_task(request())
        await work.began.wait()
        await settled()
        first, second = (client.leaves, work.ends) if turns % 2 else (work.ends, client.leaves)
        first.set()
        for _ in range(turns // 2):
            await asyncio.sleep(0)
        second.set()
        await task
        assert not task.cancelling()

    in_loop(scenario)


def test_a_client_that_leaves_does_not_cut_short_the_end_that_someone_else_brought_about() -> None:
    async def scenario() -> list[str]:
        client = Client()
        cleaning, cleaned = asyncio.Event(), []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaning.set()
                await settled()
                cleaned.append("connection closed")

        async def request() -> None:
            async with asyncio.timeout(0):
                await while_connected(client.receive, work())

        task = asyncio.create_task(request())
        await cleaning.wait()
        client.leaves.set()
        with pytest.raises(TimeoutError):
            await task
        return cleaned

    assert in_loop(scenario) == ["connection closed"]


def test_work_that_takes_no_notice_leaves_no_cancellation_behind() -> None:
    async def scenario() -> int:
        client, work = Client(), Work()

        async def stubborn() -> None:
            with suppress(asyncio.CancelledError):
                await work.run()

        async def request() -> int:
            await while_connected(client.receive, stubborn())
            task = asyncio.current_task()
            assert task is not None
            return task.cancelling()

        task = asyncio.create_task(request())
        await work.began.wait()
        client.leaves.set()
        return await task

    assert in_loop(scenario) == 0


def test_a_task_that_has_outlived_a_cancellation_is_ended_by_its_client_all_the_same() -> None:
    async def scenario() -> int:
        client, work = Client(), Work()
        outlives = asyncio.Event()

        async def request() -> int:
            with suppress(asyncio.CancelledError):
                outlives.set()
                await asyncio.Event().wait()
            with pytest.raises(ClientGone):
                await while_connected(client.receive, work.run())
            task = asyncio.current_task()
            assert task is not None
            return task.cancelling()

        task = asyncio.create_task(request())
        await outlives.wait()
        task.cancel()
        await work.began.wait()
        client.leaves.set()
        return await task

    assert in_loop(scenario) == 1
