"""Every way a model can fail becomes one exception of the table of errors."""

import asyncio
from collections.abc import Awaitable, Callable
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

from src.bulkhead import Bulkhead
from src.circuit_breaker import CircuitBreaker
from src.errors import CircuitOpen, ContentBlocked, ModelFailed, RequestRejected, ServiceError, TimedOut
from src.llm import MAX_TOOL_ROUNDS, Llm
from src.prompt import PROMPTS, CallerText, PromptFile
from src.schemas import RpgCharacter
from tests.prompts import HELLO

ModelFn = Callable[[ModelRequest, ActionRunContext], Awaitable[ModelResponse]]

GOOD_CHARACTER = '{"name":"n","backStory":"b","abilities":["a"],"skills":{"strength":1,"charisma":2,"endurance":3}}'


def answer(text: str, finish_reason: FinishReason = FinishReason.STOP, read: int = 0) -> ModelResponse:
    return ModelResponse(
        message=Message(role=Role.MODEL, content=[Part(text=text)]),
        finish_reason=finish_reason,
        usage=ModelUsage(input_tokens=read),
    )


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
    ai = Genkit(model="test/model", prompt_dir=PROMPTS)
    ai.define_model(name="test/model", fn=model)
    return Llm(ai, timeout=timeout, bulkhead=Bulkhead(8), breaker=breaker)


WAYS: dict[str, Callable[[Llm], Awaitable[Any]]] = {
    "text": lambda llm: llm.text(*HELLO),
    "stream": lambda llm: llm.text(*HELLO, on_text=lambda _: None),
    "structured": lambda llm: llm.structured(RpgCharacter, *HELLO),
    "prompt file": lambda llm: llm.from_prompt_file(RpgCharacter, PromptFile("code_review"), CallerText("x")),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(raising(GenkitError(status="UNAVAILABLE", message="x")), ModelFailed, id="upstream error"),
        pytest.param(raising(GenkitError(status="RESOURCE_EXHAUSTED", message="x")), ModelFailed, id="upstream 429"),
        pytest.param(raising(GenkitError(status="INVALID_ARGUMENT", message="x")), RequestRejected, id="upstream 400"),
        pytest.param(raising(GenkitError(status="DEADLINE_EXCEEDED", message="x")), TimedOut, id="upstream deadline"),
        pytest.param(raising(RuntimeError("x")), ModelFailed, id="broken client"),
        pytest.param(answering("no", FinishReason.BLOCKED), ContentBlocked, id="blocked"),
        pytest.param(answering("", FinishReason.OTHER, read=7), ContentBlocked, id="prompt blocked"),
        pytest.param(answering("", FinishReason.UNKNOWN, read=7), ContentBlocked, id="prompt blocked, streamed"),
        pytest.param(answering("", FinishReason.OTHER), ModelFailed, id="an answer of nothing at all"),
        pytest.param(answering(""), ModelFailed, id="empty"),
        pytest.param(answering(" \n"), ModelFailed, id="blank"),
        pytest.param(answering(GOOD_CHARACTER, FinishReason.UNKNOWN), ModelFailed, id="no finish reason"),
        pytest.param(answering(GOOD_CHARACTER, FinishReason.OTHER), ModelFailed, id="other finish reason"),
    ],
)
def test_a_failed_call_raises(way: str, model: ModelFn, expected: type[ServiceError]) -> None:
    with pytest.raises(expected):
        asyncio.run(WAYS[way](llm_over(model)))  # type: ignore[arg-type]


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
    with pytest.raises(ModelFailed):
        asyncio.run(WAYS[way](llm_over(answering(text))))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["structured", "prompt file"])
def test_an_answer_that_fits_the_schema_is_returned(way: str) -> None:
    character: Any = asyncio.run(WAYS[way](llm_over(answering(GOOD_CHARACTER))))  # type: ignore[arg-type]
    assert character == RpgCharacter.model_validate_json(GOOD_CHARACTER)


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

    ai = Genkit(model="test/model", prompt_dir=PROMPTS)
    ai.define_model(name="test/model", fn=model)

    async def clock() -> str:
        """The time."""
        return "now"

    tool = ai.tool(name="clock")(clock)
    with pytest.raises(ModelFailed):
        asyncio.run(
            Llm(ai, timeout=5, bulkhead=Bulkhead(8), breaker=None).structured(RpgCharacter, *HELLO, tools=[tool])
        )
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


BAD = pytest.mark.parametrize(
    "model",
    [
        pytest.param(raising(GenkitError(status="UNAVAILABLE", message="x")), id="error"),
        pytest.param(hanging, id="timeout"),
        pytest.param(answering("no JSON"), id="broken schema"),
    ],
)


@BAD
def test_each_failure_of_the_model_counts_for_the_circuit(model: ModelFn) -> None:
    breaker = CircuitBreaker(failure_threshold=1, recovery_timeout=30)
    llm = llm_over(model, timeout=0.05, breaker=breaker)
    with pytest.raises((ModelFailed, TimedOut)):
        asyncio.run(llm.structured(RpgCharacter, *HELLO))
    with pytest.raises(CircuitOpen):
        asyncio.run(llm.structured(RpgCharacter, *HELLO))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(raising(GenkitError(status="INVALID_ARGUMENT", message="x")), id="a request the provider rejects"),
        pytest.param(answering("no", FinishReason.BLOCKED), id="blocked content"),
    ],
)
def test_what_is_the_callers_fault_does_not_count(model: ModelFn) -> None:
    llm = llm_over(model, breaker=CircuitBreaker(failure_threshold=1, recovery_timeout=30))
    for _ in range(2):
        with pytest.raises((RequestRejected, ContentBlocked)):
            asyncio.run(llm.text(*HELLO))


@pytest.mark.parametrize("way", WAYS)
def test_a_providers_retry_after_reaches_the_circuit(way: str) -> None:
    error = GenkitError(status="RESOURCE_EXHAUSTED", message="x", response_metadata={"retry_after_ms": 77_000})
    llm = llm_over(raising(error), breaker=CircuitBreaker(failure_threshold=1, recovery_timeout=30))
    with pytest.raises(ModelFailed):
        asyncio.run(WAYS[way](llm))  # type: ignore[arg-type]
    with pytest.raises(CircuitOpen) as caught:
        asyncio.run(WAYS[way](llm))  # type: ignore[arg-type]
    assert caught.value.retry_after == pytest.approx(77, abs=1)
