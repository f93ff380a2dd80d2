"""The command line's flags, made from the settings."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from src.config import Settings, default_of, flag_of, is_secret
from src.lifecycle.startup_errors import exit_with

# Titles of groups in `--help`, by the first setting of each.
HELP_GROUPS = {
    "app_env": "environment",
    "host": "servers",
    "log_format": "logs",
    "cors_allowed_origins": "requests",
    "gemini_api_key": "model",
    "cb_enabled": "circuit breaker",
    "cache_enabled": "cache",
    "httpx_pool_max": "connections to the LLM provider",
    "metrics_host": "metrics",
    "sentry_dsn": "error reports",
    "trace_url": "traces",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        exit_with(message)


def parse_flags(argv: Sequence[str]) -> dict[str, Any]:
    """Return the settings from the command line by field name, not validated yet.

    Ends the process with status 2 on an unknown flag, with 0 after `--help`.
    """
    secrets = [name.upper() for name, field in Settings.model_fields.items() if is_secret(field)]
    parser = _Parser(
        prog="python -m src",
        usage="%(prog)s [flags]",
        description="Serve REST and gRPC over one set of Genkit flows.",
        epilog=f"Each flag has an environment variable, shown in brackets. {', '.join(secrets)} have no flag, because "
        "command lines are public: set them in the environment or an env file.",
        allow_abbrev=False,
    )
    add: Callable[..., object] = parser.add_argument
    for name, field in Settings.model_fields.items():
        if name in HELP_GROUPS:
            add = parser.add_argument_group(HELP_GROUPS[name]).add_argument
        if not is_secret(field):
            _add_flag(add, name, field)
    return vars(parser.parse_args(argv))


def _add_flag(add: Callable[..., object], name: str, field: FieldInfo) -> None:
    flag = flag_of(name, field)
    options: dict[str, Any] = {
        "dest": name,
        "default": argparse.SUPPRESS,
        "help": _help(name, field).replace("%", "%%"),
    }
    if flag.value is None:
        add(flag.name, metavar=_metavar(field), **options)
    else:
        add(flag.name, action="store_const", const=flag.value, **options)


def _help(name: str, field: FieldInfo) -> str:
    flag = flag_of(name, field)
    text = f"{flag.help or field.description} [{name.upper()}"
    if flag.value is not None:
        return f"{text}={str(flag.value).lower()}]"
    production, debug = default_of(field, debug=False), default_of(field, debug=True)
    in_debug = f", in debug {debug}" if debug != production else ""
    return f"{text}, default {production or 'none'}{in_debug}]"


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(get_args(field.annotation)) + "}"
    kinds = {"bool": "{true,false}", "float": "NUMBER", "int": "INTEGER", "Path": "FILE"}
    return next((metavar for kind, metavar in kinds.items() if kind in str(field.annotation)), "TEXT")


def export_to_environment(overrides: Mapping[str, Any]) -> None:
    """Put the flags into the environment, where the worker processes of every server find them."""
    for name, value in overrides.items():
        os.environ[name.upper()] = str(value)
