"""Notices the signals that end the process, beside the server that acts on them."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Some supervisors and terminals ask by these. Where no server acts on them they would kill the process.
LIKE_SIGTERM = (signal.SIGQUIT, signal.SIGHUP)
BEGIN_STOP = "begin_stop"  # the key, in the lifespan's state, of a function that begins the drain without a signal
# Turns of the event loop. granian's first run of it ends about three turns after the start.
TURNS_UNTIL_SERVING = 20


def block_stop_signals() -> None:
    """Let the signals wait, in this thread and in processes and threads that it starts from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def unblock_stop_signals() -> None:
    """Let them through; one that has waited comes now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def take_as_sigterm() -> None:
    """Make SIGQUIT and SIGHUP act as SIGTERM, unless a server has a use for them or `nohup` has them ignored."""
    for number in LIKE_SIGTERM:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGTERM))


@contextmanager
def noticing_stop_signals(on_stop: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Call `on_stop`, on the running loop, when the process is asked to stop. The server's own handlers stay at work.

    To be entered in the main thread, with the loop running and the server's handlers in place: in the lifespan.
    granian runs the loop once for the start and once more to serve. Its handler, which the loop calls, misses a signal
    that comes between these runs or at the beginning of the second one, so after early signals SIGTERM is raised.
    A SIGINT that follows another signal is dropped: to uvicorn it means to give the drain up.

    Yields:
        A function to call as the last step of the start. Early signals are those until some turns of the loop after it.
    """
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, *LIKE_SIGTERM)}
    early: list[int] = []
    is_serving = is_stopping = False

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping and number == signal.SIGINT:
            return
        loop.call_soon_threadsafe(on_stop)
        if is_serving:
            is_stopping = True
        else:
            early.append(number)
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    def serve_after(turns: int) -> None:
        nonlocal is_serving
        if turns:
            loop.call_soon(serve_after, turns - 1)
            return
        is_serving = True
        if early:
            signal.raise_signal(signal.SIGTERM)  # not SIGINT, by which uvicorn gives the drain up if it is the second

    for number in STOP_SIGNALS:
        signal.signal(number, notice)
    take_as_sigterm()
    unblock_stop_signals()
    try:
        yield lambda: serve_after(TURNS_UNTIL_SERVING)
    finally:
        early.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)
