"""The one guarded LLM call. It turns Genkit's silent failures into exceptions.

Genkit does not raise if a model call fails: it returns a response with `finish_reason` and `error`. `Llm` returns a
usable response or raises an exception of `src.errors`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar, cast

import structlog
from genkit import (
    FinishReason,
    Genkit,
    GenkitError,
    Media,
    Message,
    ModelResponse,
    Part,
    Role,
    RuntimeErrorReason,
    Tool,
)
from genkit.middleware import BaseMiddleware, GenerateHookParams, GenerateMiddlewareContext, ModelHookParams
from pydantic import BaseModel

from src.bulkhead import Bulkhead
from src.callers.caller import current_caller
from src.circuit_breaker import CircuitBreaker
from src.errors import (
    AnswerUnusable,
    ContentBlocked,
    ModelFailed,
    RequestRejected,
    ServiceError,
    TimedOut,
    UpstreamTimedOut,
)
from src.marks import collecting_marks, mark_truncated
from src.prompt import CallerText, Image, Instruction, PromptFile, UserPart
from src.providers.json_format import JSON_FORMAT, define_json_format
from src.request_guard import check_request
from src.util.locals import forget_locals
from src.util.surrogates import replace_lone_surrogates

log = structlog.get_logger(__name__)

T = TypeVar("T")
OutputT = TypeVar("OutputT", bound=BaseModel)

USABLE = (FinishReason.STOP, FinishReason.LENGTH, None)  # the Ollama plugin never gives a reason
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
# Genkit's statuses for HTTP's 4xx except 401, 403, 404, 408 and 429: the request caused them.
REJECTIONS = frozenset({"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE", "ALREADY_EXISTS", "ABORTED"}) | {
    "CANCELLED",
    "UNKNOWN",
}
BY_ANSWER = (RuntimeErrorReason.INVALID_OUTPUT, RuntimeErrorReason.TOOL_NOT_FOUND)  # the model's response caused it
MAX_TOOL_ROUNDS = 5  # Genkit's default lets one request make 51 paid calls


@dataclass(slots=True)
class LlmUsage:
    """Figures of one call, complete when it has ended."""

    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str = ""

    def note(self, response: ModelResponse[Any]) -> None:
        self.finish_reason = str(response.finish_reason or "")
        if response.usage is not None:
            self.input_tokens = _tokens(response.usage.input_tokens)
            self.output_tokens = _tokens(response.usage.output_tokens)


def _tokens(count: float | None) -> int:
    """Return a provider's token count, or 0 if it is invalid.

    Metrics and spans reject invalid counts, and the response would be lost.
    """
    return int(count) if count is not None and 0 <= count < 2**63 else 0


# A context manager around a call; the record that it gets is complete at its end.
LlmCallHook = Callable[[LlmUsage], AbstractContextManager[None]]


class Llm:
    """The chosen model behind a bulkhead, a circuit breaker and a wall-clock limit, in this order.

    Args:
        ai: The Genkit instance whose default model is called.
        timeout: Maximum seconds of a call, with its tool rounds and all chunks of a stream.
        bulkhead: Limits concurrent calls.
        breaker: Refuses calls while the model fails; None disables it.
        hooks: Context managers around every call, for metrics and traces.
    """

    def __init__(
        self,
        ai: Genkit,
        *,
        timeout: float,
        bulkhead: Bulkhead,
        breaker: CircuitBreaker | None,
        hooks: Sequence[LlmCallHook] = (),
    ) -> None:
        self._ai = ai
        self._hooks = hooks
        self._timeout = timeout
        self._bulkhead = bulkhead
        self._breaker = breaker
        self._files: dict[PromptFile, list[Message]] = {}
        define_json_format(ai)

    def tool(self, function: Callable[..., Any]) -> Tool:
        """Register a function as a tool. The model reads its name, docstring and annotations."""
        return self._ai.tool(name=function.__name__)(function)

    async def step(self, name: str, function: Callable[[], Awaitable[T]]) -> T:
        """Run a function as a traced step of the current flow. Its result must be JSON, for the span."""
        return await self._ai.run(name=name, fn=function)

    async def text(self, system: Instruction, *user: UserPart, on_text: Callable[[str], None] | None = None) -> str:
        """Return the model's response, never empty, marked if truncated. `on_text` gets each chunk.

        Args:
            system: The system prompt.
            user: The parts of the one user message, in this order.

        Raises:
            ModelFailed, ContentBlocked, TimedOut, CircuitOpen, Overloaded: See the table of errors.
            TypeError: A part is not a type of `src.prompt`, for example a string.
        """
        state = _CallContext(_messages(system, user), on_text)
        response = await self._call(state)
        if state.truncated:
            mark_truncated()
        return replace_lone_surrogates(response.text)

    async def structured(
        self, schema: type[OutputT], system: Instruction, *user: UserPart, tools: Sequence[Tool] = ()
    ) -> OutputT:
        """Return the model's response as an instance of `schema`. Raises ModelFailed if it violates the schema."""
        return await self._structured(schema, _messages(system, user), tools)

    async def from_prompt_file(self, schema: type[OutputT], file: PromptFile, *user: UserPart) -> OutputT:
        """Like `structured`, with the system prompt and the start of the user message from a Dotprompt file."""
        messages = await self._rendered(file)
        parts = [*messages[-1].content, *_user_parts(user)]
        return await self._structured(schema, [*messages[:-1], Message(role=Role.USER, content=parts)])

    async def _rendered(self, file: PromptFile) -> list[Message]:
        """Render the file once, because its content never changes."""
        messages = self._files.get(file)
        if messages is None:
            options = await self._ai.prompt(file.name).render()
            messages = self._files[file] = [Message.model_validate(each) for each in options.messages]
        return messages

    async def _structured(self, schema: type[OutputT], messages: list[Message], tools: Sequence[Tool] = ()) -> OutputT:
        state = _CallContext(messages, schema=schema, tools=tools)
        await self._call(state)
        return cast("OutputT", state.output)

    async def _call(self, state: "_CallContext") -> ModelResponse[Any]:
        async with self._bulkhead.slot():
            with (
                self._breaker.call(current_caller().share_key) if self._breaker else nullcontext(),
                ExitStack() as observing,
            ):
                call = LlmUsage()
                for hook in self._hooks:
                    observing.enter_context(hook(call))
                return await self._bounded(state, call)

    async def _bounded(self, state: "_CallContext", call: LlmUsage) -> ModelResponse[Any]:
        token = _current_call.set(state)
        try:
            with collecting_marks() as marks:
                async with asyncio.timeout(self._timeout):
                    response = await self._generate(state)
        except TimeoutError:
            raise TimedOut("The language model took longer than allowed.") from None
        finally:
            _current_call.reset(token)
            forget_locals(state.failure)
        if isinstance(state.failure, ServiceError):
            raise state.failure
        state.truncated = marks.truncated or response.finish_reason == FinishReason.LENGTH
        call.note(response)
        raise_for_failure(response, state.failure)
        if state.schema is not None:
            state.output = response.output  # which Genkit would load and validate for each call
            if state.truncated or not isinstance(state.output, state.schema):
                raise AnswerUnusable
        return response

    async def _generate(self, state: "_CallContext") -> ModelResponse[Any]:
        # Never `prompt=` or `system=`: Genkit compiles a string there as a template. Messages are taken as they are.
        if state.schema is None:
            return await self._ai.generate(messages=state.messages, use=[_StreamingMiddleware()])
        return await self._ai.generate(
            messages=state.messages,
            output_schema=state.schema,
            output_format=JSON_FORMAT,
            tools=state.tools,
            max_turns=MAX_TOOL_ROUNDS,
            use=[_StreamingMiddleware()],
        )


