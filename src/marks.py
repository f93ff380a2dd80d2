"""Marks of a response, such as truncated, that callers get beside the flow's output."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Marks:
    """Facts about a response that callers get beside the flow's output.

    Attributes:
        truncated: True if the model's text was cut off at MAX_OUTPUT_TOKENS.
    """

    truncated: bool = False


_current: ContextVar[Marks] = ContextVar("marks")


@contextmanager
def collecting_marks() -> Iterator[Marks]:
    """Collect the marks of all LLM calls in the block."""
    marks = Marks()
    token = _current.set(marks)
    try:
        yield marks
    finally:
        _current.reset(token)


def mark_truncated() -> None:
    """Mark the response as truncated. Does nothing outside `collecting_marks`."""
    marks = _current.get(None)
    if marks is not None:
        marks.truncated = True
