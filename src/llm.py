"""Every LLM call of the service goes through `Llm`: here a silent failure becomes an exception.

Genkit does not raise when a model call fails: it returns a response whose `finish_reason` and `error` tell so. A
caller of this module gets a usable response or one of the exceptions of `src.errors`.
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
from src.caller import current_caller
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
from src.json_format import JSON_FORMAT, define_json_format
from src.marks import collecting_marks, mark_truncated
from src.prompt import CallerText, Image, Instruction, PromptFile, UserPart
from src.request_guard import check_request
from src.util.locals import forget_locals
from src.util.text import well_formed

log = structlog.get_logger(__name__)

T = TypeVar("T")
OutputT = TypeVar("OutputT", bound=BaseModel)

USABLE = (FinishReason.STOP, FinishReason.LENGTH, None)  # the Ollama plugin never gives a reason
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
# The statuses that Genkit makes of HTTP's 4xx, but 401, 403, 404, 408 and 429: they come from what was asked.
REJECTIONS = frozenset({"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE", "ALREADY_EXISTS", "ABORTED"}) | {
    "CANCELLED",
    "UNKNOWN",
}
BY_ANSWER = (RuntimeErrorReason.INVALID_OUTPUT, RuntimeErrorReason.TOOL_NOT_FOUND)  # the model's answer is to blame
MAX_TOOL_ROUNDS = 5  # Genkit's default lets one request make 51 paid calls


@dataclass(slots=True)
class LlmCall:
    """Figures of one call, complete when it has ended."""

    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str = ""

    def note(self, response: ModelResponse[Any]) -> None:
        """Take over what the response tells."""
        self.finish_reason = str(response.finish_reason or "")
        if response.usage is not None:
            self.input_tokens = _tokens(response.usage.input_tokens)
            self.output_tokens = _tokens(response.usage.output_tokens)


def _tokens(count: float | None) -> int:
    """Return a provider's count, or 0 where it is none: metrics and spans refuse others, and would lose the answer."""
    return int(count) if count is not None and 0 <= count < 2**63 else 0


# Encloses a call; what it gets is filled in before it ends.
Watcher = Callable[[LlmCall], AbstractContextManager[None]]


