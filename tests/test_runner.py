"""Streams: nothing is lost, memory is bounded, and whoever leaves ends the work."""

import asyncio

import pytest
from genkit import ActionRunContext, FinishReason, Genkit, Message, ModelRequest, ModelResponse, Part, Role
from hypothesis import given
from hypothesis import strategies as st

from src.bulkhead import Bulkhead
from src.cache import FlowCache
from src.drain import Drain
from src.images.fetch import ImageFetcher
from src.llm import Llm
from src.prompt import PROMPTS
from src.runner import MAX_WAITING_CHUNKS, ChunkQueue, EncodedOutput, KeepAlive, Runner
from testing.small_service import OPERATIONS, Flows, ImageRequest, in_this_process


@given(texts=st.lists(st.text(min_size=1, max_size=5), max_size=300), read_first=st.integers(0, 300))
def test_a_slow_reader_gets_every_character_in_order(texts: list[str], read_first: int) -> None:
    async def scenario() -> list[str]:
        chunks = ChunkQueue()
        got: list[str] = []
        for text in texts:
            chunks.put(text)
            if len(got) < read_first:
                got.append(await anext(chunks))
        chunks.close()
        return got + [text async for text in chunks]

    assert "".join(asyncio.run(scenario())) == "".join(texts)


def test_what_waits_for_a_reader_is_bounded() -> None:
    chunks = ChunkQueue()
    for _ in range(10_000):
        chunks.put("x")
    chunks.close()

    async def read() -> list[str]:
        return [text async for text in chunks]

    assert len(asyncio.run(read())) == MAX_WAITING_CHUNKS


def test_a_fast_reader_gets_each_chunk_as_it_comes() -> None:
    async def scenario() -> list[str]:
        chunks = ChunkQueue()
        got = []
        for text in ("a", "b"):
            waiting = asyncio.create_task(anext(chunks))
            await asyncio.sleep(0)
            chunks.put(text)
            got.append(await waiting)
        return got

    assert asyncio.run(scenario()) == ["a", "b"]


def test_a_silent_stream_is_kept_alive_until_it_speaks() -> None:
    async def scenario() -> None:
        sent = asyncio.Queue[None]()
        chunks = ChunkQueue(KeepAlive(0.001, lambda: sent.put(None)))
        reading = asyncio.ensure_future(anext(chunks))
        for _ in range(3):
            await sent.get()
        assert not reading.done()
        chunks.put("at last")
        assert await reading == "at last"
        chunks.close()
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)

    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_a_stream_that_speaks_gets_no_comment() -> None:
    async def scenario() -> None:
        async def never() -> None:
            raise AssertionError

        chunks = ChunkQueue(KeepAlive(0.0, never))
        for text in ("a", "b"):
            chunks.put(text)
        chunks.close()
        assert [text async for text in chunks] == ["a", "b"]

    asyncio.run(scenario())


def test_a_stream_can_be_cancelled_while_it_is_silent() -> None:
    async def scenario() -> None:
        chunks = ChunkQueue(KeepAlive(60.0, lambda: asyncio.sleep(0)))
        reading = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_the_mark_of_a_text_that_was_cut_off_stays_with_it_in_the_cache() -> None:
    calls = []

    async def model(request: ModelRequest, ctx: ActionRunContext) -> ModelResponse:
        calls.append(request)
        message = Message(role=Role.MODEL, content=[Part(text="A dot, and")])
        return ModelResponse(message=message, finish_reason=FinishReason.LENGTH)

    ai = Genkit(model="test/model", prompt_dir=PROMPTS)
    ai.define_model(name="test/model", fn=model)
    flows = Flows(Llm(ai, timeout=5, bulkhead=Bulkhead(8), breaker=None), ImageFetcher())
    cache: FlowCache[EncodedOutput] = FlowCache(
        ttl=300, max_size=8, max_bytes=1 << 20, size_of=lambda result: result.size
    )
    with in_this_process():
        runner = Runner(ai, flows, model="test/model", cache=cache, drain=Drain(1))
    [describe_image] = [operation for operation in OPERATIONS if operation.flow is Flows.describe_image]

    async def scenario() -> list[bool]:
        return [(await runner.run(describe_image, ImageRequest())).result.marks.truncated for _ in range(2)]

    assert asyncio.run(scenario()) == [True, True]
    assert len(calls) == 1
