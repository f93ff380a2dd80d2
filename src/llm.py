"""Every LLM call of the service goes through `Llm`: here a silent failure becomes an exception.

Genkit does not raise when a model call fails: it returns a response whose `finish_reason` and `error` tell so. A
caller of this module gets a usable response or one of the exceptions of `src.errors`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import structlog
from genkit import FinishReason, Genkit, ModelResponse, Part, RuntimeErrorReason, Tool
from genkit.middleware import BaseMiddleware, GenerateHookParams, GenerateMiddlewareContext
from pydantic import BaseModel

from src.errors import ContentBlocked, ModelFailed, TimedOut

log = structlog.get_logger(__name__)

OutputT = TypeVar("OutputT", bound=BaseModel)

USABLE = (FinishReason.STOP, FinishReason.LENGTH, None)  # the Ollama plugin never gives a reason
MAX_LOGGED_CHARS = 300
MAX_TOOL_ROUNDS = 5  # Genkit's default lets one request make 51 paid calls


class Llm:
    """The chosen model behind a wall-clock limit.

    Args:
        ai: The Genkit instance whose default model is called.
        timeout: Seconds one call may take, its tool rounds and all chunks of a stream included.
    """

    def __init__(self, ai: Genkit, *, timeout: float) -> None:
        self._ai = ai
        self._timeout = timeout

    async def text(
        self, prompt: str | list[Part], *, system: str | None = None, on_text: Callable[[str], None] | None = None
    ) -> str:
        """The model's answer as text, never empty; `on_text` gets each chunk of it as it comes.

        Raises:
            ModelFailed, ContentBlocked, TimedOut: as the table of errors says.
        """
        if on_text is None:
            return (await self._call(lambda: self._ai.generate(prompt=prompt, system=system))).text
        token = _sink.set(on_text)
        try:
            generate = partial(self._ai.generate, prompt=prompt, system=system, use=[_Streaming()])
            return (await self._call(generate)).text
        finally:
            _sink.reset(token)

    async def structured(self, prompt: str, schema: type[OutputT], *, tools: list[Tool] | None = None) -> OutputT:
        """The model's answer as an instance of `schema`. Raises as `text` does; a broken schema is ModelFailed."""
        return _output(
            schema,
            await self._call(
                lambda: self._ai.generate(prompt=prompt, output_schema=schema, tools=tools, max_turns=MAX_TOOL_ROUNDS)
            ),
        )

    async def from_prompt_file(self, name: str, variables: dict[str, Any], schema: type[OutputT]) -> OutputT:
        """As `structured`, with the Dotprompt file `prompts/<name>.prompt` rendered with `variables`."""
        prompt = self._ai.prompt(name, output_schema=schema)
        return _output(schema, await self._call(lambda: prompt(variables)))

    async def _call(self, generate: Callable[[], Awaitable[ModelResponse[Any]]]) -> ModelResponse[Any]:
        try:
            async with asyncio.timeout(self._timeout):
                response = await generate()
        except TimeoutError:
            raise TimedOut("The language model took longer than allowed.") from None
        raise_for_failure(response)
        return response


# Genkit copies middleware for each call, so what to stream to can't be kept on it.
_sink: ContextVar[Callable[[str], None]] = ContextVar("sink")


class _Streaming(BaseMiddleware[Any]):
    """Makes a `generate` call stream its chunks, in the caller's own task.

    Genkit's `generate_stream` runs the call in a task of its own, which outlives a caller who has left.
    """

    async def wrap_generate(
        self,
        params: GenerateHookParams,
        ctx: GenerateMiddlewareContext,
        next_fn: Callable[[GenerateHookParams, GenerateMiddlewareContext], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        on_text = _sink.get()
        ctx.replace_on_chunk(lambda chunk: on_text(chunk.text) if chunk.text else None)
        return await next_fn(params, ctx)


def _output(schema: type[OutputT], response: ModelResponse[Any]) -> OutputT:
    if not isinstance(response.output, schema):
        raise ModelFailed
    return response.output


def raise_for_failure(response: ModelResponse[Any]) -> None:
    """Turn what Genkit only notes on the response into an exception, and log what the provider said.

    Raises:
        ContentBlocked: the model or a safety filter refused.
        TimedOut: the provider itself ran into its deadline.
        ModelFailed: anything else that leaves no usable answer: an upstream error, an answer that breaks the
            schema, an empty one, or a stream that ended without saying why.
    """
    if response.error is None and response.finish_reason in USABLE and response.text.strip():
        return
    _log_failure(response)
    if response.finish_reason == FinishReason.BLOCKED or _is_refused_prompt(response):
        raise ContentBlocked
    if response.error is not None and response.error.status == "DEADLINE_EXCEEDED":
        raise TimedOut
    raise ModelFailed


def _is_refused_prompt(response: ModelResponse[Any]) -> bool:
    """Gemini answers a prompt that it blocks with the tokens it read and no candidate; Genkit drops its reason."""
    if response.error is not None and response.error.reason != RuntimeErrorReason.INVALID_OUTPUT:
        return False
    no_reason = response.finish_reason in (FinishReason.OTHER, FinishReason.UNKNOWN)
    has_read = response.usage is not None and bool(response.usage.input_tokens)
    return no_reason and has_read and not response.candidates and not response.text


def _log_failure(response: ModelResponse[Any]) -> None:
    error = response.error
    reason = error.reason if error is not None else None
    # Genkit's message about a broken schema quotes the answer, which does not belong in a log.
    said = error.message if error is not None and reason != RuntimeErrorReason.INVALID_OUTPUT else None
    log.warning(
        "model call failed",
        finish_reason=response.finish_reason,
        status=error.status if error is not None else None,
        reason=reason,
        provider_message=said and said[:MAX_LOGGED_CHARS],
    )
