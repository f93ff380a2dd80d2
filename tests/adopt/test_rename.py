"""The service under another name is the same service."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from testing.service import SAMPLES, Service
from tests.docs.checkout import commit, repository
from tools.rename import Names, Refused, rename

OLD = Names.of_tree(Path(__file__).resolve().parent.parent.parent)
NEW = Names.after("invoice-helper")
WORDS = st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True)


@given(st.lists(WORDS, min_size=2, max_size=4).map("-".join).filter(lambda name: len(name) <= 30))
def test_every_name_is_one_wherever_it_goes(name: str) -> None:
    """As a DNS label with something added, as a Python distribution, as identifiers in a proto file."""
    names = Names.after(name)
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", f"{names.distribution}-grpc")
    assert re.fullmatch(r"[a-z][a-z0-9_]*\.v1", names.package)
    assert re.fullmatch(r"([A-Z][a-z0-9]*)+Service", names.service)
    assert names.folder == names.package.replace(".", "/")


@pytest.mark.parametrize(
    "name",
    ["", "cache", "-a-b", "a-", "a--b", "In-voice", "in_voice-a", "1a-b", "a b-c", "ä-b", "a-" + "b" * 29],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="is no name"):
        Names.after(name)


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout under another name."""
    copy = repository(tmp_path_factory.mktemp("rename") / "copy")
    assert rename(copy, NEW) > 40
    return copy


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_old_names_are_nowhere(renamed: Path) -> None:
    old = "|".join((OLD.distribution, OLD.title, re.escape(OLD.package), OLD.folder, OLD.service))
    found = subprocess.run(["git", "grep", "-nIiE", old], cwd=renamed, capture_output=True, text=True)
    assert found.stdout == ""
    assert Names.of_tree(renamed) == NEW


def test_the_renamed_checkout_is_clean(renamed: Path) -> None:
    """Formatting, and the contract between schemas and messages, by the copy's own tests."""
    for arguments in (("ruff", "check"), ("ruff", "format", "--check"), ("pytest", "-q", "tests/test_contract.py")):
        done = python(renamed, "-m", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_renamed_service_answers_under_its_new_name(renamed: Path) -> None:
    """Over REST, and over gRPC as its reflection tells."""
    with Service(
        ["sh", "-c", f'cd "{renamed}" && exec "{sys.executable}" -m src --debug'], LOG_FORMAT="json", PYTHONPATH=SAMPLES
    ) as service:
        assert service.http.get("/openapi.json").json()["info"]["title"] == NEW.title
        full_name = f"{NEW.package}.{NEW.service}"
        assert full_name in services_of(service.channel)
        call: Any = service.channel.unary_unary(f"/{full_name}/Health")
        assert call(b"", timeout=5)


def services_of(channel: grpc.Channel) -> list[str]:
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    [answer] = stub.ServerReflectionInfo(iter([asked]))
    return [service.name for service in answer.list_services_response.service]


def test_a_renamed_service_can_be_renamed_again(tmp_path: Path) -> None:
    """And back: nothing was lost on the way."""
    copy = repository(tmp_path / "copy")
    before = (copy / "README.md").read_text()
    rename(copy, NEW)
    commit(copy)
    rename(copy, OLD)
    assert (copy / "README.md").read_text() == before
    assert (copy / "protos" / OLD.folder).is_dir()


def test_changes_that_could_be_lost_are_kept(tmp_path: Path) -> None:
    copy = repository(tmp_path / "copy")
    (copy / "README.md").write_text("precious")
    with pytest.raises(Refused, match="not committed"):
        rename(copy, NEW)
    assert (copy / "README.md").read_text() == "precious"


def test_the_command_says_what_it_wants() -> None:
    done = python(Path(__file__).resolve().parent.parent.parent, "-m", "tools.rename", "Not A Name")
    assert done.returncode == 2
    assert done.stderr.startswith("error: 'Not A Name' is no name")