def _messages(system: Instruction, user: Sequence[UserPart]) -> list[Message]:
    if not isinstance(system, Instruction):
        raise TypeError(f"a system prompt is an Instruction, not {type(system).__name__}")
    return [
        Message(role=Role.SYSTEM, content=[Part(text=system.value)]),
        Message(role=Role.USER, content=_user_parts(user)),
    ]


def _user_parts(user: Sequence[UserPart]) -> list[Part]:
    """Return Genkit's parts. Empty texts are left out, because providers reject them."""
    return [_part(each) for each in user if each != CallerText("")]


def _part(part: UserPart) -> Part:
    match part:
        case CallerText():
            return Part(text=part.text)
        case Image():
            return Part(media=Media(url=part.url, content_type=part.media_type))
        case Instruction():
            # Some providers' plugins concatenate the texts of a message.
            return Part(text=f"\n{part.value}\n")
        case _:
            raise TypeError(
                f"a part of a prompt is an Instruction, a CallerText or an Image, not {type(part).__name__}"
            )


@dataclass(slots=True)
class _CallContext:
    """State of one call: its input, the receiver of its chunks, and what is known of its output and failure.

    Attributes:
        failure: The model's exception, or the reason why a request was not sent.
        truncated: True if the response was cut off at the token limit.
    """

    messages: list[Message]
    on_text: Callable[[str], None] | None = None
    schema: type[BaseModel] | None = None
    tools: Sequence[Tool] = ()
    output: Any = None
    failure: Exception | None = None
    truncated: bool = False


