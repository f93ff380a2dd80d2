"""A log that nobody reads holds nothing up, whichever server runs the service, with however many workers."""

from testing.service import COMMANDS
from tests.live.stalled_log import check_an_unread_log
from tests.live.test_lifecycle import EXIT_STATUS


def test_an_unread_log_holds_nothing_up(server: str) -> None:
    check_an_unread_log(COMMANDS[server], EXIT_STATUS.get(server, 0), workers=2 if "2 workers" in server else 1)


def test_an_unread_log_holds_up_no_worker_of_granian() -> None:
    check_an_unread_log(COMMANDS["python -m src, 2 workers"], 0, workers=2)
