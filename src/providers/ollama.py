"""Models served by Ollama."""

import ollama
from genkit import Plugin
from genkit_ollama import Ollama

from src.config import Settings
from src.connection import configure_httpx_defaults, reclaiming
from src.providers.one_model import OneModel


def plugin(settings: Settings) -> Plugin:
    """The plugin that resolves `ollama/<name>`."""
    return OneModel(_Ollama(settings))


class _Ollama(Ollama):
    """The plugin over connections of ours: it has no option for them."""

    def __init__(self, settings: Settings) -> None:
        self._connections = configure_httpx_defaults(settings)
        super().__init__(server_address=settings.ollama_base_url)

    def _make_client(self, headers: dict[str, str] | None = None) -> ollama.AsyncClient:
        client = ollama.AsyncClient(
            self.server_address, headers=self.request_headers if headers is None else headers, **self._connections
        )
        reclaiming(client._client)
        return client
