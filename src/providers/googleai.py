"""Gemini through the Gemini API."""

from genkit import Plugin
from genkit_google_genai import GoogleAI

from src.config import Settings
from src.providers.one_model import OneModel


def plugin(settings: Settings) -> Plugin:
    """The plugin that resolves `googleai/<name>`."""
    key = settings.gemini_api_key
    return OneModel(
        GoogleAI(
            api_key=key.get_secret_value() if key else None,
            base_url=settings.google_gemini_base_url,
            http_options={"timeout": settings.llm_timeout},
        )
    )
