"""Models served by Ollama."""

from collections.abc import AsyncIterator
from typing import Any

import ollama
from genkit import Plugin
from genkit.plugin_api import ModelConfig
from genkit_ollama import Ollama

from src.config import Settings
from src.connection import configure_httpx_defaults, reclaiming
from src.marks import mark_truncated
from src.providers.one_model import OneModel


def config(max_output_tokens: int) -> ModelConfig:
    """The limits that go with every call."""
    return ModelConfig(max_output_tokens=max_output_tokens)


def plugin(settings: Settings) -> Plugin:
    """The plugin that resolves `ollama/<name>`."""
    return OneModel(_Ollama(settings))


class _Ollama(Ollama):
    """The plugin over connections of ours: it has no option for them."""

    def __init__(self, settings: Settings) -> None:
        self._connections = configure_httpx_defaults(settings)
        super().__init__(server_address=settings.ollama_base_url)

    def _make_client(self, headers: dict[str, str] | None = None) -> ollama.AsyncClient:
        client = _Client(
            self.server_address, headers=self.request_headers if headers is None else headers, **self._connections
        )
        reclaiming(client._client)
        return client


class _Client(ollama.AsyncClient):
    """Notices answers that end early, which the plugin takes for whole ones."""

    async def chat(self, *arguments: Any, **options: Any) -> Any:
        """As the SDK's. Raises ollama.ResponseError, at once or from the stream, for an answer without its end."""
        answer: Any = await super().chat(*arguments, **options)
        if options.get("stream"):
            return _checked_stream(answer)
        _check_end(answer)
        return answer


async def _checked_stream(chunks: AsyncIterator[ollama.ChatResponse]) -> AsyncIterator[ollama.ChatResponse]:
    last = None
    async for chunk in chunks:
        last = chunk
        yield chunk
    _check_end(last)


def _check_end(last: ollama.ChatResponse | None) -> None:
    if last is None or not last.done:
        raise ollama.ResponseError("the answer ended early", 502)
    if last.done_reason == "length":
        mark_truncated()
