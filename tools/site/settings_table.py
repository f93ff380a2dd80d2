"""The configuration reference, from `Settings`."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from src.config import Settings, default_of, flag_of, is_secret
from tools.site.markdown_table import code, table

# By a part of the annotation's name; the first match counts.
KINDS = {
    "SecretStr": "secret",
    "Path": "file",
    "bool": "true, false",
    "float": "number",
    "int": "whole number",
    "str": "text",
}


def settings_table(settings: type[BaseSettings] = Settings) -> str:
    """Return a table with a row per setting: variable and flag, meaning and allowed values, default."""
    return table(("Setting", "Meaning", "Default"), (_row(*item) for item in settings.model_fields.items()))


def _row(name: str, field: FieldInfo) -> tuple[str, ...]:
    variable = f'<span id="{name}"></span>`{name.upper()}`'
    flag = "" if is_secret(field) else f"<br>`{flag_of(name, field).name}`"
    production, debug = default_of(field, debug=False), default_of(field, debug=True)
    in_debug = f"<br>in debug {code(debug)}" if debug != production else ""
    return variable + flag, f"{field.description}<br>*{allowed(field)}*", (code(production) or "none") + in_debug


def allowed(field: FieldInfo) -> str:
    """Describe the allowed values of a setting."""
    limits = " ".join(_limits(field.metadata))
    return f"{_kind(field.annotation)}, {limits}" if limits else _kind(field.annotation)


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(code(value) for value in get_args(annotation))
    return next(words for name, words in KINDS.items() if name in str(annotation))


def _limits(metadata: list[Any]) -> Iterator[str]:
    for limit in metadata:
        if isinstance(limit, Ge):
            yield f"from {limit.ge:,}"
        elif isinstance(limit, Gt):
            yield f"above {limit.gt:,}"
        elif isinstance(limit, Le):
            yield f"to {limit.le:,}"
        elif pattern := getattr(limit, "pattern", None):
            yield code(pattern)
