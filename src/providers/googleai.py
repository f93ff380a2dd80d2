"""Gemini through the Gemini API."""

from typing import Any, cast

from genkit import Plugin
from genkit.plugin_api import ModelConfig

from src.config import Settings
from src.connection import provider_client
from src.providers.lazy_plugin import LazyPlugin
from src.util.lazy_imports import lazy_imports

# The plugin also imports Vertex AI's evaluators and Gemini's agents, which take most of its import time.
with lazy_imports("genkit_google_genai.evaluators", "google.genai.interactions"):
    from genkit_google_genai import GoogleAI
    from google.genai.types import HttpOptionsDict


def config(max_output_tokens: int) -> ModelConfig:
    return ModelConfig(max_output_tokens=max_output_tokens)


def plugin(settings: Settings) -> Plugin:
    key = settings.gemini_api_key
    return LazyPlugin(
        GoogleAI(
            api_key=key.get_secret_value() if key else None,
            base_url=settings.google_gemini_base_url,
            http_options=_http_options(settings),
        )
    )


def _http_options(settings: Settings) -> HttpOptionsDict:
    """Make the SDK use the service's own httpx client, which it also prefers to aiohttp if that is installed."""
    options: dict[str, Any] = {
        "timeout": settings.llm_timeout,
        "httpx_async_client": provider_client(settings),
    }
    return cast("HttpOptionsDict", options)  # the SDK supports the key, its type does not
