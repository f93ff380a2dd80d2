"""The app factory for ASGI servers, for example `granian --interface asgi --factory src.asgi:create_app`.

The settings are read first, so that an invalid one is reported before slow imports.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from starlette.types import ASGIApp

from src.app_init import disable_genkit_dev_features
from src.config import ConfigError, Settings
from src.lifecycle.open_files import raise_open_file_limit
from src.lifecycle.startup_errors import exit_with, load_settings_or_exit
from src.logs.setup import configure_logging
from src.settings_loader import missing_env_file
from src.util.lazy_imports import lazy_imports

log = structlog.get_logger(__name__)


def create_app(settings: Settings | None = None, *, listens_as_set: bool = False) -> ASGIApp:
    """Build the service as an ASGI app. An invalid setting ends the process with status 2.

    Args:
        settings: Read from the environment if not given.
        listens_as_set: True if the server listens on HOST and PORT, so that the log can name REST's address.
    """
    settings = settings or load_settings_or_exit()
    try:
        configure_logging(settings)
        if settings.sentry_dsn:  # not in a parent of workers: Sentry's SDK imports gRPC
            from src.telemetry.sentry import start_reporting

            start_reporting(settings, settings.sentry_dsn.get_secret_value())
        raise_open_file_limit()
        if missing := missing_env_file(settings.app_env):
            log.warning("The env file does not exist", path=str(missing))
        disable_genkit_dev_features(settings)
        with _gc_paused():
            with lazy_imports("opentelemetry.instrumentation.logging"):  # only for Genkit's developer UI
                from src.service import build_app

            return build_app(settings, listens_as_set=listens_as_set)
    except ConfigError as error:
        exit_with(str(error))
    except Exception:  # servers don't log it in this format while they load the app, and some not at all
        log.critical("can't start", exc_info=True)
        sys.exit(1)


def create_app_at_port() -> ASGIApp:
    """Build the app for `python -m src`, where REST listens on HOST and PORT."""
    return create_app(listens_as_set=True)


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Disable garbage collection during imports, which only allocate long-lived objects.

    Afterwards the survivors of the first start in a process are frozen, so that no collection visits them again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        if was_enabled:
            gc.enable()
