"""Cache keys."""

import hashlib

from pydantic import BaseModel


def cache_key(flow: str, model: str, input: BaseModel, *, scope: str = "") -> str:
    """Return the SHA-256, in hex, of a flow's name, the LLM's name, the caller's scope and the canonical input.

    Equal inputs have equal keys, however they were sent: a validated model contains every default and writes its fields
    in one order. JSON escapes control characters, so parts can't be confused.
    """
    canonical = b"\0".join(
        (flow.encode(), model.encode(), scope.encode(), input.__pydantic_serializer__.to_json(input))
    )
    return hashlib.sha256(canonical).hexdigest()
