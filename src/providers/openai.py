"""OpenAI, and any server that speaks its chat completions API (vLLM, LiteLLM, llama.cpp, ...)."""

from genkit import Plugin
from genkit_openai import OpenAI
from genkit_openai.typing import OpenAIConfig

from src.config import Settings
from src.connection import provider_client
from src.providers.one_model import OneModel


def config(max_output_tokens: int) -> OpenAIConfig:
    """The limits that go with every call. The plugin spells it `max_completion_tokens` for models that want that."""
    return OpenAIConfig(max_tokens=max_output_tokens)


def plugin(settings: Settings) -> Plugin:
    """The plugin that resolves `openai/<name>`. Calls are not retried: the caller decides about that."""
    key = settings.openai_api_key
    return OneModel(
        OpenAI(
            api_key=key.get_secret_value() if key else "none",  # the client insists on one, local servers don't
            base_url=settings.openai_base_url,
            http_client=provider_client(settings),
            max_retries=0,
        )
    )
