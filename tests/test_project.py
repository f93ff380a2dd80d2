"""The files around the code keep step with it."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from setuptools.config.pyprojecttoml import read_configuration

from src import __version__
from src.config import Settings

ROOT = Path(__file__).resolve().parent.parent

PRODUCTION_DEFAULTS = {
    "host": "0.0.0.0",
    "llm_max_per_client": "16",
    "log_format": "json",
    "model": "",
    "sentry_environment": "",
    "trusted_proxies": "",
}


def default_of(name: str) -> str:
    if name in PRODUCTION_DEFAULTS:
        return PRODUCTION_DEFAULTS[name]
    value = Settings.model_fields[name].get_default()
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def test_the_example_file_has_every_setting_with_its_default() -> None:
    lines = re.findall(r"^# ([A-Z0-9_]+)=(.*)$", (ROOT / ".local.env.example").read_text(), re.MULTILINE)
    # The name of the environment chooses the file, so it can't stand in it.
    assert dict(lines) == {name.upper(): default_of(name) for name in Settings.model_fields if name != "app_env"}


def test_the_version_stands_in_one_place() -> None:
    """The package's metadata and the API's document take it from there."""
    metadata = read_configuration(ROOT / "pyproject.toml", expand=True)
    assert metadata["project"]["version"] == __version__
    tracked = [ROOT / "pyproject.toml", ROOT / "Containerfile", *(ROOT / "src").rglob("*.py")]
    assert [file for file in tracked if f'"{__version__}"' in file.read_text()] == [ROOT / "src" / "__init__.py"]


@pytest.mark.parametrize("file", sorted((ROOT / "requirements").iterdir()), ids=lambda path: path.name)
def test_requirements_are_pinned_with_hashes_and_name_no_host(file: Path) -> None:
    text = file.read_text()
    packages = re.findall(r"^[a-zA-Z0-9].*$", text, re.MULTILINE)
    assert packages
    assert all("==" in line for line in packages)
    assert len(re.findall(r"^[a-zA-Z0-9].*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(packages)
    assert "://" not in text


def imported_modules() -> dict[str, str]:
    """Every module from outside that `src` imports, wherever in a file, and a file that does."""
    found: dict[str, str] = {}
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found |= {
                name: file.name for name in names if name.partition(".")[0] not in (*sys.stdlib_module_names, "src")
            }
    return found


@cache
def owners() -> dict[str, str]:
    """The distribution of each installed Python file, by its path as in an import."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = canonical(distribution.name)
        found |= {str(file): name for file in distribution.files or () if file.suffix in (".py", ".so")}
    return found


def distribution_of(module: str) -> str:
    """The distribution that a module's file, or the first file of a namespace, belongs to.

    The import system is not asked: it would import the parents, which tests in the same process would notice.
    """
    path = module.replace(".", "/")
    for file in (f"{path}.py", f"{path}/__init__.py"):
        if file in owners():
            return owners()[file]
    return next(name for file, name in owners().items() if file.startswith((f"{path}.", f"{path}/")))


def canonical(requirement: str) -> str:
    """The name in a requirement, as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~!; ]", requirement)[0]).lower()


def test_everything_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["optional-dependencies"].items()
    extras = [each for name, extra in groups if name not in ("all", "dev") for each in extra]
    declared = {canonical(each) for each in (*project["dependencies"], *extras)}
    lacking = {module: file for module, file in imported_modules().items() if distribution_of(module) not in declared}
    assert not lacking


def test_the_parent_of_workers_loads_neither_grpc_nor_genkit() -> None:
    code = "import sys, src.main; sys.exit(bool({'grpc', 'genkit', 'fastapi'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30).returncode == 0


def test_only_the_chosen_provider_is_imported() -> None:
    code = (
        "import sys; from src.settings_loader import load_settings; from src.asgi import create_app;"
        "create_app(load_settings({'model': 'offline/demo', 'log_level': 'error'}));"
        "sys.exit(bool({'genkit_google_genai', 'genkit_openai', 'genkit_ollama', 'grpc'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30).returncode == 0


def test_what_the_gemini_plugin_has_for_others_is_imported_by_its_use() -> None:
    code = (
        "import sys; from src.settings_loader import load_settings; from src.asgi import create_app;"
        "create_app(load_settings({'model': 'googleai/x', 'gemini_api_key': 'k', 'log_level': 'error'}));"
        "unused = {'google.genai.interactions', 'google.oauth2', 'opentelemetry.instrumentation.logging'};"
        "assert not unused & sys.modules.keys(), unused & sys.modules.keys();"
        "from genkit_google_genai._interactions.client import Interaction;"
        "assert Interaction.model_validate({'id': 'a', 'status': 'cancelled'}).id == 'a';"
        "assert 'google.genai.interactions' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30).returncode == 0


@pytest.mark.parametrize("is_debug", [False, True])
def test_genkits_developer_ui_is_shut_in_production(is_debug: bool, tmp_path: Path) -> None:
    """It runs in a thread, wherever the environment asks for it."""
    code = (
        "import threading; from src.asgi import create_app; create_app();"
        "print(bool({thread.name for thread in threading.enumerate()} - {'MainThread', 'log-writer'}))"
    )
    env = {"GENKIT_ENV": "dev", "DEBUG": str(is_debug), "MODEL": "offline/demo", "PATH": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, timeout=30)
    assert done.stdout.decode().strip() == str(is_debug)
