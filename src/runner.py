"""Run the flows for both adapters: once for the whole output, or chunk by chunk."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from genkit import Action, Genkit
from pydantic import BaseModel

from src.cache import CacheUse, FlowCache
from src.callers.caller import current_caller
from src.drain import Drain
from src.errors import as_service_error
from src.marks import Marks, collecting_marks
from src.operations import OPERATIONS, Operation
from src.util.hash import cache_key
from src.util.locals import forget_locals
from src.util.memory import memory_of

MAX_WAITING_CHUNKS = 64
RESULT_BYTES = 256  # per result and per form, beside their content


class EncodedOutput:
    """A flow's output, its marks, and its serialized forms, each made once when first needed.

    Args:
        on_growth: Called with the result when it has a new form.

    Attributes:
        marks: Marks of the output, which are cached with it.
    """

    __slots__ = ("_forms", "_on_growth", "_output", "marks")

    def __init__(
        self, output: BaseModel, marks: Marks, on_growth: "Callable[[EncodedOutput], None]" = lambda _: None
    ) -> None:
        self._output = output
        self.marks = marks
        self._on_growth = on_growth
        self._forms: dict[Callable[[Any], bytes], bytes] = {}

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, with the output and all forms."""
        return memory_of(self._output) + sum(RESULT_BYTES + len(form) for form in self._forms.values()) + RESULT_BYTES

    def encoded(self, encode: Callable[[Any], bytes]) -> bytes:
        """Return the output as `encode` serializes it, and remember that form. Each form needs one fixed function."""
        form = self._forms.get(encode)
        if form is None:
            form = self._forms[encode] = encode(self._output)
            self._on_growth(self)
        return form

    def text(self, operation: Operation) -> dict[str, str]:
        """Return the field of the output that a streamed operation's chunks add up to."""
        field = operation.text_field or ""
        return {field: getattr(self._output, field)}


class Run(NamedTuple):
    """A result and its use of the cache; None if the cache was not used."""

    result: EncodedOutput
    cache_use: CacheUse | None


Wait: TypeAlias = Callable[[Coroutine[Any, Any, Run]], Awaitable[Run]]


class Runner:
    """The operations' flows, registered with Genkit under their names.

    Args:
        ai: The Genkit instance for the flows.
        flows: The object whose methods are the flows.
        model: The LLM's name, a part of cache keys.
        cache: The cache for operations that allow caching; None disables it.
        drain: Refuses and ends calls when the process stops.

    Attributes:
        receiving: Returns a context manager for waiting for a request's body, see `Drain.receiving`.
    """

    def __init__(
        self, ai: Genkit, flows: object, *, model: str, cache: FlowCache[EncodedOutput] | None, drain: Drain
    ) -> None:
        self._actions: dict[str, Action[Any, Any, Any]] = {
            operation.name: ai.flow(name=operation.name, chunk_type=str)(getattr(flows, operation.name))
            for operation in OPERATIONS
        }
        self._model = model
        self._cache = cache
        self._drain = drain
        self.receiving = drain.receiving

    async def run(self, operation: Operation, input: BaseModel, wait: Wait = lambda work: work) -> Run:
        """Return the flow's result, cached if the operation allows it.

        Cancelling ends the LLM call, unless other callers wait for it.

        Args:
            wait: Awaits the call unless the result is cached, for example until the client disconnects.

        Raises:
            ServiceError: Any failure, as in the table of errors.
        """
        self._drain.raise_if_draining()
        if self._cache is None or not operation.cached:
            return await wait(self._call(operation, input))
        key = cache_key(operation.name, self._model, input, scope=current_caller().scope)
        cached = self._cache.get(key)
        if cached is not None:
            return Run(cached, CacheUse.HIT)
        return await wait(self._call_once(self._cache, key, operation, input))

    async def _call(self, operation: Operation, input: BaseModel) -> Run:
        async with self._drain.track():
            return Run(await self._result(operation, input), None)

    async def _call_once(
        self, cache: FlowCache[EncodedOutput], key: str, operation: Operation, input: BaseModel
    ) -> Run:
        async def call() -> EncodedOutput:
            return await self._result(operation, input, on_growth=partial(cache.resized, key))

        async with self._drain.track():
            return Run(*await cache.get_or_call(key, call))

    async def _result(
        self,
        operation: Operation,
        input: BaseModel,
        on_text: Callable[[str], None] | None = None,
        on_growth: Callable[[EncodedOutput], None] = lambda _: None,
    ) -> EncodedOutput:
        try:
            with collecting_marks() as marks:
                result = await self._actions[operation.name].run(input, on_chunk=on_text)
        except BaseException as error:
            forget_locals(error)
            if not isinstance(error, Exception):
                raise
            raise as_service_error(error)  # noqa: B904 - it carries its own cause; Genkit's wrapper adds nothing
        return EncodedOutput(result.response, marks, on_growth)

    def sending(self) -> AbstractAsyncContextManager[None]:
        """Track the sending of a stream, as a context manager. A slow client can prolong it beyond the end of the flow.

        Raises:
            ShuttingDown: As for the flow.
        """
        return self._drain.track()

    def stream(
        self, operation: Operation, input: BaseModel, keep_alive: "KeepAlive | None" = None
    ) -> AsyncGenerator[str | EncodedOutput, None]:
        """Return a generator of each chunk's text, then the whole result. Closing it ends the LLM call.

        The flow runs in a task that the generator owns: Genkit's own `flow.stream()` leaves its task running when the
        consumer stops.

        Raises:
            ShuttingDown: New calls are refused.
            ServiceError: As in `run`; by the generator, after the chunks before the failure.
        """
        self._drain.raise_if_draining()
        return self._stream(operation, input, keep_alive)

    async def _stream(
        self, operation: Operation, input: BaseModel, keep_alive: "KeepAlive | None"
    ) -> AsyncGenerator[str | EncodedOutput, None]:
        chunks = ChunkQueue(keep_alive)
        task = asyncio.create_task(self._streamed(operation, input, chunks))
        task.add_done_callback(lambda _: chunks.close())
        try:
            async for text in chunks:
                yield text
            yield await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _streamed(self, operation: Operation, input: BaseModel, chunks: "ChunkQueue") -> EncodedOutput:
        async with self._drain.track():
            return await self._result(operation, input, chunks.put)


class KeepAlive(NamedTuple):
    """Awaits `send` each time a stream has been silent for this many seconds."""

    seconds: float
    send: Callable[[], Awaitable[None]]


class ChunkQueue(AsyncIterator[str]):
    """A queue of texts from a flow, which must not wait, to a client, which may be slow.

    It holds at most `MAX_WAITING_CHUNKS` entries. Beyond that, a new text is appended to the last entry, so nothing is
    lost and a slow client gets larger chunks.
    """

    def __init__(self, keep_alive: KeepAlive | None = None) -> None:
        self._keep_alive = keep_alive
        self._waiting: deque[str] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, text: str) -> None:
        """Add a text. Never blocks."""
        if len(self._waiting) < MAX_WAITING_CHUNKS:
            self._waiting.append(text)
        else:
            self._waiting[-1] += text
        self._changed.set()

    def close(self) -> None:
        """Mark the end of the texts. Waiting ones are still delivered."""
        self._closed = True
        self._changed.set()

    async def __anext__(self) -> str:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._until_changed()
        return self._waiting.popleft()

    async def _until_changed(self) -> None:
        if self._keep_alive is None:
            await self._changed.wait()
            return
        while not self._changed.is_set():
            try:
                async with asyncio.timeout(self._keep_alive.seconds):
                    await self._changed.wait()
            except TimeoutError:
                await self._keep_alive.send()
