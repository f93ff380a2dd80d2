"""All that requests share and one client could hold: each has a share for a client, or a reason why it needs none."""

import ast
import asyncio
import gc
import json
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from src.app_init import build_genkit
from src.bulkhead import Bulkhead
from src.cache import FlowCache
from src.config import Settings
from src.drain import Drain
from src.images.fetch import ImageFetcher
from src.llm import Llm
from src.marks import Marks
from src.runner import EncodedOutput, Runner
from testing.small_service import OPERATIONS, ChatResponse, Flows, TranslationResponse, in_this_process
from tests.models import Character

SRC = Path(__file__).parent.parent / "src"

# Calls that make, or take a place of, something of which there is so much and no more.
MAKERS = {
    *("Bulkhead", "NameLookup", "Semaphore", "BoundedSemaphore", "Lock", "Condition", "Queue", "SimpleQueue"),
    *("Thread", "ThreadPoolExecutor", "ProcessPoolExecutor", "to_thread", "run_in_executor", "getaddrinfo"),
    *("Limits", "AsyncClient", "FlowCache", "MemoryBuckets", "CircuitBreaker"),
}
POOLS = {
    ("service", "Bulkhead"): "LLM calls: LLM_MAX_PER_CLIENT",
    ("images.fetch", "Bulkhead"): "fetches, images in memory: a share each",
    ("images.fetch", "NameLookup"): "look-ups: a share",
    ("bulkhead", "Semaphore"): "the places of a bulkhead",
    ("images.name_lookup", "Lock"): "held for a count",
    ("images.name_lookup", "Thread"): "counted as look-ups",
    ("logs.writer", "SimpleQueue"): "no request waits for it: lines beyond its maximum are dropped and counted",
    ("logs.writer", "Thread"): "one, which only writes",
    ("connection", "Limits"): "more connections than LLM calls by default, so these are shared out",
    ("connection", "AsyncClient"): "the same",
    ("service", "FlowCache"): "a client adds as much as its rate allows; others only lose hits",
    ("service", "MemoryBuckets"): "full ones are forgotten first; a client has three keys",
    ("service", "CircuitBreaker"): "content counts once for each caller",
}
# Made at start-up or at the end, for operators, whatever clients do.
OPERATORS = ("app_init", "telemetry", "main", "asgi", "lifecycle.ports", "rpc.shared_port")


def makers() -> Iterator[tuple[str, str]]:
    """Modules, and what they make."""
    for path in SRC.rglob("*.py"):
        module = ".".join(path.relative_to(SRC).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in MAKERS and not module.startswith(OPERATORS):
                    yield module, name


def test_every_shared_pool_is_known_here_with_what_keeps_one_client_from_holding_it() -> None:
    assert set(makers()) == set(POOLS)


def test_connections_to_the_provider_are_not_scarcer_than_calls() -> None:
    fields = Settings.model_fields
    assert fields["httpx_pool_max"].default >= fields["llm_max_concurrency"].default


@pytest.mark.parametrize(
    ("concurrency", "given", "per_client", "share"),
    [(64, None, 16, 0.25), (2, None, 1, 0.5), (64, 64, 64, 1.0), (64, 128, 128, 2.0)],
)
def test_a_clients_share_is_a_quarter_or_what_was_set(
    concurrency: int, given: int | None, per_client: int, share: float
) -> None:
    values: dict[str, Any] = {"llm_max_concurrency": concurrency}
    if given:
        values["llm_max_per_client"] = given
    settings = Settings(model="offline/demo", **values)
    assert (settings.llm_max_per_client, settings.client_share) == (per_client, share)


def in_json(output: BaseModel) -> bytes:
    return output.__pydantic_serializer__.to_json(output)


def in_another_form(output: BaseModel) -> bytes:
    return output.model_dump_json().encode("utf-16")


def result_cache() -> FlowCache[EncodedOutput]:
    return FlowCache(ttl=1000, max_size=10_000, max_bytes=1 << 40, size_of=lambda result: result.size)


async def kept(cache: FlowCache[EncodedOutput], key: str, make: Callable[[], BaseModel]) -> EncodedOutput:
    async def call() -> EncodedOutput:
        return EncodedOutput(make(), Marks(), partial(cache.resized, key))

    result, _ = await cache.get_or_call(key, call)
    return result


LONG = "x" * 200_000
ANSWERS: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "small": (TranslationResponse, {"original_text": "hello", "translated_text": "bonjour", "target_language": "F"}),
    "large": (ChatResponse, {"answer": LONG}),
    "one emoji": (TranslationResponse, {"original_text": LONG + "😀", "translated_text": "é", "target_language": "F"}),
    "another script": (ChatResponse, {"answer": "漢字" * 5000}),
    "nested": (
        Character,
        {
            **{"name": "n", "backStory": "b" * 300, "abilities": [f"ability {number}" for number in range(5)]},
            "skills": {"strength": 1, "charisma": 2, "endurance": 3},
        },
    ),
}


@pytest.mark.parametrize("shape", ANSWERS)
def test_the_caches_count_of_bytes_is_what_python_allocates(shape: str) -> None:
    held, counted = asyncio.run(bytes_of_answers(shape))
    assert 0.95 * held <= counted <= 1.4 * held + 50 * 512


async def bytes_of_answers(shape: str) -> tuple[int, int]:
    """Bytes that fifty of them take in the cache, as Python and as the cache counts them."""
    kind, fields = ANSWERS[shape]
    document = json.dumps({"confidence": "high", **fields})
    cache = result_cache()
    for number in range(-1, 50):
        if number == 0:
            gc.collect()
            tracemalloc.start()
            before = cache.stats().bytes
        result = await kept(cache, f"{number:064}", lambda: kind.model_validate_json(document))
        result.encoded(in_json)
        result.encoded(in_another_form)
        del result
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held, cache.stats().bytes - before


def test_the_cache_keeps_nothing_of_what_was_asked() -> None:
    async def scenario() -> None:
        settings = Settings(model="offline/demo")
        ai, cache = build_genkit(settings), result_cache()
        llm = Llm(ai, timeout=5, bulkhead=Bulkhead(8), breaker=None)
        with in_this_process():
            runner = Runner(ai, Flows(llm, ImageFetcher()), model="m", cache=cache, drain=Drain(0))
        inputs = []
        for operation in OPERATIONS:
            if operation.cached:
                asked = operation.input()
                (await runner.run(operation, asked)).result.encoded(in_json)
                inputs.append(weakref.ref(asked))
                del asked
        gc.collect()
        assert cache.stats().entries == len(inputs) == 2
        assert [kept() for kept in inputs] == [None] * len(inputs)

    asyncio.run(scenario())
