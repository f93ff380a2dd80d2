"""The id that joins a request's answer and its log lines."""

import re
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.types import Scope

from src.util.scope import headers_of

_HARMLESS = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def checked_request_id(given: Sequence[str]) -> str:
    """The one id that was given, if it has 1 to 128 of the characters `A-Z a-z 0-9 . _ : -`, else a new UUID4."""
    if len(given) == 1 and _HARMLESS.fullmatch(given[0]):
        return given[0]
    return str(uuid.uuid4())


def request_id_of(scope: Scope) -> str:
    """The id of an HTTP request, kept in `scope["state"]["request_id"]`; made when it is first asked for."""
    state: dict[str, Any] = scope.setdefault("state", {})
    request_id: str | None = state.get("request_id")
    if request_id is None:
        request_id = state["request_id"] = checked_request_id(headers_of(scope, b"x-request-id"))
    return request_id
