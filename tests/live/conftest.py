"""Fixtures of the live tests."""

from collections.abc import Iterator

import pytest

from testing.fakes.gemini import GeminiStandIn


@pytest.fixture(scope="module")
def shared_upstream() -> Iterator[GeminiStandIn]:
    """The Gemini API, on loopback, for a service that all tests of a module use."""
    with GeminiStandIn() as standin:
        yield standin


@pytest.fixture
def upstream(request: pytest.FixtureRequest) -> Iterator[GeminiStandIn]:
    """The Gemini API, on loopback: that of the module's service, or one of the test's own."""
    if "shared_upstream" in request.fixturenames:
        yield request.getfixturevalue("shared_upstream")
        return
    with GeminiStandIn() as standin:
        yield standin
