"""Runs the flows for both adapters: once for the whole answer, or chunk by chunk."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from genkit import Action, Genkit
from pydantic import BaseModel

from src.errors import as_service_error
from src.flows import Flows
from src.operations import OPERATIONS, Operation

MAX_WAITING_CHUNKS = 64


class Runner:
    """The operations' flows, registered with Genkit under their names.

    Args:
        ai: Where the flows are registered.
        flows: The object whose methods they are.
    """

    def __init__(self, ai: Genkit, flows: Flows) -> None:
        self._actions: dict[str, Action[Any, Any, Any]] = {
            operation.name: ai.flow(name=operation.name, chunk_type=str)(getattr(flows, operation.name))
            for operation in OPERATIONS
        }

    async def run(
        self, operation: Operation, input: BaseModel, on_text: Callable[[str], None] | None = None
    ) -> BaseModel:
        """The flow's answer; of a streamed flow `on_text` gets each chunk before it. Cancelling ends the LLM call.

        Raises:
            ServiceError: whatever went wrong, as the table of errors has it.
        """
        try:
            result = await self._actions[operation.name].run(input, on_chunk=on_text)
        except Exception as error:
            raise as_service_error(error)  # noqa: B904 - it carries its own cause; Genkit's wrapper says nothing more
        output: BaseModel = result.response
        return output

    async def stream(self, operation: Operation, input: BaseModel) -> AsyncGenerator[str | BaseModel, None]:
        """Each chunk's text, and last the whole answer. Closing the generator ends the LLM call.

        The flow runs in a task that this generator owns: Genkit's own `flow.stream()` leaves its task running
        when the consumer has gone.

        Raises:
            ServiceError: as `run`, after the chunks that came before the failure.
        """
        chunks = Chunks()
        task = asyncio.create_task(self.run(operation, input, chunks.put))
        task.add_done_callback(lambda _: chunks.close())
        try:
            async for text in chunks:
                yield text
            yield await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Chunks(AsyncIterator[str]):
    """A queue of texts between a flow, which cannot wait, and a client, which may be slow.

    It holds at most `MAX_WAITING_CHUNKS` entries: beyond that a new text is joined to the last one, so nothing is
    lost and a slow reader gets larger chunks.
    """

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, text: str) -> None:
        """Add a text; never blocks."""
        if len(self._waiting) < MAX_WAITING_CHUNKS:
            self._waiting.append(text)
        else:
            self._waiting[-1] += text
        self._changed.set()

    def close(self) -> None:
        """No more texts will come; those waiting are still handed out."""
        self._closed = True
        self._changed.set()

    async def __anext__(self) -> str:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft()
