"""A stop signal reaches the server's handler, whenever it comes during the start."""

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial

import pytest
import uvloop

from src.lifecycle.stop_signals import on_stop_signals

Stop = Callable[[asyncio.AbstractEventLoop], None]

TURNS = 12  # more than the loop takes from the end of the start to the end of its first run


def stop_at_turn(loop: asyncio.AbstractEventLoop, turn: int) -> None:
    """Send SIGTERM to this process when the loop has taken this many turns."""
    if turn == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        loop.call_soon(stop_at_turn, loop, turn - 1)


def stop_between_the_runs(loop: asyncio.AbstractEventLoop) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def stop_at_the_beginning_of_the_second(loop: asyncio.AbstractEventLoop) -> None:
    """Send it where Python handles it while the loop runs, but where it came before the loop listened for signals."""

    def stop_unheard() -> None:
        listening = signal.set_wakeup_fd(-1)
        os.kill(os.getpid(), signal.SIGTERM)
        signal.set_wakeup_fd(listening)

    loop.call_soon(stop_unheard)


CASES = [
    *(pytest.param(partial(stop_at_turn, turn=turn), None, id=f"turn {turn}") for turn in range(TURNS)),
    pytest.param(None, stop_between_the_runs, id="between the runs"),
    pytest.param(None, stop_at_the_beginning_of_the_second, id="at the beginning of the second run"),
]


@pytest.mark.parametrize(("in_first_run", "between_runs"), CASES)
@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_stop_around_the_end_of_the_start_reaches_the_server(
    new_loop: Callable[[], asyncio.AbstractEventLoop], in_first_run: Stop | None, between_runs: Stop | None
) -> None:
    """The server is as granian: its handler waits on the loop, which it runs once for the start and once to serve."""
    loop = new_loop()
    stopped, started, noticed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)

    async def lifespan() -> None:
        with on_stop_signals(noticed.set) as begin_serving:
            begin_serving()
            if in_first_run:
                in_first_run(loop)
            started.set()
            await stopped.wait()

    async def start() -> "asyncio.Task[None]":
        running = asyncio.create_task(lifespan())
        await started.wait()
        return running

    async def serve(running: "asyncio.Task[None]") -> None:
        async with asyncio.timeout(2):
            await running
            await noticed.wait()

    try:
        running = loop.run_until_complete(start())
        if between_runs:
            between_runs(loop)
        loop.run_until_complete(serve(running))
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.close()
