"""A service without most of the sample flows is checked like the one with all of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from src.operations import OPERATIONS
from tests.docs.checkout import commit, repository
from tools.remove_flow import mentions, remove
from tools.rename import Refused

KEPT = ("describe_image", "pirate_chat")


@pytest.fixture(scope="module")
def removed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout with two flows."""
    copy = repository(tmp_path_factory.mktemp("remove-flow") / "copy")
    for operation in OPERATIONS:
        if operation.name not in KEPT:
            flow = remove(copy, operation.path)
            in_pages = [place for place in mentions(copy, flow) if not place.startswith("src/")]
            assert mentions(copy, flow) == in_pages, "nothing of it is left in the code"
            commit(copy)
    return copy


@pytest.mark.parametrize(
    "arguments",
    [
        ("ruff", "check"),
        ("ruff", "format", "--check"),
        ("mypy",),
        (
            "pytest",
            "-q",
            "tests/test_contract.py",
            "tests/flows",
            "tests/rest/test_app.py",
            "tests/live/test_gemini.py",
        ),
    ],
    ids=" ".join,
)
def test_what_is_left_is_whole(removed: Path, arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=removed, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_prompt_file_is_left(removed: Path) -> None:
    assert not list(removed.glob("prompts/*"))


def test_changes_that_could_be_lost_are_kept(tmp_path: Path) -> None:
    copy = repository(tmp_path / "copy")
    (copy / "README.md").write_text("precious")
    with pytest.raises(Refused, match="not committed"):
        remove(copy, KEPT[0])
    assert (copy / "README.md").read_text() == "precious"


def test_the_last_flow_stays(removed: Path) -> None:
    remove(removed, KEPT[0])
    commit(removed)
    with pytest.raises(Refused, match="is the last flow"):
        remove(removed, KEPT[1])
