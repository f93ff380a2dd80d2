"""Models served by Ollama."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import ollama
from genkit import Plugin
from genkit.plugin_api import ModelConfig
from genkit_ollama import Ollama

from src.config import Settings
from src.connection import configure_httpx_defaults, reclaiming
from src.marks import mark_truncated
from src.providers.lazy_plugin import LazyPlugin


def config(max_output_tokens: int) -> ModelConfig:
    return ModelConfig(max_output_tokens=max_output_tokens)


def plugin(settings: Settings) -> Plugin:
    return LazyPlugin(_Ollama(settings))


class _Ollama(Ollama):
    """The plugin with the service's own HTTP client, for which it has no option."""

    def __init__(self, settings: Settings) -> None:
        self._connections = configure_httpx_defaults(settings)
        self._connections["event_hooks"]["response"].append(_check_status)
        super().__init__(server_address=settings.ollama_base_url)

    def _make_client(self, headers: dict[str, str] | None = None) -> ollama.AsyncClient:
        client = _Client(
            self.server_address, headers=self.request_headers if headers is None else headers, **self._connections
        )
        reclaiming(client._client)
        return client


class _Client(ollama.AsyncClient):
    """Detects truncated responses, which the plugin would treat as complete."""

    async def chat(self, *arguments: Any, **options: Any) -> Any:
        """Call the SDK's `chat`. Raises ValueError if the response, or the last chunk of a stream, lacks `done`."""
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
        raise ValueError("the answer ended early")
    if last.done_reason == "length":
        mark_truncated()


async def _check_status(response: httpx.Response) -> None:
    """Raise the SDK's error for a failure with any body. The SDK itself fails on JSON that is not an object."""
    if response.is_error:
        await response.aread()
        raise ollama.ResponseError(json.dumps({"error": response.text}), response.status_code)
