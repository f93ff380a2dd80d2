"""`./run.sh` on machines where something is missing, and its second start."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from testing.ports import free_port
from testing.service import ROOT

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
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


def run_sh(checkout: Path, bin_dir: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / "run.sh"), *arguments],
        env={"PATH": str(bin_dir), **env},
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


def test_a_second_start_installs_nothing(checkout: Path, bin_dir: Path) -> None:
    working_venv(checkout)
    script(bin_dir / "uv", "exit 0")
    assert "Installing requirements/runtime.txt" in run_sh(checkout, bin_dir, "--port", "x").stdout
    again = run_sh(checkout, bin_dir, "--port", "x")
    assert "Installing" not in again.stdout
    assert again.stdout == "Starting in debug mode (--help lists the flags) ...\n"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_the_commands_before_the_flags_of_the_service(checkout: Path, bin_dir: Path, flag: str) -> None:
    working_venv(checkout)
    script(bin_dir / "uv", "exit 0")
    shutil.copytree(ROOT / "src", checkout / "src")
    done = run_sh(checkout, bin_dir, flag)
    commands, _, flags = done.stdout.partition("\n\n")
    assert done.returncode == 0
    assert [line.split("  ")[0] for line in commands.splitlines()[1:]] == [
        *("./run.sh [flags]", "./run.sh test [args]", "./run.sh setup", "./run.sh extras")
    ]
    assert flags.startswith("usage: python -m src [flags]\n")


@pytest.mark.parametrize(("command", "file"), [("setup", "dev.txt"), ("extras", "extras.txt")], ids=lambda value: value)
def test_packages_can_be_installed_without_a_start(checkout: Path, bin_dir: Path, command: str, file: str) -> None:
    working_venv(checkout)
    script(bin_dir / "uv", "exit 0")
    done = run_sh(checkout, bin_dir, command)
    assert (done.returncode, done.stdout) == (0, f"Installing requirements/{file} ...\n")


@pytest.fixture
def passed_on(checkout: Path, bin_dir: Path) -> Callable[..., str]:
    """Start run.sh with a service that prints its arguments, and return those."""
    working_venv(checkout)
    script(bin_dir / "uv", "exit 0")
    (checkout / "src").mkdir()
    (checkout / "src" / "__main__.py").write_text("import sys; print(*sys.argv[1:])")
    return lambda flags, env: run_sh(checkout, bin_dir, *flags.split(), **env).stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "env", "expected"),
    [
        pytest.param("", {}, "--debug --env local", id="none"),
        pytest.param("--port 1", {}, "--debug --env local --port 1", id="none, other flags"),
        pytest.param("--env stage", {}, "--debug --env stage", id="by flag"),
        pytest.param("--env=stage", {}, "--debug --env=stage", id="by flag, in one word"),
        pytest.param("", {"APP_ENV": "stage"}, "--debug", id="by the environment"),
    ],
)
def test_a_local_env_file_is_read_unless_another_is_named(
    checkout: Path, passed_on: Callable[..., str], flags: str, env: dict[str, str], expected: str
) -> None:
    (checkout / ".local.env").touch()
    assert passed_on(flags, env) == expected


def test_without_a_local_env_file_none_is_named(passed_on: Callable[..., str]) -> None:
    assert passed_on("", {}) == "--debug"


def test_changed_requirements_are_installed(checkout: Path, bin_dir: Path) -> None:
    working_venv(checkout)
    script(bin_dir / "uv", "exit 0")
    run_sh(checkout, bin_dir)
    with (checkout / "requirements" / "runtime.txt").open("a") as file:
        file.write("# changed\n")
    assert "Installing" in run_sh(checkout, bin_dir).stdout


@pytest.mark.parametrize(
    ("flags", "env", "lines"),
    [
        pytest.param("--port {0} --grpc-port {1}", {}, "", id="by flags"),
        pytest.param("", {"PORT": "{0}", "GRPC_PORT": "{1}"}, "", id="by the environment"),
        pytest.param("", {}, "PORT={0}\nGRPC_PORT={1}\n", id="by an env file"),
        pytest.param("--no-grpc --port {0}", {}, "", id="without gRPC"),
    ],
)
def test_a_start_says_where_the_service_listens(tmp_path: Path, flags: str, env: dict[str, str], lines: str) -> None:
    """With the tests' own environment in place of a new one: what is installed there is a superset."""
    checkout = tmp_path / "clone"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "node_modules", ".*_cache", "*.env"))
    (checkout / ".venv" / "bin").mkdir(parents=True)
    script(checkout / ".venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
    uv = tmp_path / "uv"
    uv.mkdir()
    script(uv / "uv", "exit 0")
    port, grpc_port = (str(free_port()) for _ in range(2))
    (checkout / ".local.env").write_text(lines.format(port, grpc_port))
    with subprocess.Popen(
        [str(checkout / "run.sh"), *flags.format(port, grpc_port).split()],
        env={"PATH": f"{uv}:{os.environ['PATH']}"} | {name: text.format(port, grpc_port) for name, text in env.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            printed = []
            for line in process.stdout:
                printed.append(COLOURS.sub("", line))
                if "service is up" in line:
                    break
            with httpx.Client(transport=httpx.HTTPTransport(retries=9)) as client:
                assert client.get(f"http://127.0.0.1:{port}/ready").status_code == 200
        finally:
            process.terminate()
        rest = process.stdout.read()
        assert process.wait(10) == 0, rest
    up = printed[-1]
    assert "model=offline/demo" in up
    assert f"rest=http://127.0.0.1:{port}" in up
    assert f"docs=http://127.0.0.1:{port}/docs" in up
    named = set(re.findall(r"(?:127\.0\.0\.1|localhost):(\d+)", "".join(printed)))
    assert named == ({port} if "--no-grpc" in flags else {port, grpc_port})