# Genkit copies middleware for each call, so a call's state can't be kept on it.
_current_call: ContextVar[_CallContext] = ContextVar("current_call")


class _StreamingMiddleware(BaseMiddleware[Any]):
    """Middleware that streams chunks in the caller's own task, and records failures that Genkit's response omits.

    Genkit's `generate_stream` runs the call in a task of its own, which outlives a disconnected caller.
    """

    async def wrap_generate(
        self,
        params: GenerateHookParams,
        ctx: GenerateMiddlewareContext,
        next_fn: Callable[[GenerateHookParams, GenerateMiddlewareContext], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        on_text = _current_call.get().on_text
        if on_text is not None:
            ctx.replace_on_chunk(lambda chunk: on_text(replace_lone_surrogates(chunk.text)) if chunk.text else None)
        return await next_fn(params, ctx)

    async def wrap_model(
        self,
        params: ModelHookParams,
        ctx: GenerateMiddlewareContext,
        next_fn: Callable[[ModelHookParams, GenerateMiddlewareContext], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        state = _current_call.get()
        try:
            check_request(params.request.messages, state.messages)
            for tool in params.request.tools or ():
                tool.input_schema = tool.input_schema or NO_ARGUMENTS  # OpenAI refuses an empty schema
            return await next_fn(params, ctx)
        except Exception as error:
            state.failure = error  # Genkit's response has only the exception's message
            raise


def raise_for_failure(response: ModelResponse[Any], failure: Exception | None = None) -> None:
    """Turn a failure in Genkit's response into an exception, and log the provider's reason.

    Args:
        failure: The model's exception.

    Raises:
        ContentBlocked: The model or a safety filter refused.
        TimedOut: The provider exceeded its own time limit.
        UpstreamTimedOut: The provider waited too long for the request.
        RequestRejected: The provider rejected the request as invalid.
        AnswerUnusable: The response violates the schema, is empty or unreadable, or is a stream that ended without a
            reason.
        ModelFailed: Any other failure, such as an upstream error or a failed connection.
    """
    if response.error is None and response.finish_reason in USABLE and response.text.strip():
        return
    _log_failure(response)
    if response.finish_reason == FinishReason.BLOCKED:
        raise ContentBlocked
    error = response.error
    if error is None or error.reason in BY_ANSWER or _is_unreadable(failure):
        raise AnswerUnusable
    if error.status == "DEADLINE_EXCEEDED":
        raise UpstreamTimedOut if _is_request_timeout(failure) else TimedOut
    if error.status in REJECTIONS:
        raise RequestRejected
    raise ModelFailed(upstream_wait=_upstream_wait(failure))


def _upstream_wait(failure: Exception | None) -> float:
    """Return the seconds that the provider asks to wait."""
    metadata = failure.response_metadata if isinstance(failure, GenkitError) else None
    return 0.0 if metadata is None else metadata["retry_after_ms"] / 1000


def _is_unreadable(failure: BaseException | None) -> bool:
    """Return True if the response can't be parsed, or a plugin found nothing in it."""
    if failure is None:
        return False
    if isinstance(failure, ValueError | RecursionError):  # a parser gave up
        return not isinstance(failure, OSError)  # a bad certificate is a ValueError too
    cause = failure.__cause__ or getattr(failure, "cause", None)
    if cause is not None:
        return _is_unreadable(cause)
    return isinstance(failure, GenkitError) and failure.status == "INTERNAL"  # a plugin's own, not one of its SDK


def _is_request_timeout(failure: BaseException | None) -> bool:
    """Return True if the provider's status was 408, which Genkit maps like 504."""
    cause = failure.__cause__ if failure is not None else None
    # SDKs use one or the other name.
    return HTTPStatus.REQUEST_TIMEOUT in (getattr(cause, "status_code", None), getattr(cause, "code", None))


def _log_failure(response: ModelResponse[Any]) -> None:
    error = response.error
    log.warning(
        "model call failed",
        finish_reason=response.finish_reason,
        status=error.status if error is not None else None,
        reason=error.reason if error is not None else None,
    )
    if error is not None:
        # It may quote the prompt or the response, which are logged at debug level only.
        log.debug("provider error", message=error.message)
