"""Gemini through the Gemini API."""

from typing import Any, cast

from genkit import Plugin
from genkit.plugin_api import ModelConfig

from src.config import Settings
from src.connection import provider_client
from src.providers.one_model import OneModel
from src.util.late_imports import imported_late

# The plugin offers Vertex AI's evaluators and Gemini's agents too, which are most of what importing it takes.
with imported_late("genkit_google_genai.evaluators", "google.genai.interactions"):
    from genkit_google_genai import GoogleAI
    from google.genai.types import HttpOptionsDict


def config(max_output_tokens: int) -> ModelConfig:
    """The limits that go with every call."""
    return ModelConfig(max_output_tokens=max_output_tokens)


def plugin(settings: Settings) -> Plugin:
    """The plugin that resolves `googleai/<name>`."""
    key = settings.gemini_api_key
    return OneModel(
        GoogleAI(
            api_key=key.get_secret_value() if key else None,
            base_url=settings.google_gemini_base_url,
            http_options=_http_options(settings),
        )
    )


def _http_options(settings: Settings) -> HttpOptionsDict:
    """With a client of ours, which the SDK also prefers to aiohttp, should that ever be installed."""
    options: dict[str, Any] = {
        "timeout": settings.llm_timeout,
        "httpx_async_client": provider_client(settings),
    }
    return cast("HttpOptionsDict", options)  # the SDK knows the key, its type does not
