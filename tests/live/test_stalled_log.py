"""A log that nobody reads holds nothing up: not the start, not an answer, not SIGTERM."""

import pytest

from testing.service import COMMANDS
from tests.live.stalled_log import check_an_unread_log
from tests.live.test_lifecycle import EXIT_STATUS


@pytest.mark.parametrize("name", ["python -m src", "uvicorn"])
def test_an_unread_log_holds_nothing_up(name: str) -> None:
    check_an_unread_log(COMMANDS[name], EXIT_STATUS.get(name, 0))
