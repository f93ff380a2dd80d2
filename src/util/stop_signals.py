"""Notices the signals that end the process, beside the server that acts on them."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def block_stop_signals() -> None:
    """Let the signals wait, in this thread and in processes and threads that it starts from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def unblock_stop_signals() -> None:
    """Let them through; one that has waited comes now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def noticing_stop_signals(on_stop: Callable[[], None]) -> Iterator[None]:
    """Call `on_stop`, on the running loop, when the process is asked to stop. The server's own handlers stay at work.

    To be entered in the main thread, with the loop running and the server's handlers in place: in the lifespan.
    A signal between two runs of the loop, as granian has them around start-up, would be lost to a server that waits
    for it on the loop; it is raised again once the loop runs. A SIGINT that follows another signal is dropped: to
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

    for number in STOP_SIGNALS:
        signal.signal(number, notice)
    unblock_stop_signals()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
