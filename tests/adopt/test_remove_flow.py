"""A flow is removed whole. `test_bare_machine.py` removes them once more, and then runs the whole suite."""

from pathlib import Path

import pytest

from src.operations import OPERATIONS
from tests.docs.checkout import commit, repository
from tools.remove_flow import remove
from tools.rename import Refused

KEPT = ("describe_image", "pirate_chat")


@pytest.fixture(scope="module")
def removed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout with two flows."""
    copy = repository(tmp_path_factory.mktemp("remove-flow") / "copy")
    for operation in OPERATIONS:
        if operation.name not in KEPT:
            remove(copy, operation.path)
            commit(copy)
    return copy


def test_nothing_of_it_is_left_in_the_code(removed: Path) -> None:
    gone = [operation for operation in OPERATIONS if operation.name not in KEPT]
    assert gone
    source = "".join((removed / "src" / name).read_text() for name in ("operations.py", "flows.py", "schemas.py"))
    source += "".join(path.read_text() for path in removed.glob("protos/**/*.proto"))
    assert not [each.name for each in gone if each.name in source or each.path in source or f" {each.rpc}(" in source]


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
