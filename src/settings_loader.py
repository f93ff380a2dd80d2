"""Load the settings from flags, the environment and env files.

Precedence: flag > environment > `.<env>.env` > `.env` > default.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from src.config import ENV_FILE_ENCODING, ENV_NAME, ConfigError, Settings, flag_of, is_secret


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings from `overrides` (by field name), the environment and the working directory's env files.

    Raises:
        ConfigError: Values are invalid, or env files can't be read. The message has one line for each.
    """
    overrides = dict(overrides or {})
    name = env_name(overrides)
    env_files = (".env", _named_env_file(name)) if name else (".env",)
    for file in env_files:
        _check_readable(Path(file))
    try:
        return Settings(_env_file=env_files, **overrides)
    except ValidationError as error:
        raise ConfigError(_describe(error, overrides, env_files)) from None


def env_name(overrides: Mapping[str, Any]) -> str:
    """Return the name of the environment; empty if it is invalid, which the validation of the settings reports."""
    name = str(overrides.get("app_env") or os.environ.get("APP_ENV", ""))
    return name if ENV_NAME.fullmatch(name) else ""


def _named_env_file(name: str) -> str:
    return f".{name}.env"


def missing_env_file(name: str) -> Path | None:
    """Return the path of this environment's env file if it does not exist, otherwise None."""
    file = Path(_named_env_file(name)).absolute()
    return file if name and not file.exists() else None


def _check_readable(file: Path) -> None:
    """Raise ConfigError if an env file exists but can't be read as text."""
    try:
        if not file.exists():
            return
        if not file.is_file():
            raise ConfigError(f"{file.absolute()}: is not a regular file")
        file.read_text(encoding=ENV_FILE_ENCODING)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file.absolute()}: is not UTF-8 (byte {error.start + 1})") from None
    except OSError as error:
        raise ConfigError(f"{file.absolute()}: can't be read: {error.strerror}") from None


def _describe(error: ValidationError, overrides: Mapping[str, Any], env_files: Sequence[str]) -> str:
    """Return one line per error. Pydantic hides all values; these lines show them, except secrets."""
    raw = _Unvalidated(_env_file=env_files).model_extra or {}
    lines = []
    for mistake in error.errors(include_url=False, include_context=False):
        if mistake["type"] == "default_factory_not_called":  # only says that an earlier one was wrong
            continue
        message = mistake["msg"].removeprefix("Value error, ")
        if not mistake["loc"]:
            lines.append(message)
            continue
        name = str(mistake["loc"][0])
        field = Settings.model_fields[name]
        value = overrides.get(name, os.environ.get(name.upper(), raw.get(name, "")))
        shown = "'***'" if is_secret(field) else repr(value)
        hint = f" ({flag_of(name, field).name})" if not is_secret(field) else ""
        lines.append(f"{name.upper()}={shown}{hint}: {message}")
    return "\n".join(lines)


class _Unvalidated(BaseSettings):
    """The env files' raw values, to show an invalid one as it was written."""

    model_config = SettingsConfigDict(extra="allow", env_file_encoding=ENV_FILE_ENCODING)
