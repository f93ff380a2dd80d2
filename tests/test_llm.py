"""Every way a model can fail becomes one exception of the table of errors."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from genkit import (
    ActionRunContext,
    FinishReason,
    Genkit,
    GenkitError,
    Message,
    ModelRequest,
    ModelResponse,
    ModelUsage,
    Part,
    Role,
    ToolRequest,
)
from genkit.model import ModelResponseChunk
from genkit.plugin_api import wrap_http_error

from src.bulkhead import Bulkhead
from src.callers.caller import caller_at, set_caller
from src.circuit_breaker import CircuitBreaker
from src.errors import (
    AnswerUnusable,
    CircuitOpen,
    ContentBlocked,
    ModelFailed,
    RequestRejected,
    ServiceError,
    TimedOut,
    UpstreamTimedOut,
)
from src.llm import MAX_TOOL_ROUNDS, Llm, LlmUsage
from src.prompt import CallerText, PromptFile
from src.util.rate import Rate
from tests.models import Character
from tests.prompts import FILES, HELLO

pytestmark = pytest.mark.usefixtures("prompt_files")

ModelFn = Callable[[ModelRequest, ActionRunContext], Awaitable[ModelResponse]]

GOOD_CHARACTER = '{"name":"n","backStory":"b","abilities":["a"],"skills":{"strength":1,"charisma":2,"endurance":3}}'


def answer(text: str, finish_reason: FinishReason = FinishReason.STOP, read: int = 0) -> ModelResponse:
    return ModelResponse(
        message=Message(role=Role.MODEL, content=[Part(text=text)]),
        finish_reason=finish_reason,
        usage=ModelUsage(input_tokens=read),
    )


async def calling_an_unknown_tool(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
    part = Part(tool_request=ToolRequest(ref="1", name="nowhere", input=None))
    return ModelResponse(message=Message(role=Role.MODEL, content=[part]), finish_reason=FinishReason.STOP)


def answering(text: str, finish_reason: FinishReason = FinishReason.STOP, read: int = 0) -> ModelFn:
    async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
        return answer(text, finish_reason, read)

    return model


def raising(error: Exception) -> ModelFn:
    async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
        raise error

    return model


async def hanging(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def unguarded(ai: Genkit) -> Llm:
    return Llm(ai, timeout=5, bulkhead=Bulkhead(8), breaker=None)


def llm_over(model: ModelFn, timeout: float = 5.0, breaker: CircuitBreaker | None = None) -> Llm:
    ai = Genkit(model="test/model", prompt_dir=FILES)
    ai.define_model(name="test/model", fn=model)
    return Llm(ai, timeout=timeout, bulkhead=Bulkhead(8), breaker=breaker)


WAYS: dict[str, Callable[[Llm], Awaitable[Any]]] = {
    "text": lambda llm: llm.text(*HELLO),
    "stream": lambda llm: llm.text(*HELLO, on_text=lambda _: None),
    "structured": lambda llm: llm.structured(Character, *HELLO),
    "prompt file": lambda llm: llm.from_prompt_file(Character, PromptFile("review"), CallerText("x")),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(raising(GenkitError(status="UNAVAILABLE", message="x")), ModelFailed, id="upstream error"),
        pytest.param(raising(GenkitError(status="RESOURCE_EXHAUSTED", message="x")), ModelFailed, id="upstream 429"),
        pytest.param(raising(GenkitError(status="INVALID_ARGUMENT", message="x")), RequestRejected, id="upstream 400"),
        pytest.param(raising(GenkitError(status="DEADLINE_EXCEEDED", message="x")), TimedOut, id="upstream 504"),
        pytest.param(raising(ValueError("x")), AnswerUnusable, id="an answer that can't be read"),
        pytest.param(raising(RecursionError()), AnswerUnusable, id="an answer that is too deep"),
        pytest.param(calling_an_unknown_tool, AnswerUnusable, id="a tool that there is not"),
        pytest.param(raising(ssl.SSLCertVerificationError("x")), ModelFailed, id="a wrong certificate"),
        pytest.param(raising(RuntimeError("x")), ModelFailed, id="broken client"),
        pytest.param(answering("no", FinishReason.BLOCKED), ContentBlocked, id="blocked"),
        pytest.param(answering("", FinishReason.OTHER, read=7), AnswerUnusable, id="nothing, but the tokens it read"),
        pytest.param(answering("", FinishReason.UNKNOWN, read=7), AnswerUnusable, id="a stream that broke off at once"),
        pytest.param(answering("", FinishReason.OTHER), AnswerUnusable, id="an answer of nothing at all"),
        pytest.param(answering(""), AnswerUnusable, id="empty"),
        pytest.param(answering(" \n"), AnswerUnusable, id="blank"),
        pytest.param(answering(GOOD_CHARACTER, FinishReason.UNKNOWN), AnswerUnusable, id="no finish reason"),
        pytest.param(answering(GOOD_CHARACTER, FinishReason.OTHER), AnswerUnusable, id="other finish reason"),
    ],
)
def test_a_failed_call_raises(way: str, model: ModelFn, expected: type[ServiceError]) -> None:
    with pytest.raises(expected) as raised:
        asyncio.run(WAYS[way](llm_over(model)))  # type: ignore[arg-type]
    assert raised.type is expected


CONTENT_CANNOT_CAUSE = {401, 403, 404, 408, 429}
TIMEOUTS: dict[int, type[ServiceError]] = {408: UpstreamTimedOut, 504: TimedOut}


class StatusError(Exception):
    """A failure as the SDKs raise it."""

    def __init__(self, status: int) -> None:
        super().__init__("x")
        self.status_code = status


def test_only_a_timeout_and_a_4xx_that_a_request_can_cause_are_blamed_on_its_caller() -> None:
    asked: list[int] = []

    async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
        error = wrap_http_error(StatusError(asked[-1]), status_code=asked[-1])
        error.__cause__ = error.cause  # as plugins raise it
        raise error

    async def scenario() -> set[int]:
        llm = llm_over(model)  # one for all: to make it takes longer than to ask
        blamed = set()
        for status in range(400, 600):
            asked.append(status)
            with pytest.raises(TIMEOUTS.get(status, ModelFailed)) as raised:
                await llm.text(*HELLO)
            failure: Any = raised.value
            if failure.by_content:
                blamed.add(status)
        return blamed

    assert asyncio.run(scenario()) == {504, *range(400, 500)} - CONTENT_CANNOT_CAUSE


@pytest.mark.parametrize("count", [-1, float("inf"), float("nan"), None, 2.0**80])
def test_a_count_of_tokens_that_is_none_is_no_failure(count: float | None) -> None:
    seen: list[LlmUsage] = []

    @contextmanager
    def hook(call: LlmUsage) -> Iterator[None]:
        seen.append(call)
        yield

    async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
        response = answer("aye")
        response.usage = ModelUsage(input_tokens=count, output_tokens=7)
        return response

    ai = Genkit(model="test/model")
    ai.define_model(name="test/model", fn=model)
    llm = Llm(ai, timeout=5, bulkhead=Bulkhead(1), breaker=None, hooks=[hook])
    assert asyncio.run(llm.text(*HELLO)) == "aye"
    assert (seen[0].input_tokens, seen[0].output_tokens) == (0, 7)


@pytest.mark.parametrize("way", ["structured", "prompt file"])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("I would rather not.", id="no JSON"),
        pytest.param("{}", id="missing fields"),
        pytest.param(GOOD_CHARACTER.replace('"strength":1', '"strength":500'), id="beyond a limit"),
        pytest.param(GOOD_CHARACTER[:-3], id="cut off"),
    ],
)
def test_an_answer_that_breaks_the_schema_is_a_model_failure(way: str, text: str) -> None:
    with pytest.raises(AnswerUnusable):
        asyncio.run(WAYS[way](llm_over(answering(text))))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["structured", "prompt file"])
def test_an_answer_that_fits_the_schema_is_returned(way: str) -> None:
    character: Any = asyncio.run(WAYS[way](llm_over(answering(GOOD_CHARACTER))))  # type: ignore[arg-type]
    assert character == Character.model_validate_json(GOOD_CHARACTER)


def test_a_text_cut_by_the_models_own_limit_is_an_answer() -> None:
    assert asyncio.run(llm_over(answering("long", FinishReason.LENGTH)).text(*HELLO)) == "long"


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_hangs_ends_with_the_limit(way: str) -> None:
    with pytest.raises(TimedOut):
        asyncio.run(WAYS[way](llm_over(hanging, timeout=0.05)))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
def test_a_caller_who_leaves_ends_the_model_call(way: str) -> None:
    async def scenario() -> str:
        started, ended = asyncio.Event(), asyncio.Event()

        async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            raise AssertionError("unreachable")

        call = asyncio.ensure_future(WAYS[way](llm_over(model)))
        await started.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert ended.is_set()
        return "cancelled" if call.cancelled() else "finished"

    assert asyncio.run(scenario()) == "cancelled"


def test_the_chunks_of_a_stream_come_one_by_one() -> None:
    async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
        for text in ("one ", "", "two"):
            ctx.send_chunk(ModelResponseChunk(role=Role.MODEL, content=[Part(text=text)]))
        return answer("one two")

    chunks: list[str] = []
    assert asyncio.run(llm_over(model).text(*HELLO, on_text=chunks.append)) == "one two"
    assert chunks == ["one ", "two"]


def test_half_an_emoji_in_a_chunk_is_replaced() -> None:
    async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
        for text in ("a\ud83d", "\ude00"):
            ctx.send_chunk(ModelResponseChunk(role=Role.MODEL, content=[Part(text=text)]))
        return answer("a\U0001f600")

    chunks: list[str] = []
    assert asyncio.run(llm_over(model).text(*HELLO, on_text=chunks.append)) == "a\U0001f600"
    assert chunks == ["a\ufffd", "\ufffd"]


def test_a_stream_that_fails_midway_raises_after_its_chunks() -> None:
    async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
        ctx.send_chunk(ModelResponseChunk(role=Role.MODEL, content=[Part(text="one")]))
        raise GenkitError(status="UNAVAILABLE", message="x")

    chunks: list[str] = []
    with pytest.raises(ModelFailed):
        asyncio.run(llm_over(model).text(*HELLO, on_text=chunks.append))
    assert chunks == ["one"]


def test_a_model_that_asks_for_tools_for_ever_is_stopped() -> None:
    calls = []

    async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
        calls.append(1)
        part = Part(tool_request=ToolRequest(ref=str(len(calls)), name="clock", input=None))
        return ModelResponse(message=Message(role=Role.MODEL, content=[part]), finish_reason=FinishReason.STOP)

    ai = Genkit(model="test/model", prompt_dir=FILES)
    ai.define_model(name="test/model", fn=model)

    async def clock() -> str:
        """The time."""
        return "now"

    tool = ai.tool(name="clock")(clock)
    with pytest.raises(ModelFailed):
        asyncio.run(Llm(ai, timeout=5, bulkhead=Bulkhead(8), breaker=None).structured(Character, *HELLO, tools=[tool]))
    assert len(calls) == MAX_TOOL_ROUNDS + 1


@pytest.mark.parametrize("way", WAYS)
def test_a_caller_who_leaves_leaves_no_task_behind(way: str) -> None:
    async def scenario() -> set[asyncio.Task[Any]]:
        call = asyncio.ensure_future(WAYS[way](llm_over(hanging)))
        for _ in range(50):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(scenario()) == set()


async def ask(llm: Llm, address: str) -> None:
    set_caller(caller_at(address, Rate(1, 1)))
    await llm.structured(Character, *HELLO)


BY_CONTENT = [
    pytest.param(hanging, id="timeout"),
    pytest.param(answering("no JSON"), id="broken schema"),
    pytest.param(answering(""), id="empty"),
    pytest.param(raising(GenkitError(status="INVALID_ARGUMENT", message="x")), id="a request the provider rejects"),
    pytest.param(raising(UnicodeDecodeError("utf-8", b"x", 0, 1, "x")), id="unreadable"),
    pytest.param(raising(GenkitError(status="INTERNAL", message="No choices in completion.")), id="without choices"),
    pytest.param(raising(GenkitError(status="DEADLINE_EXCEEDED", message="x")), id="the provider's own timeout"),
]


def test_an_outage_counts_for_the_circuit_whoever_calls() -> None:
    llm = llm_over(
        raising(GenkitError(status="UNAVAILABLE", message="x")),
        breaker=CircuitBreaker(failure_threshold=2, recovery_timeout=30),
    )
    for expected in (ModelFailed, ModelFailed, CircuitOpen):
        with pytest.raises(expected):
            asyncio.run(ask(llm, "192.0.2.1"))


@pytest.mark.parametrize("model", BY_CONTENT)
def test_no_caller_alone_opens_the_circuit_and_two_do(model: ModelFn) -> None:
    llm = llm_over(model, timeout=0.01, breaker=CircuitBreaker(failure_threshold=2, recovery_timeout=30))
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"):
        with pytest.raises((ModelFailed, TimedOut)):
            asyncio.run(ask(llm, address))
    with pytest.raises(CircuitOpen):
        asyncio.run(ask(llm, "192.0.2.3"))


def test_the_addresses_of_a_48_are_one_caller_to_the_circuit() -> None:
    llm = llm_over(answering(""), breaker=CircuitBreaker(failure_threshold=2, recovery_timeout=30))
    for number in range(10):
        with pytest.raises(AnswerUnusable):
            asyncio.run(ask(llm, f"2001:db8:0:{number:x}::1"))


def test_blocked_content_does_not_count() -> None:
    llm = llm_over(
        answering("no", FinishReason.BLOCKED), breaker=CircuitBreaker(failure_threshold=1, recovery_timeout=30)
    )
    for number in range(3):
        with pytest.raises(ContentBlocked):
            asyncio.run(ask(llm, f"192.0.2.{number}"))


@pytest.mark.parametrize("way", WAYS)
def test_a_providers_retry_after_reaches_the_circuit(way: str) -> None:
    error = GenkitError(status="RESOURCE_EXHAUSTED", message="x", response_metadata={"retry_after_ms": 77_000})
    llm = llm_over(raising(error), breaker=CircuitBreaker(failure_threshold=1, recovery_timeout=30))
    with pytest.raises(ModelFailed):
        asyncio.run(WAYS[way](llm))  # type: ignore[arg-type]
    with pytest.raises(CircuitOpen) as caught:
        asyncio.run(WAYS[way](llm))  # type: ignore[arg-type]
    assert caught.value.retry_after == pytest.approx(77, abs=1)
