"""Answers of providers of all kinds, whole or not: each is told for what it is, and counts as that."""

from collections.abc import Iterator

import pytest

from tests.fuzz.conftest import Hunt
from tests.providers.answers import FORMATS, cases, failing_statuses, no_answers
from tests.providers.in_process import InProcess

# Google's SDK warns of reasons that it does not know, and pytest would make a failure of that.
pytestmark = pytest.mark.filterwarnings("ignore:A_NEW_ONE:UserWarning")


@pytest.fixture(scope="module", params=FORMATS)
def provider(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def in_process(provider: str) -> Iterator[InProcess]:
    running = InProcess(FORMATS[provider])
    yield running
    running.close()


def test_answers_of_any_kind(provider: str, in_process: InProcess, hunt: Hunt) -> None:
    hunt(cases(provider) | no_answers(provider) | failing_statuses(provider), in_process.check)
