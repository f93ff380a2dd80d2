"""Both commands of the README in a fresh checkout, on machines that have Python and little else."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.docs.checkout import lend_node_packages, lend_packages, repository, script
from tests.live.test_run_sh import TOOLS
from tests.ports import free_port

# Besides what run.sh uses: what pages and tests take from every machine.
ALWAYS_THERE = (*TOOLS, "cp", "cut", "head", "ls", "mkdir", "sed", "sh", "sleep", "sort", "tee", "uniq", "wc")
# What is installed step by step: the commands that come with it. Node's packages are a step of their own.
STEPS = {
    "git, curl, openssl": ("git", "curl", "openssl"),
    "node": ("node", "npx", "npm"),
    "node's packages": (),
    "chromium": ("chromium",),
}
SKIP = re.compile(r"^SKIPPED \[\d+\] .*?: (.*)$", re.MULTILINE)
# A reason says what is missing, and how to get it.
REASON = re.compile(r"needs ([^()]+ \((Debian: apt install \S+|npm install)\)(, )?)+")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkout whose `.venv` is lent, as after a first install."""
    folder = repository(tmp_path_factory.mktemp("bare") / "checkout")
    lend_packages(folder)
    return folder


def newcomer(home: Path, *commands: str) -> Mapping[str, str]:
    """The whole environment of a user who has these commands and those that every machine has."""
    bin_dir = home / "bin"
    bin_dir.mkdir(parents=True)
    for command in (*ALWAYS_THERE, *commands):
        (bin_dir / command).symlink_to(shutil.which(command) or pytest.fail(f"this machine has no {command}"))
    script(bin_dir / "python3", f'exec "{sys.executable}" "$@"')
    script(bin_dir / "uv", "exit 0")
    return {"PATH": str(bin_dir), "HOME": str(home), "npm_config_offline": "true"}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_service_starts_answers_and_stops(checkout: Path, tmp_path: Path, stop: signal.Signals) -> None:
    port, grpc_port = str(free_port()), str(free_port())
    command = ["./run.sh", "--port", port, "--grpc-port", grpc_port]
    with subprocess.Popen(
        command, cwd=checkout, env=newcomer(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            wait_until_ready(process, port)
            answer = httpx.post(f"http://127.0.0.1:{port}/translate", json={"text": "hello"}, trust_env=False)
            assert answer.json()["original_text"] == "hello"
        finally:
            process.send_signal(stop)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 0, output
    assert "Traceback" not in output


def wait_until_ready(process: "subprocess.Popen[str]", port: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ready", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"not ready: {process.poll()}")


def run_tests(checkout: Path, env: Mapping[str, str], *arguments: str) -> set[str]:
    """Run `./run.sh test`, which must pass, and return why tests were skipped."""
    done = subprocess.run(
        ["./run.sh", "test", *arguments], cwd=checkout, env=dict(env), capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stdout[-100_000:] + done.stderr
    return set(SKIP.findall(done.stdout))


def test_with_python_alone_the_whole_suite_passes(checkout: Path, tmp_path: Path) -> None:
    reasons = run_tests(checkout, newcomer(tmp_path))
    assert reasons
    assert not [reason for reason in reasons if not REASON.fullmatch(reason)]


@pytest.mark.parametrize("last", STEPS)
def test_with_more_tools_what_needs_tools_still_passes(checkout: Path, tmp_path: Path, last: str) -> None:
    """The tools come one after the other; the files of tests that need any."""
    names = list(STEPS)
    there = names[: names.index(last) + 1]
    commands = [command for name in there for command in STEPS[name]]
    packages = checkout / "node_modules"
    packages.unlink(missing_ok=True)
    if "node's packages" in there:
        lend_node_packages(checkout)
    tests = (checkout / "tests").rglob("test_*.py")
    affected = [str(path) for path in tests if re.search(r"^from tests\.needs import", path.read_text(), re.MULTILINE)]
    assert affected
    reasons = run_tests(checkout, newcomer(tmp_path, *commands), *affected)
    assert not [reason for reason in reasons if not REASON.fullmatch(reason)]
    assert not [reason for reason in reasons if any(f"{command} (" in reason for command in commands)]
    assert any("graphviz" in reason for reason in reasons)