class Llm:
    """The chosen model behind a bulkhead, a circuit breaker and a wall-clock limit, in this order.

    Args:
        ai: The Genkit instance whose default model is called.
        timeout: Seconds one call may take, its tool rounds and all chunks of a stream included.
        bulkhead: Bounds the calls under way.
        breaker: Refuses calls while the model fails; None: never.
        watchers: Each encloses every call that is made, for metrics and traces.
    """

    def __init__(
        self,
        ai: Genkit,
        *,
        timeout: float,
        bulkhead: Bulkhead,
        breaker: CircuitBreaker | None,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self._ai = ai
        self._watchers = watchers
        self._timeout = timeout
        self._bulkhead = bulkhead
        self._breaker = breaker
        self._files: dict[PromptFile, list[Message]] = {}
        define_json_format(ai)

    def tool(self, function: Callable[..., Any]) -> Tool:
        """Make a function known as a tool: its name, docstring and annotations are what the model reads of it."""
        return self._ai.tool(name=function.__name__)(function)

    async def step(self, name: str, function: Callable[[], Awaitable[T]]) -> T:
        """Run a function as a traced step of the current flow. Its result must be JSON, for the span."""
        return await self._ai.run(name=name, fn=function)

    async def text(self, system: Instruction, *user: UserPart, on_text: Callable[[str], None] | None = None) -> str:
        """Return the model's answer, never empty; one that was cut off is marked so. `on_text` gets each chunk of it.

        Args:
            system: The system prompt.
            user: The parts of the one user message, in this order.

        Raises:
            ModelFailed, ContentBlocked, TimedOut, CircuitOpen, Overloaded: as the table of errors says.
            TypeError: a part is none of `src.prompt`, a string for example.
        """
        state = _CallState(_messages(system, user), on_text)
        response = await self._call(state)
        if state.truncated:
            mark_truncated()
        return well_formed(response.text)

    async def structured(
        self, schema: type[OutputT], system: Instruction, *user: UserPart, tools: Sequence[Tool] = ()
    ) -> OutputT:
        """Return the model's answer as an instance of `schema`. A broken schema is ModelFailed."""
        return await self._structured(schema, _messages(system, user), tools)

    async def from_prompt_file(self, schema: type[OutputT], file: PromptFile, *user: UserPart) -> OutputT:
        """As `structured`, with the system prompt and the beginning of the user message from a Dotprompt file."""
        messages = await self._rendered(file)
        parts = [*messages[-1].content, *_user_parts(user)]
        return await self._structured(schema, [*messages[:-1], Message(role=Role.USER, content=parts)])

    async def _rendered(self, file: PromptFile) -> list[Message]:
        """Render the file once: it holds nothing that changes."""
        messages = self._files.get(file)
        if messages is None:
            options = await self._ai.prompt(file.name).render()
            messages = self._files[file] = [Message.model_validate(each) for each in options.messages]
        return messages

    async def _structured(self, schema: type[OutputT], messages: list[Message], tools: Sequence[Tool] = ()) -> OutputT:
        state = _CallState(messages, schema=schema, tools=tools)
        await self._call(state)
        return cast("OutputT", state.output)

    async def _call(self, state: "_CallState") -> ModelResponse[Any]:
        async with self._bulkhead.place():
            with (
                self._breaker.call(current_caller().share_key) if self._breaker else nullcontext(),
                ExitStack() as watching,
            ):
                call = LlmCall()
                for watcher in self._watchers:
                    watching.enter_context(watcher(call))
                return await self._bounded(state, call)

    async def _bounded(self, state: "_CallState", call: LlmCall) -> ModelResponse[Any]:
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
            state.output = response.output  # which Genkit reads and checks anew each time
            if state.truncated or not isinstance(state.output, state.schema):
                raise AnswerUnusable
        return response

    async def _generate(self, state: "_CallState") -> ModelResponse[Any]:
        # Never `prompt=` or `system=`: Genkit compiles a string there as a template. Messages are taken as they are.
        if state.schema is None:
            return await self._ai.generate(messages=state.messages, use=[_Call()])
        return await self._ai.generate(
            messages=state.messages,
            output_schema=state.schema,
            output_format=JSON_FORMAT,
            tools=state.tools,
            max_turns=MAX_TOOL_ROUNDS,
            use=[_Call()],
        )


def _messages(system: Instruction, user: Sequence[UserPart]) -> list[Message]:
    if not isinstance(system, Instruction):
        raise TypeError(f"a system prompt is an Instruction, not {type(system).__name__}")
    return [
        Message(role=Role.SYSTEM, content=[Part(text=system.value)]),
        Message(role=Role.USER, content=_user_parts(user)),
    ]


def _user_parts(user: Sequence[UserPart]) -> list[Part]:
    """Genkit's parts. Providers refuse an empty text, so there is no part for one."""
    return [_part(each) for each in user if each != CallerText("")]


def _part(part: UserPart) -> Part:
    match part:
        case CallerText():
            return Part(text=part.text)
        case Image():
            return Part(media=Media(url=part.url, content_type=part.media_type))
        case Instruction():
            # Some providers' plugins join the texts of a message without anything between them.
            return Part(text=f"\n{part.value}\n")
        case _:
            raise TypeError(
                f"a part of a prompt is an Instruction, a CallerText or an Image, not {type(part).__name__}"
            )


@dataclass(slots=True)
class _CallState:
    """One call: what it asks, where its chunks go, and what became known of its output and failure.

    Attributes:
        failure: What the model raised, or why a request was not sent to it.
        truncated: The answer was cut off at the limit of tokens.
    """

    messages: list[Message]
    on_text: Callable[[str], None] | None = None
    schema: type[BaseModel] | None = None
    tools: Sequence[Tool] = ()
    output: Any = None
    failure: Exception | None = None
    truncated: bool = False


# Genkit copies middleware for each call, so a call's state can't be kept on it.
_current_call: ContextVar[_CallState] = ContextVar("current_call")


class _Call(BaseMiddleware[Any]):
    """Streams a call's chunks in the caller's own task, and keeps what Genkit's response does not tell of a failure.

    Genkit's `generate_stream` runs the call in a task of its own, which outlives a caller who has left.
    """

    async def wrap_generate(
        self,
        params: GenerateHookParams,
        ctx: GenerateMiddlewareContext,
        next_fn: Callable[[GenerateHookParams, GenerateMiddlewareContext], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        on_text = _current_call.get().on_text
        if on_text is not None:
            ctx.replace_on_chunk(lambda chunk: on_text(well_formed(chunk.text)) if chunk.text else None)
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
            state.failure = error  # of what is raised here, Genkit's response tells no more than the message
            raise


def raise_for_failure(response: ModelResponse[Any], failure: Exception | None = None) -> None:
    """Turn what Genkit only notes on the response into an exception, and log what the provider said.

    Args:
        failure: What the model raised.

    Raises:
        ContentBlocked: the model or a safety filter refused.
        TimedOut: the provider ran into its own deadline.
        UpstreamTimedOut: the provider waited too long for the request.
        RequestRejected: the provider refused the request as invalid.
        AnswerUnusable: an answer that breaks the schema, an empty one, one that can't be read, or a stream that ended
            without saying why.
        ModelFailed: anything else that leaves no usable answer: an upstream error, no connection.
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
    """Seconds for which the provider asked to be left alone."""
    metadata = failure.response_metadata if isinstance(failure, GenkitError) else None
    return 0.0 if metadata is None else metadata["retry_after_ms"] / 1000


def _is_unreadable(failure: BaseException | None) -> bool:
    """Return True if the answer can't be read, or a plugin found nothing in it."""
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
    # SDKs have it as the one or the other.
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
        # It may quote prompt or answer, which belong in no log but one that was asked for.
        log.debug("what the provider said", message=error.message)
