"""OpenAI, and any server with its chat completions API (vLLM, LiteLLM, llama.cpp, ...)."""

from genkit import Plugin
from genkit_openai import OpenAI
from genkit_openai.typing import OpenAIConfig

from src.config import Settings
from src.connection import provider_client
from src.providers.lazy_plugin import LazyPlugin


def config(max_output_tokens: int) -> OpenAIConfig:
    """Return the limits for every call. The plugin sends `max_completion_tokens` to models that require it."""
    return OpenAIConfig(max_tokens=max_output_tokens)


def plugin(settings: Settings) -> Plugin:
    """Return the plugin that resolves `openai/<name>`. It does not retry: that is the caller's decision."""
    key = settings.openai_api_key
    return LazyPlugin(
        OpenAI(
            api_key=key.get_secret_value() if key else "none",  # the client requires a key, local servers don't
            base_url=settings.openai_base_url,
            http_client=provider_client(settings),
            max_retries=0,
        )
    )
