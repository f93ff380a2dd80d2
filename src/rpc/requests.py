"""Read the requests of RPCs, with limits on time and number of messages."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from src.errors import PayloadTooLarge, ShuttingDown
from src.rpc.errors import Context
from src.rpc.hooks import PROBE_METHODS, Rpc, caller_key
from src.util.deadlines import Deadline

MAX_PROBE_BYTES = 256  # a probe's message, the name of a service
MAX_WAITING_PROBES = 100  # of one client
MAX_MESSAGES = 1000  # of one stream of requests

Reader: TypeAlias = Callable[[Context, Rpc, Deadline], Awaitable[Any]]


class RequestReaders:
    """Makes readers of requests, and tracks the RPCs that wait for their first message."""

    def __init__(self) -> None:
        self._waiting: set[Deadline] = set()
        self._probes: dict[str, dict[Deadline, None]] = {}  # the probes among them, by client, oldest first
        self.is_stopping = False

    def stop(self) -> None:
        """End the RPCs that wait for their first message; they are not in flight yet."""
        self.is_stopping = True
        for deadline in self._waiting:
            deadline.expire()

    def reader(self, handler: Any, method: str) -> Reader:
        """Return a function that reads the handler's argument: one message, or an iterator over all.

        It parses the messages itself, because grpc would send clients the text of a parser's exception, and not log it.
        """
        is_probe = method in PROBE_METHODS

        def parse(message: bytes) -> Any:
            if is_probe and len(message) > MAX_PROBE_BYTES:
                raise PayloadTooLarge
            try:
                return handler.request_deserializer(message) if handler.request_deserializer else message
            except Exception:
                raise DecodeError from None

        async def first(context: Context, rpc: Rpc, deadline: Deadline) -> Any:
            if not is_probe:
                return await self._first_message(context, deadline)
            with self._place(caller_key(rpc), deadline):
                return await context.read()

        async def one(context: Context, rpc: Rpc, deadline: Deadline) -> Any:
            message = await first(context, rpc, deadline)
            if message is grpc.aio.EOF:
                raise DecodeError("no message")
            return parse(message)

        async def each(context: Context, rpc: Rpc, deadline: Deadline) -> AsyncIterator[Any]:
            message = await first(context, rpc, deadline)
            for _ in range(MAX_MESSAGES):
                if message is grpc.aio.EOF:
                    return
                yield parse(message)
                message = await context.read()
            if message is not grpc.aio.EOF:
                raise PayloadTooLarge

        async def all_of_them(context: Context, rpc: Rpc, deadline: Deadline) -> AsyncIterator[Any]:
            return each(context, rpc, deadline)

        return all_of_them if handler.request_streaming else one

    async def _first_message(self, context: Context, deadline: Deadline) -> Any:
        if self.is_stopping:
            raise ShuttingDown
        self._waiting.add(deadline)
        try:
            return await context.read()
        finally:
            self._waiting.discard(deadline)

    @contextmanager
    def _place(self, client: str, deadline: Deadline) -> Iterator[None]:
        """Track the wait for a probe's message, as a context manager.

        Beyond the maximum, the client's oldest probe ends. No new probe is refused for their number, because an honest
        probe sends its message at once.
        """
        waiting = self._probes.setdefault(client, {})
        waiting[deadline] = None
        if len(waiting) > MAX_WAITING_PROBES:
            next(other for other in waiting if not other.expired).expire()
        self._waiting.add(deadline)
        try:
            yield
        finally:
            self._waiting.discard(deadline)
            del waiting[deadline]
            if not waiting:
                del self._probes[client]
