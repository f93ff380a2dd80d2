"""Models served by Ollama."""

from genkit import Plugin
from genkit_ollama import Ollama

from src.config import Settings
from src.providers.one_model import OneModel


def plugin(settings: Settings) -> Plugin:
    """The plugin that resolves `ollama/<name>`."""
    return OneModel(Ollama(server_address=settings.ollama_base_url, timeout=settings.llm_timeout / 1000))
