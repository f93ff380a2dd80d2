"""Marks of an answer: they travel beside the flow's output, which is the caller's alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Marks:
    """Marks of an answer that callers are told about.

    Attributes:
        truncated: The model's text was cut off at MAX_OUTPUT_TOKENS.
    """

    truncated: bool = False


_current: ContextVar[Marks] = ContextVar("marks")


@contextmanager
def collecting_marks() -> Iterator[Marks]:
    """Collect the marks of the model calls within."""
    marks = Marks()
    token = _current.set(marks)
    try:
        yield marks
    finally:
        _current.reset(token)


def mark_truncated() -> None:
    """Mark the answer as cut off. Does nothing where nobody collects."""
    marks = _current.get(None)
    if marks is not None:
        marks.truncated = True
