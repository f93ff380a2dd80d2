"""Shared by all tests."""

import os
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog
from hypothesis import settings

from src import app_init, prompt
from tests.prompts import FILES

# How long an example takes says nothing on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Folders whose tests take minutes or run a whole suite in a copy: for `just live`, `just fuzz` and `just adoption`.
_ON_REQUEST = {Path(__file__).parent / name for name in ("adopt", "fuzz", "stress")}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave these folders out, unless the command names them."""
    if collection_path not in _ON_REQUEST:
        return None
    named = [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]
    return not any(path == collection_path or collection_path in path.parents for path in named)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that does not run is a failure: what it needs has to be installed."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture
def prompt_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for prompt files among those of the tests."""
    for module in (app_init, prompt):
        monkeypatch.setattr(module, "PROMPTS", FILES)


_HOOKS = pytest.StashKey[tuple[object, object, object]]()


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Note the hooks by which pytest learns of exceptions that nobody caught."""
    session.stash[_HOOKS] = (sys.excepthook, threading.excepthook, sys.unraisablehook)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Put them back where the service, built in this process, has its own."""
    sys.excepthook, threading.excepthook, sys.unraisablehook = item.session.stash[_HOOKS]  # type: ignore[assignment]
    yield
    sys.excepthook, threading.excepthook, sys.unraisablehook = item.session.stash[_HOOKS]  # type: ignore[assignment]


@pytest.fixture
def log_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], list[Any]]:
    """Capture what a module logs from now on, however an earlier test has configured and used its logger."""

    def capture(module: ModuleType) -> list[Any]:
        captured = structlog.testing.LogCapture()
        monkeypatch.setattr(module, "log", structlog.wrap_logger(None, processors=[captured]))
        return captured.entries

    return capture
