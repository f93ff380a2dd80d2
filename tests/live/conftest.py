"""Fixtures of the live tests."""

from collections.abc import Iterator

import pytest

from testing.fakes.gemini import GeminiStandIn


@pytest.fixture
def upstream() -> Iterator[GeminiStandIn]:
    """The Gemini API, on loopback."""
    with GeminiStandIn() as standin:
        yield standin
