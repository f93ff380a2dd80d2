"""Each audit fails on a planted problem, passes on the tree, and never passes on what it could not look up."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testing.fakes.advisories import ADVISORY, PACKAGE, VERSION, advisories

ROOT = Path(__file__).resolve().parent.parent.parent
CLEAN = (ROOT / "requirements" / "runtime.txt").read_text()
VULNERABLE = f"{CLEAN}\n{PACKAGE}=={VERSION} --hash=sha256:{'0' * 64}\n"
Tool = Callable[[str, Path], subprocess.CompletedProcess[str]]
SILENT = "http://127.0.0.1:9"  # the discard port, where no one listens


@pytest.fixture(scope="module")
def osv() -> Iterator[str]:
    with advisories() as url:
        yield url


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", **environment}
    )


def audit(osv: str, requirements: Path) -> subprocess.CompletedProcess[str]:
    options = ("--osv-url", f"{osv}/v1/query", "--cache-dir", str(requirements.parent / "cache"))
    return run(sys.executable, "-m", "tools.audit", str(requirements), *options)


def second_audit(osv: str, requirements: Path) -> subprocess.CompletedProcess[str]:
    """As the recipe `security` runs it, but asking the stand-in alone."""
    recipe = re.search(r"pysentry-rs (.*) --requirements-files", (ROOT / "justfile").read_text())
    assert recipe is not None
    only_the_standin = ("--sources", "osv", "--service-url", osv, "--no-maintenance-check", "--no-cache")
    pysentry = str(Path(sys.executable).parent / "pysentry-rs")
    options = [option for option in recipe[1].split() if not option.startswith("--forbid")]
    return run(pysentry, *options, *only_the_standin, "--requirements-files", str(requirements))


@pytest.mark.parametrize("tool", [audit, second_audit])
def test_what_is_pinned_passes(osv: str, tmp_path: Path, tool: Tool) -> None:
    """The tree is clean as far as the stand-in knows, and every package was asked about."""
    (tmp_path / "requirements.txt").write_text(CLEAN)
    result = tool(osv, tmp_path / "requirements.txt")
    assert result.returncode == 0, result.stdout + result.stderr
    looked_up = max(map(int, re.findall(r"(\d+) packages", result.stdout)))
    assert looked_up >= len(re.findall(r"^[a-zA-Z0-9][^;\n]+$", CLEAN, re.MULTILINE))  # others are for other platforms


@pytest.mark.parametrize("tool", [audit, second_audit])
def test_a_vulnerable_pin_fails(osv: str, tmp_path: Path, tool: Tool) -> None:
    """The output names package and advisory."""
    (tmp_path / "requirements.txt").write_text(VULNERABLE)
    result = tool(osv, tmp_path / "requirements.txt")
    assert result.returncode == 1, result.stdout + result.stderr
    assert PACKAGE in result.stdout
    assert ADVISORY in result.stdout


@pytest.mark.parametrize("tool", [audit, second_audit])
def test_no_answer_is_no_pass(tmp_path: Path, tool: Tool) -> None:
    """Unreadable advisories are a failure with a message."""
    (tmp_path / "requirements.txt").write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{'0' * 64}\n")
    result = tool(SILENT, tmp_path / "requirements.txt")
    assert result.returncode == 2
    assert re.search(r"could not be read|sources failed", result.stderr)


def licenses(requirements: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As the recipe `licenses` runs it."""
    recipe = re.search(r"python (-W .*liccheck.*) -r ", (ROOT / "justfile").read_text())
    assert recipe is not None
    return run(sys.executable, *recipe[1].split(), "-r", str(requirements), **environment)


def test_the_licences_of_what_ships_are_allowed() -> None:
    result = licenses(ROOT / "requirements" / "extras.txt")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("licence", ["GPL-3.0-only", "AGPL-3.0-or-later", "MIT AND GPL-2.0-only", "Proprietary", ""])
def test_a_licence_outside_the_list_fails(tmp_path: Path, licence: str) -> None:
    metadata = tmp_path / "planted_package-1.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.4\nName: {PACKAGE}\nVersion: {VERSION}\nLicense-Expression: {licence}\n")
    (tmp_path / "requirements.txt").write_text(f"{PACKAGE}=={VERSION}\n")
    result = licenses(tmp_path / "requirements.txt", PYTHONPATH=str(tmp_path))
    assert result.returncode != 0
    assert PACKAGE in result.stdout


def test_every_exception_is_for_a_package_that_ships_and_has_its_reason() -> None:
    shipped = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "extras.txt").read_text(), re.MULTILINE))
    _, _, table = (ROOT / "pyproject.toml").read_text().partition("[tool.liccheck.authorized_packages]\n")
    exceptions = re.findall(r'^([a-z0-9-]+) = "\*"(.*)$', table.partition("\n\n")[0], re.MULTILINE)
    assert exceptions
    for package, reason in exceptions:
        assert package in shipped
        assert re.fullmatch(r" +# \w.*", reason)
