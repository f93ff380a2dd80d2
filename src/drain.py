"""Graceful shutdown: refuse new calls, give calls in flight a grace period, then end them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any

from src.errors import ShuttingDown

CUT_SECONDS = 0.2  # for cancelled requests to clean up


class Drain:
    """Tracks calls in flight and ends them in time.

    Args:
        grace: Seconds after `start` until calls in flight are ended.
        accepting: Seconds after `start` in which new calls are still accepted. Servers take a moment to close their
            ports; calls that arrive meanwhile would otherwise fail, although other instances are up.

    Attributes:
        in_flight: Requests (http) and RPCs (grpc) that have not ended yet.
        has_cut: True once the requests that outlived the grace period are cancelled.
    """

    def __init__(self, grace: float, *, accepting: float = 0.0) -> None:
        self._grace = grace
        self._accepting = min(accepting, grace)
        self._limits: set[asyncio.Timeout] = set()
        self._receiving: set[Receiving] = set()
        self._requests: set[asyncio.Task[Any]] = set()
        self.in_flight = {"http": 0, "grpc": 0}
        self.has_cut = False
        self._all_ended = asyncio.Event()
        self._refuses_at = self._ends_at = float("inf")  # on the loop's clock

    @property
    def has_begun(self) -> bool:
        return self._ends_at < float("inf")

    @property
    def seconds_left(self) -> float:
        """Seconds left of the grace period; all of it before the beginning."""
        return max(0.0, self._ends_at - asyncio.get_running_loop().time()) if self.has_begun else self._grace

    def start(self) -> None:
        """Refuse new calls soon, and end those in flight after the grace period. Only the first call counts."""
        if self.has_begun:
            return
        loop = asyncio.get_running_loop()
        self._refuses_at, self._ends_at = loop.time() + self._accepting, loop.time() + self._grace
        for limit in self._limits:
            limit.reschedule(self._ends_at)
        if self._accepting:
            loop.call_at(self._refuses_at, self._end_receiving)
        else:
            self._end_receiving()

    def _end_receiving(self) -> None:
        for waiting in self._receiving:
            waiting.end()

    def raise_if_draining(self) -> None:
        """Raise ShuttingDown if new calls are refused."""
        if self.has_begun and asyncio.get_running_loop().time() >= self._refuses_at:
            raise ShuttingDown

    @asynccontextmanager
    async def track(self) -> AsyncIterator[None]:
        """Track one call, in the task that runs it, as a context manager.

        Raises:
            ShuttingDown: Before the call, or instead of its result when the grace period is over.
        """
        self.raise_if_draining()
        try:
            async with asyncio.timeout_at(self._ends_at if self.has_begun else None) as limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise ShuttingDown from None

    def receiving(self) -> "Receiving":
        """Return a context manager around the wait for a request's body or message.

        It ends the wait with ShuttingDown when new calls are refused, because the rest may never arrive.
        """
        self.raise_if_draining()
        return Receiving(self._receiving)

    def enter(self, protocol: str, request: asyncio.Task[Any] | None = None) -> None:
        """Count a request or RPC as in flight until `leave`, even if it is refused.

        Args:
            request: The request's task, which `finished` cancels if it does not end in time. Not given for RPCs: the
                gRPC server ends them.
        """
        self.in_flight[protocol] += 1
        if request is not None:
            self._requests.add(request)

    def leave(self, protocol: str, request: asyncio.Task[Any] | None = None) -> None:
        """Count a request or RPC as ended."""
        self.in_flight[protocol] -= 1
        if request is not None:
            self._requests.discard(request)
        if not self.in_flight[protocol]:
            self._all_ended.set()

    async def refusing(self) -> None:
        await asyncio.sleep(self._refuses_at - asyncio.get_running_loop().time())

    async def finished(self, extra: float) -> None:
        """Wait until no call is in flight and new ones are refused.

        After the grace period calls get `extra` seconds to end. Then requests are cancelled. Otherwise a client that
        does not read would keep its request open, and the request's log line and span would be lost.
        """
        await self.refusing()
        # Two waits: if a busy loop notices the end of the grace period late, `extra` is still complete.
        if await self._all_left(self.seconds_left) or await self._all_left(extra):
            return
        self.has_cut = True
        for task in self._requests:
            task.cancel()
        await self._all_left(CUT_SECONDS)

    async def _all_left(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(self.in_flight.values()):
                    self._all_ended.clear()
                    await self._all_ended.wait()
        return not any(self.in_flight.values())


class Receiving:
    """One wait for a request's body or message. Cheaper than `asyncio.timeout`, because every request has one."""

    __slots__ = ("_all", "_cancelling", "_has_ended", "_task")

    def __init__(self, all_of_them: "set[Receiving]") -> None:
        self._all = all_of_them
        self._has_ended = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("waiting for a request needs a task")
        self._task, self._cancelling = task, task.cancelling()
        self._all.add(self)

    def end(self) -> None:
        self._has_ended = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._all.discard(self)
        # If others cancelled the task too, the cancellation must survive.
        if self._has_ended and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ShuttingDown from None
