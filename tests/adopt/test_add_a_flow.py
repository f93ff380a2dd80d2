"""The tutorial's new flow is really added, and answers over both protocols.

`test_bare_machine.py` adds it once more, and then runs the whole suite.
"""

import re
from pathlib import Path

import pytest

from testing.ports import free_port
from testing.service import ROOT
from tests.docs.blocks import Command, Reader, fences_of, steps_of
from tests.docs.checkout import lend_environment, offline_env, repository

PAGE = ROOT / "docs/add-a-flow.md"


def test_every_step_works_as_shown(tmp_path: Path) -> None:
    """In a copy of this checkout, on free ports, without a network."""
    rest, grpc = str(free_port()), str(free_port())
    copy = repository(tmp_path / "copy")
    lend_environment(copy)
    env = offline_env(tmp_path / "home", PORT=rest, GRPC_PORT=grpc)
    with Reader(copy, env, {"8080": rest, "50051": grpc}) as reader:
        reader.follow(steps_of(PAGE))


def test_what_the_page_says_of_its_length_is_true() -> None:
    """Four files and a test."""
    scripts = [step.script for step in steps_of(PAGE) if isinstance(step, Command)]
    touched = re.findall(r"^\+\+\+ b/(\S+)$", "".join(scripts), re.MULTILINE)
    assert [Path(name).parts[0] for name in touched] == ["src", "src", "protos", "src", "tests"]


def test_every_command_is_run() -> None:
    assert {fence.language for fence in fences_of(PAGE)} == {"bash", "text"}


@pytest.mark.parametrize("name", ["add-a-flow.md", "adopting.md"])
def test_the_files_that_a_page_names_exist(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    named = set(re.findall(r"`((?:src|tests|prompts|protos|docs|deploy)/[\w./-]+)`", page))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] in ([], ["prompts/NAME.prompt"])
