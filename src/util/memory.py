"""Estimate the memory of a value."""

import sys
from typing import Any

from pydantic import BaseModel


def memory_of(value: Any) -> int:
    """Return the bytes that a model or JSON value takes, contents included. Shared contents count each time."""
    if isinstance(value, BaseModel):
        parts = sys.getsizeof(value.__dict__) + sys.getsizeof(value.model_fields_set)
        return sys.getsizeof(value) + parts + sum(memory_of(field) for field in value.__dict__.values())
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(memory_of(key) + memory_of(item) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return sys.getsizeof(value) + sum(memory_of(item) for item in value)
    return sys.getsizeof(value)
