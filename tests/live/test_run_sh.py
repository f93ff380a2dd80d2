"""`./run.sh` on machines where something is missing, and its second start."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.live.service import ROOT
from tests.ports import free_port

TOOLS = ("bash", "dirname", "basename", "cksum", "tr", "rm", "tail", "grep", "touch", "cat", "env")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what run.sh needs, in a folder whose name has a space."""
    copy = tmp_path / "a clone"
    copy.mkdir()
    shutil.copy(ROOT / "run.sh", copy)
    shutil.copytree(ROOT / "requirements", copy / "requirements")
    return copy


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """The only folder on PATH: the usual small tools, and what a test adds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def run_sh(checkout: Path, bin_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / "run.sh"), *arguments],
        env={"PATH": str(bin_dir)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
    )


def working_venv(checkout: Path) -> None:
    """A virtual environment that is this one, with a pip that can't install."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    python = f'case "$*" in *"-m pip"*) echo "dns error: no such host" >&2; exit 1;; esac\nexec "{sys.executable}" "$@"'
    script(checkout / ".venv" / "bin" / "python", python)


def test_an_old_python_is_named_with_what_is_needed(checkout: Path, bin_dir: Path) -> None:
    script(bin_dir / "python3", 'case "$*" in *--version*) echo "Python 3.9.2";; *) exit 1;; esac')
    done = run_sh(checkout, bin_dir)
    assert done.returncode == 1
    assert done.stderr == "error: Python 3.11 or newer is needed; found Python 3.9.2\n"


def test_no_python_at_all_is_told_alike(checkout: Path, bin_dir: Path) -> None:
    done = run_sh(checkout, bin_dir)
    assert (done.returncode, done.stderr) == (1, "error: Python 3.11 or newer is needed; found none\n")


def test_no_network_is_told(checkout: Path, bin_dir: Path) -> None:
    working_venv(checkout)
    done = run_sh(checkout, bin_dir)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the packages could not be downloaded: is there a network?")
    assert "dns error" in done.stderr


def test_a_failed_install_is_tried_again(checkout: Path, bin_dir: Path) -> None:
    working_venv(checkout)
    assert [run_sh(checkout, bin_dir).returncode for _ in range(2)] == [1, 1]


def test_a_second_start_installs_nothing_and_says_what_is_where(checkout: Path, bin_dir: Path) -> None:
    working_venv(checkout)
    script(bin_dir / "uv", "exit 0")
    assert "Installing requirements/runtime.txt" in run_sh(checkout, bin_dir, "--port", "x").stdout
    began = time.monotonic()
    again = run_sh(checkout, bin_dir, "--port", "x")
    assert time.monotonic() - began < 3
    assert "Installing" not in again.stdout
    for line in ("REST   http://127.0.0.1:8080", "gRPC   127.0.0.1:50051", "offline/demo", "curl -s", "grpcurl "):
        assert line in again.stdout


def test_changed_requirements_are_installed(checkout: Path, bin_dir: Path) -> None:
    working_venv(checkout)
    script(bin_dir / "uv", "exit 0")
    run_sh(checkout, bin_dir)
    with (checkout / "requirements" / "runtime.txt").open("a") as file:
        file.write("# changed\n")
    assert "Installing" in run_sh(checkout, bin_dir).stdout


def test_the_service_of_this_checkout_starts(tmp_path: Path) -> None:
    """With the tests' own environment in place of a new one: what is installed there is a superset."""
    checkout = tmp_path / "clone"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "node_modules", ".*_cache", ".env"))
    (checkout / ".venv" / "bin").mkdir(parents=True)
    script(checkout / ".venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
    uv = tmp_path / "uv"
    uv.mkdir()
    script(uv / "uv", "exit 0")
    port = free_port()
    with subprocess.Popen(
        [str(checkout / "run.sh"), "--port", str(port), "--grpc-port", str(free_port())],
        env={"PATH": f"{uv}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "service is up" in line and not line.startswith("Try"):
                break
        with httpx.Client(transport=httpx.HTTPTransport(retries=9)) as client:
            assert client.get(f"http://127.0.0.1:{port}/ready").status_code == 200
        process.terminate()
        rest = process.stdout.read()
        assert process.wait(10) == 0, rest
    assert "offline/demo" in lines[-1]
