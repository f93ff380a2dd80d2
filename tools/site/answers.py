"""Answers of the operations, from the real flows with the embedded model."""

import asyncio
import json
from typing import Any

import httpx

from src.app_init import build_genkit
from src.bulkhead import Bulkhead
from src.config import OFFLINE_MODEL, Settings
from src.drain import Drain
from src.flows import Flows
from src.images.fetch import ImageFetcher
from src.llm import Llm
from src.operations import OPERATIONS, Operation
from src.rest.endpoints import OperationEndpoint
from src.runner import Runner

LONGEST = 90  # characters of a text that is still shown whole


def answers() -> dict[str, str]:
    """The answer over REST to an empty input, by the operation's name; long texts and streams are shortened."""
    return asyncio.run(_answers())


async def _answers() -> dict[str, str]:
    settings = Settings(_env_file=None, model=OFFLINE_MODEL)
    ai = build_genkit(settings)
    llm = Llm(ai, timeout=settings.llm_timeout / 1000, bulkhead=Bulkhead(settings.llm_max_concurrency), breaker=None)
    runner = Runner(ai, Flows(llm, ImageFetcher()), model=settings.model, cache=None, drain=Drain(0))
    return {operation.name: await _answer(operation, runner) for operation in OPERATIONS}


async def _answer(operation: Operation, runner: Runner) -> str:
    transport = httpx.ASGITransport(app=OperationEndpoint(operation, runner))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = (await client.post(operation.path, json={})).raise_for_status()
    if not operation.streamed:
        return json.dumps(_shortened(response.json()), indent=2)
    first, second, *_, last = response.text.strip().split("\n\n")
    return "\n\n".join(
        [first, second, "...", f"data: {json.dumps(_shortened(json.loads(last.removeprefix('data: '))))}"]
    )


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST else value[:LONGEST] + "..."
    if isinstance(value, dict):
        return {name: _shortened(inner) for name, inner in value.items()}
    return [_shortened(inner) for inner in value] if isinstance(value, list) else value
