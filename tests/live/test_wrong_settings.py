"""Each kind of wrong setting stops a start with one line; `tests/stress` tries each kind under every server."""

from pathlib import Path

import pytest

from tests.live.wrong_settings import LATE_MISTAKES, MISTAKES, SERVERS, assert_told_in_one_line, assert_told_late


def in_turn(kinds: dict[str, object]) -> list[tuple[str, str]]:
    """Pair each kind with a server, as few starts as there are kinds."""
    return [(SERVERS[number % len(SERVERS)], kind) for number, kind in enumerate(kinds)]


@pytest.mark.parametrize(("start", "kind"), [("python -m src", kind) for kind in MISTAKES] + in_turn({**MISTAKES}))
def test_a_wrong_setting_stops_the_start_with_one_line(start: str, kind: str, tmp_path: Path) -> None:
    assert_told_in_one_line(start, MISTAKES[kind], tmp_path)


@pytest.mark.parametrize(("server", "kind"), in_turn({**LATE_MISTAKES}))
def test_a_setting_that_fails_when_it_is_used_stops_the_start(server: str, kind: str, tmp_path: Path) -> None:
    assert_told_late(server, LATE_MISTAKES[kind], tmp_path)
