"""The request id, which connects a response and its log lines."""

import os
import re
from collections.abc import Sequence
from typing import Any

from starlette.types import Scope

from src.util.scope import headers_of

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_HARMLESS = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def validated_request_id(given: Sequence[str]) -> str:
    """Return the given id if it is the only one and has 1 to 128 of `A-Z a-z 0-9 . _ : -`, otherwise a new UUID4."""
    if len(given) == 1 and _HARMLESS.fullmatch(given[0]):
        return given[0]
    return new_request_id()


def new_request_id() -> str:
    """Return a random UUID (version 4, RFC 9562), in half the time that the standard library takes."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def request_id_of(scope: Scope) -> str:
    """Return the id of an HTTP request, from `scope["state"]["request_id"]`; create it on first use."""
    state: dict[str, Any] = scope.setdefault("state", {})
    request_id: str | None = state.get("request_id")
    if request_id is None:
        given = headers_of(scope, b"x-request-id")
        request_id = state["request_id"] = validated_request_id(given) if given else new_request_id()
    return request_id
