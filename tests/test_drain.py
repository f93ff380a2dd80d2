"""The drain: new work is refused, work under way has its grace, and is told when that is over."""

import asyncio
import time

import pytest

from src.drain import Drain
from src.errors import ShuttingDown
from src.middleware.in_flight import RequestsInFlight


async def work(drain: Drain, until: asyncio.Event) -> str:
    async with drain.track():
        await until.wait()
    return "done"


def test_new_work_is_refused_and_that_under_way_may_finish() -> None:
    async def scenario() -> None:
        drain, finish = Drain(60), asyncio.Event()
        under_way = asyncio.create_task(work(drain, finish))
        await asyncio.sleep(0)
        drain.raise_if_draining()
        drain.start()
        with pytest.raises(ShuttingDown):
            drain.raise_if_draining()
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
        drain.start()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, ShuttingDown) for outcome in outcomes)
        assert drain.seconds_left == 0

    asyncio.run(scenario())


def test_a_second_beginning_does_not_lengthen_the_grace() -> None:
    async def scenario() -> None:
        drain = Drain(60)
        assert drain.seconds_left == 60
        drain.start()
        left = drain.seconds_left
        drain.start()
        assert drain.seconds_left <= left <= 60

    asyncio.run(scenario())


def test_a_client_who_leaves_and_a_timeout_of_the_work_itself_stay_what_they_are() -> None:
    async def scenario() -> None:
        drain = Drain(60)
        left = asyncio.create_task(work(drain, asyncio.Event()))
        await asyncio.sleep(0)
        drain.start()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert left.cancelled()
        other = Drain(60)
        with pytest.raises(TimeoutError):
            async with other.track():
                raise TimeoutError

    asyncio.run(scenario())


def test_what_comes_while_servers_close_their_doors_is_accepted_and_has_the_same_end() -> None:
    async def scenario() -> None:
        drain = Drain(0.2, accepting=0.1)
        drain.start()
        late = asyncio.create_task(work(drain, asyncio.Event()))
        await asyncio.sleep(0)
        assert drain.has_begun
        await drain.refusing()
        with pytest.raises(ShuttingDown):
            drain.raise_if_draining()
        assert not late.done()
        with pytest.raises(ShuttingDown):
            await late

    asyncio.run(scenario())


async def receive(drain: Drain, until: asyncio.Event) -> str:
    with drain.receiving():
        await until.wait()
    return "received"


def test_a_wait_for_a_body_ends_when_new_work_is_refused() -> None:
    async def scenario() -> None:
        drain, arrived = Drain(60), asyncio.Event()
        stalled = asyncio.create_task(receive(drain, asyncio.Event()))
        complete = asyncio.create_task(receive(drain, arrived))
        arrived.set()
        assert await complete == "received"
        drain.start()
        with pytest.raises(ShuttingDown):
            await stalled
        with pytest.raises(ShuttingDown):
            await receive(drain, arrived)

    asyncio.run(scenario())


def test_a_client_who_leaves_in_the_middle_of_its_body_stays_one() -> None:
    async def scenario() -> None:
        drain = Drain(60)
        left = asyncio.create_task(receive(drain, asyncio.Event()))
        await asyncio.sleep(0)
        left.cancel()
        drain.start()
        await asyncio.gather(left, return_exceptions=True)
        assert left.cancelled()

    asyncio.run(scenario())


def test_it_is_finished_when_the_last_call_has_left() -> None:
    async def scenario() -> None:
        drain = Drain(60, accepting=0.01)
        drain.enter("http")
        drain.enter("grpc")
        drain.start()
        finished = asyncio.create_task(drain.finished(extra=1))
        drain.leave("http")
        await asyncio.sleep(0.05)
        assert not finished.done()
        drain.leave("grpc")
        await asyncio.wait_for(finished, 5)

    asyncio.run(scenario())


def test_a_call_that_never_leaves_holds_it_up_for_the_grace_and_a_little_more() -> None:
    async def scenario() -> None:
        drain = Drain(0.05)
        drain.enter("http")
        drain.start()
        await asyncio.wait_for(drain.finished(extra=0.05), 5)
        assert drain.seconds_left == 0

    asyncio.run(scenario())


def request(drain: Drain, ended: asyncio.Event) -> "asyncio.Task[None]":
    """A request whose client never reads."""

    async def app(*_: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def served() -> None:
        await RequestsInFlight(app, drain)({"type": "http"}, None, None)  # type: ignore[arg-type]

    return asyncio.create_task(served())


def test_a_request_that_outlives_the_grace_has_ended_when_the_drain_is_finished() -> None:
    async def scenario() -> None:
        drain, ended = Drain(0.01), asyncio.Event()
        serving = request(drain, ended)
        await asyncio.sleep(0)
        drain.start()
        await asyncio.wait_for(drain.finished(extra=0.01), 5)
        assert ended.is_set()
        assert drain.in_flight == {"http": 0, "grpc": 0}
        await serving  # no error that the server would log

    asyncio.run(scenario())


def test_a_busy_loop_does_not_take_the_time_from_calls_that_end_with_the_grace() -> None:
    async def scenario() -> None:
        drain, ended = Drain(0.01), asyncio.Event()
        serving = request(drain, ended)
        await asyncio.sleep(0)
        drain.start()
        finished = asyncio.create_task(drain.finished(extra=0.5))
        await asyncio.sleep(0)
        time.sleep(0.6)  # noqa: ASYNC251 - the loop is late for the end of the grace
        for _ in range(2):
            await asyncio.sleep(0.01)
        assert not finished.done()
        assert not drain.has_cut
        serving.cancel()
        await asyncio.wait_for(finished, 5)
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(scenario())
