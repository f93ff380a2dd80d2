"""Start-up: the Genkit instance for the chosen model. Only the chosen provider is imported."""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from src.config import ConfigError, Settings

if TYPE_CHECKING:
    from genkit import Genkit

PROMPTS = Path(__file__).resolve().parent.parent / "prompts"

# Provider -> the package it needs, where an extra of ours brings that.
EXTRAS = {"openai": "genkit_openai", "ollama": "genkit_ollama"}


def build_genkit(settings: Settings) -> "Genkit":
    """Genkit with the settings' model as its default. No network is touched before the first call.

    Logging has to be configured before: Genkit logs, and sets up structlog, when it is constructed.

    Raises:
        ConfigError: the extra with the model's provider is not installed.
    """
    provider = settings.model_provider
    if provider in EXTRAS and find_spec(EXTRAS[provider]) is None:
        raise ConfigError(f"MODEL={settings.model!r} (--model): needs the extra {provider!r}, which is not installed")
    _close_genkit(settings)
    from genkit import Genkit

    module = import_module(f"src.providers.{provider}")
    if provider == "offline":
        ai = Genkit(model=settings.model, prompt_dir=PROMPTS)
        module.register(ai)
        return ai
    return Genkit(plugins=[module.plugin(settings)], model=settings.model, prompt_dir=PROMPTS)


def _close_genkit(settings: Settings) -> None:
    """Genkit reads these two when imported: its developer UI opens a port, its tracer keeps prompts in spans."""
    if not settings.debug:
        os.environ["GENKIT_ENV"] = "prod"
    if settings.genkit_telemetry_disabled:
        os.environ["OTEL_SDK_DISABLED"] = "true"
