"""Hostile environments: a start comes up, or ends with status 2 and says in one line what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from hypothesis import strategies as st

from src.config import ConfigError, Settings, is_secret
from src.settings_loader import load_settings
from testing.ports import free_port
from testing.service import ROOT
from tests.fuzz.checks import CANARY
from tests.fuzz.conftest import Hunt
from tests.fuzz.strategies import texts

NAMES = [name.upper() for name in Settings.model_fields]
SECRETS = {name.upper() for name, field in Settings.model_fields.items() if is_secret(field)}
START_SECONDS = 60.0
STARTS = 1  # between two looks at the clock: one takes seconds

_words = st.sampled_from(
    (
        *("", " ", "0", "-1", "1", "65536", "99999999999999999999", "1e400", "nan", "inf", "0x10", "1_0", "٣", "true"),
        *("maybe", "none", "null", "[]", "{}", "*", ",", "/dev/null", "/", "/nonexistent", "localhost", "::", "::1"),
        *(
            "127.0.0.1",
            "300.0.0.1",
            "0.0.0.0/0",
            "::/0",
            "10.0.0.0/8",
            "a b",
            "a\tb",
            "a\nb",
            "é",
            "http://",
            "https://",
        ),
        *("http://[", "http://127.0.0.1:1", "https://127.0.0.1:99999", "60/minute", "0/second", "1/0", "1e9/day", "60"),
        *("offline/demo", "googleai/", "openai/x", "ollama/x", "granian", "uvicorn", "hypercorn", "json", "console"),
    )
)
# No zero bytes and no lone surrogates: an environment has none. Other than secrets, values are shown to the operator.
_plain = texts.map(lambda text: text.encode("utf-8", "ignore").decode().replace("\x00", "").replace(CANARY, "")[:5000])
environments = st.dictionaries(st.sampled_from(NAMES), _words | _plain, min_size=1, max_size=3).map(
    lambda given: {name: value + CANARY if name in SECRETS else value for name, value in given.items()}
)


def test_any_environment_gives_settings_or_one_line_a_mistake(hunt: Hunt) -> None:
    def check(given: dict[str, str]) -> None:
        with patch.dict(os.environ, {"MODEL": "offline/demo", **given}, clear=True):
            try:
                load_settings()
            except ConfigError as error:
                lines = str(error).splitlines()
                assert 0 < len(lines) <= 2 * len(given) + 1, lines
                assert all("=" in line for line in lines), lines
                assert CANARY not in str(error)

    hunt(environments, check, 200)


def test_any_environment_comes_up_or_ends_with_status_2(hunt: Hunt) -> None:
    def check(given: dict[str, str]) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOST": "127.0.0.1",
            "PORT": str(free_port()),
            "GRPC_PORT": str(free_port()),
            "MODEL": "offline/demo",
            **given,
            "WORKERS": given.get("WORKERS", "1") if not given.get("WORKERS", "1").isdecimal() else "1",
        }
        with TemporaryDirectory() as folder:
            status, output = _start(environment, Path(folder))
        assert "Traceback" not in output, output
        assert CANARY not in output
        if status is None:
            return
        assert status == 2, f"status {status}: {output}"
        lines = [json.loads(line) for line in output.splitlines() if '"critical"' in line]
        assert lines, f"nothing says why: {output!r}"

    hunt(environments, check, STARTS)


def _start(environment: dict[str, str], folder: Path) -> tuple[int | None, str]:
    """The exit status, None where it came up (and was stopped), and its output."""
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "src"], cwd=ROOT, env=environment, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        return _status_of_start(process, lambda: log.read_text(errors="replace")), log.read_text(errors="replace")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _status_of_start(process: "subprocess.Popen[bytes]", output: Callable[[], str]) -> int | None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if "service is up" in output():
            return None
        with suppress(subprocess.TimeoutExpired):
            return process.wait(0.1)
    raise AssertionError(f"neither up nor ended: {output()}")
