"""The table of providers: each row is all that a new provider takes beside its module."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

from src import providers
from src.config import Settings
from src.providers.rows import PROVIDERS, Provider

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
