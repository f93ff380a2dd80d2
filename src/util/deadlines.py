"""One bound on many pieces of work, without a timer for each."""

import asyncio
from types import TracebackType


class Deadlines:
    """Ends work that takes longer than so many seconds, as `asyncio.timeout` does, at a fraction of its cost.

    All work has the same bound, so it falls due in the order in which it began: one timer, for the oldest, is enough.
    An instance serves one event loop at a time: what it begins in another one is all that it watches from then on.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[Deadline, None] = {}  # in the order of their beginning
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> "Deadline":
        """A context manager around one piece of work, in the task that does it. Raises RuntimeError outside of one."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a deadline ends a task, and there is none")
        if loop is not self._loop:  # the timer of the last one may never come
            self._loop, self._timer = loop, None
            self._running.clear()
        deadline = Deadline(self, task, loop.time() + self._seconds)
        self._running[deadline] = None
        if self._timer is None:
            self._timer = loop.call_at(deadline.due, self._expire, loop)
        return deadline

    def end(self, deadline: "Deadline") -> None:
        """The work is done."""
        self._running.pop(deadline, None)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        while self._running:
            oldest = next(iter(self._running))
            if oldest.due > loop.time():
                self._timer = loop.call_at(oldest.due, self._expire, loop)
                return
            oldest.expire()


class Deadline:
    """One piece of work and when it has to be done.

    Attributes:
        due: On the loop's clock, in seconds.
        expired: Whether it was not done then, and has been cancelled.
    """

    __slots__ = ("_all", "_cancelling", "_task", "due", "expired")

    def __init__(self, deadlines: Deadlines, task: "asyncio.Task[object]", due: float) -> None:
        self._all = deadlines
        self._task = task
        self._cancelling = task.cancelling()
        self.due = due
        self.expired = False

    def __enter__(self) -> "Deadline":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raises TimeoutError in place of the cancellation that the deadline itself brought about."""
        self._all.end(self)
        # Someone else may have cancelled the task as well, and must find it so.
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def lift(self) -> None:
        """Let the work take as long as it likes from now on."""
        self._all.end(self)

    def expire(self) -> None:
        """Cancel the work, once, whether its time is up or not."""
        self.lift()
        if self.expired:
            return
        self.expired = True
        self._task.cancel()
