"""React to the signals that stop the process, in addition to the server's own handlers."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Some supervisors and terminals stop by these. Without a handler they would kill the process.
LIKE_SIGTERM = (signal.SIGQUIT, signal.SIGHUP)
BEGIN_STOP = "begin_stop"  # key of the function, in the lifespan's state, that begins the drain without a signal
# Turns of the event loop. granian's first run of it ends about three turns after the start.
TURNS_UNTIL_SERVING = 20


def block_stop_signals() -> None:
    """Block the signals in this thread and in the processes and threads that it starts. They stay pending."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def unblock_stop_signals() -> None:
    """Unblock the signals. Pending ones arrive now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def take_as_sigterm() -> None:
    """Make SIGQUIT and SIGHUP act as SIGTERM, unless the server handles them or `nohup` ignores them."""
    for number in LIKE_SIGTERM:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGTERM))


@contextmanager
def on_stop_signals(on_stop: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Call `on_stop` on the running loop when a stop signal arrives. The server's handlers stay active.

    Enter it in the main thread, with the loop running and the server's handlers installed: in the lifespan. granian
    runs the loop once to start and once more to serve. Its handler, called by the loop, misses a signal between these
    runs or at the beginning of the second. So SIGTERM is raised again after early signals. The process ignores those
    after the one that stops it: uvicorn would abort the drain at a second SIGINT, and granian's worker hangs at its
    third signal. Ctrl-C alone is two, because granian's main process passes it on. Blocked signals stay so until the
    server serves, because until then granian's worker takes only two.

    Yields:
        A function to call as the last step of the start. Signals up to a few turns of the loop later count as early.
    """
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, *LIKE_SIGTERM)}
    early: list[int] = []
    is_serving = is_stopping = False

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping:
            return
        loop.call_soon_threadsafe(on_stop)
        if is_serving:
            is_stopping = True
            loop.call_soon_threadsafe(ignore_more)  # not here: Python would report one that is already on its way
        else:
            early.append(number)
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    def ignore_more() -> None:
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)

    def serve_after(turns: int) -> None:
        nonlocal is_serving
        if turns:
            loop.call_soon(serve_after, turns - 1)
            return
        is_serving = True
        unblock_stop_signals()
        if early:
            signal.raise_signal(signal.SIGTERM)  # not SIGINT: uvicorn aborts the drain at the second one

    for number in STOP_SIGNALS:
        signal.signal(number, notice)
    take_as_sigterm()
    try:
        yield lambda: serve_after(TURNS_UNTIL_SERVING)
    finally:
        unblock_stop_signals()
        early.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)
