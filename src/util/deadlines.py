"""One time limit for many pieces of work, without a timer for each."""

import asyncio
from types import TracebackType


class Deadlines:
    """Cancel work that exceeds a time limit, like `asyncio.timeout` but much cheaper.

    All work has the same limit, so it expires in the order in which it began: one timer for the oldest is enough. An
    instance serves one event loop at a time. When work begins in another loop, it stops watching the previous one.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: dict[Deadline, None] = {}  # in order of start
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> "Deadline":
        """Return a context manager for one piece of work in the current task. Raises RuntimeError outside a task."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a deadline needs a task")
        if loop is not self._loop:  # the other loop's timer may never fire
            self._loop, self._timer = loop, None
            self._running.clear()
        deadline = Deadline(self, task, loop.time() + self._seconds)
        self._running[deadline] = None
        if self._timer is None:
            self._timer = loop.call_at(deadline.due, self._expire, loop)
        return deadline

    def end(self, deadline: "Deadline") -> None:
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
    """One piece of work and its deadline.

    Attributes:
        due: On the loop's clock, in seconds.
        expired: True if the deadline passed and the work was cancelled.
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
        """Raise TimeoutError instead of the cancellation that the deadline caused."""
        self._all.end(self)
        # If others cancelled the task too, the cancellation must survive.
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def lift(self) -> None:
        self._all.end(self)

    def expire(self) -> None:
        """Cancel the work, once, even before its deadline."""
        self.lift()
        if self.expired:
            return
        self.expired = True
        self._task.cancel()
