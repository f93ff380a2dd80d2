"""The table of providers: each row is all that a new provider takes beside its module."""

import ast
import asyncio
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
from genkit import ActionKind
from genkit_google_genai import GeminiEmbeddingModels, KnownGemini, KnownGemma, KnownVeo

from src import providers
from src.config import OFFLINE_MODEL, Settings
from src.providers.rows import PROVIDERS, Provider
from src.settings_loader import load_settings

EACH = pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)


@EACH
def test_each_has_a_module_that_makes_its_plugin(provider: Provider) -> None:
    module = import_module(f"src.providers.{provider.name}")
    assert callable(module.config)
    assert callable(module.register if provider.name == "offline" else module.plugin)


@EACH
def test_the_package_that_its_extra_installs_is_the_one_that_its_module_imports(provider: Provider) -> None:
    file = Path(providers.__path__[0], f"{provider.name}.py")
    imported = {node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)}
    assert bool(provider.package) == bool(provider.extra)
    assert not provider.package or provider.package in imported


@EACH
def test_what_it_needs_are_settings(provider: Provider) -> None:
    assert set(provider.needs) <= Settings.model_fields.keys()
    assert bool(provider.needs) == bool(provider.missing)


NO_TEXT = {
    "googleai": (
        *(*GeminiEmbeddingModels, *get_args(KnownVeo), "text-embedding-004", "models/Gemini-Embedding-2"),
        *("deep-research-pro-preview-12-2025", "imagegeneration@006", "imagetext@001", "virtual-try-on-preview-08-04"),
    ),
    "openai": ("text-embedding-3-small", "nomic-embed-text", "org/embed"),
}
TEXT = {
    "googleai": (
        *get_args(KnownGemini),
        *get_args(KnownGemma),
        "models/gemini-2.5-pro",
        "favourite-veo-3",
        "my-embedding/x",
        "veo-3/x",
    ),
    "openai": ("gpt-5", "org/model", "Embers"),
    "ollama": ("llama3.2", "nomic-embed-text"),
}


@pytest.mark.parametrize(
    ("provider", "name", "is_text"),
    [
        (provider, str(name), names is TEXT)
        for names in (NO_TEXT, TEXT)
        for provider, of_provider in names.items()
        for name in of_provider
    ],
)
def test_models_without_text_are_known_by_name_as_the_package_knows_them(
    provider: str, name: str, is_text: bool
) -> None:
    settings = load_settings({"model": OFFLINE_MODEL, "gemini_api_key": "key-of-nobody", "openai_api_key": "nobody's"})
    plugin = import_module(f"src.providers.{provider}").plugin(settings)
    resolved = asyncio.run(plugin.resolve(ActionKind.MODEL, f"{provider}/{name}"))
    assert (resolved is not None) is is_text
    assert PROVIDERS[provider].has_text_model(name) is is_text
