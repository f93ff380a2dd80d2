"""Apps that can't be made."""

from typing import NoReturn

from src import asgi, service
from src.config import ConfigError, Settings


def lacks_an_extra() -> NoReturn:
    """A setting asks for what is not installed."""
    _fail(ConfigError("MODEL='m' (--model): needs the extra 'x', which is not installed"))


def has_a_bug() -> NoReturn:
    """Its own code fails."""
    _fail(LookupError("a bug"))


def _fail(error: Exception) -> NoReturn:
    def build_genkit(_settings: Settings) -> NoReturn:
        raise error

    service.build_genkit = build_genkit  # type: ignore[assignment, attr-defined]
    asgi.create_app()
    raise AssertionError("the process has ended")
