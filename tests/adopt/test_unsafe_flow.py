"""A flow that gives callers a say in the prompt doesn't get past the suite, however it is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.checkout import repository

SAFE = "await self._llm.text(Say.PIRATE_CAPTAIN, free_text(input.question))"

NOT_AS_WRITTEN = "AssertionError: in exactly one user part"
# What it says instead, and what the suite's answer holds.
UNSAFE = {
    "an f-string": (
        'await self._llm.text(Say.PIRATE_CAPTAIN, f"Answer: {input.question}")',
        "Internal error",
    ),
    "in the system prompt": (
        'await self._llm.text(Instruction("Mine", {"X": input.question}).X, Say.TEXT)',
        NOT_AS_WRITTEN,
    ),
    "beside the guarded way": (
        '(await self._llm._ai.generate(system="Be brief.", prompt=f"Answer: {input.question}")).text',
        NOT_AS_WRITTEN,
    ),
    "stripped of what looks odd": (
        'await self._llm.text(Say.PIRATE_CAPTAIN, free_text(input.question.replace("{{", "")))',
        NOT_AS_WRITTEN,
    ),
}


@pytest.mark.parametrize("way", UNSAFE)
def test_an_unsafe_flow_fails_the_suite(tmp_path: Path, way: str) -> None:
    code, reason = UNSAFE[way]
    copy = repository(tmp_path / "copy")
    flows = copy / "src/flows.py"
    source = flows.read_text()
    assert SAFE in source
    flows.write_text(source.replace(SAFE, code))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "tests/live/test_text_is_data.py", "-k", "pirate_chat"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert reason in done.stdout


def test_a_type_checker_refuses_an_f_string(tmp_path: Path) -> None:
    """In the editor already, before any test runs."""
    copy = repository(tmp_path / "copy")
    flows = copy / "src/flows.py"
    code = 'await self._llm.text(Say.PIRATE_CAPTAIN, f"Answer: {input.question}")'
    flows.write_text(flows.read_text().replace(SAFE, code))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "src/flows.py"], cwd=copy, capture_output=True, text=True, timeout=120
    )
    assert 'incompatible type "str"' in done.stdout, done.stdout + done.stderr
