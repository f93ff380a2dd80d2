"""Notices the signals that end the process, beside the server that acts on them."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Turns of the event loop. granian's first run of it ends about three turns after the start.
TURNS_UNTIL_SERVING = 20


def block_stop_signals() -> None:
    """Let the signals wait, in this thread and in processes and threads that it starts from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def unblock_stop_signals() -> None:
    """Let them through; one that has waited comes now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def unblock_stop_signals_when_serving() -> None:
    """Let them through some turns of the running loop later. Call this as the last step of the start.

    granian runs the loop once for the start and once more to serve. A signal between these runs, or at the beginning
    of the second one, would not reach its handler, which the loop calls.
    """

    def wait(turns: int) -> None:
        if turns:
            loop.call_soon(wait, turns - 1)
        else:
            unblock_stop_signals()

    loop = asyncio.get_running_loop()
    wait(TURNS_UNTIL_SERVING)


@contextmanager
def noticing_stop_signals(on_stop: Callable[[], None]) -> Iterator[None]:
    """Call `on_stop`, on the running loop, when the process is asked to stop. The server's own handlers stay at work.

    To be entered in the main thread, with the loop running and the server's handlers in place: in the lifespan.
    Signals wait until `unblock_stop_signals_when_serving`. One that a thread started before takes all the same, between
    granian's runs of the loop, is raised again once the loop runs. A SIGINT that follows another signal is dropped: to
    uvicorn it means to give the drain up.
    """
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    is_stopping = False

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping and number == signal.SIGINT:
            return
        is_stopping = True
        loop.call_soon_threadsafe(on_stop)
        if not loop.is_running():
            is_stopping = False
            loop.call_soon_threadsafe(signal.raise_signal, number)
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    block_stop_signals()
    for number in STOP_SIGNALS:
        signal.signal(number, notice)
    try:
        yield
    finally:
        unblock_stop_signals()
        for number, handler in previous.items():
            signal.signal(number, handler)
