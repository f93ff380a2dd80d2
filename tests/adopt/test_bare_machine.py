"""The whole way of an adopter, on a machine that has Python and little else: start, rename, remove, add a flow, test.

Everything is installed as run.sh does it, so this needs a network, or packages in uv's cache. The tests build on one
another: one copy goes the whole way, and its suite runs whole once, at the end of it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from src.operations import OPERATIONS
from testing.ports import free_port
from tests.docs.blocks import Reader, steps_of
from tests.docs.checkout import commit, lend_node_packages, repository, script
from tests.live.test_run_sh import TOOLS
from tools.remove_flow import EXAMPLE

# Besides what run.sh uses: what pages and tests take from every machine.
ALWAYS_THERE = (*TOOLS, "cp", "cut", "find", "head", "ls", "mkdir", "sed", "sh", "sleep", "sort", "tee", "uniq", "wc")
# What is installed step by step: the commands that come with it. Node's packages are a step of their own.
STEPS = {
    "git, curl, openssl": ("git", "curl", "openssl"),
    "node": ("node", "npx", "npm"),
    "node's packages": (),
    "chromium": ("chromium",),
    "graphviz": ("dot",),
    "nginx": ("nginx",),
    "prometheus": ("promtool", "prometheus"),
}
# All but two, of which the pages need one.
REMOVED_FLOWS = [each.name for each in OPERATIONS if each.name not in (EXAMPLE, "describe_image")]
REMOVED_PARTS = ("Sentry", "Ollama")
# A reason says what is missing, and how to get it.
REASON = re.compile(r"needs ([^()]+ \((Debian: apt install \S+|npm install)\)(, )?)+")
# How this machine gets packages.
SOURCES = re.compile(r"(PIP|UV|SSL_CERT)_\w+|\w+_PROXY", re.IGNORECASE)
# Guards against hanging, no more: a busy machine takes several times what a quiet one does.
SUITE_SECONDS = 1800


def newcomer(home: Path, *commands: str, **env: str) -> Mapping[str, str]:
    """The whole environment of a user who has these commands and those that every machine has."""
    bin_dir = home / "bin"
    bin_dir.mkdir(parents=True)
    for command in (*ALWAYS_THERE, *commands):
        (bin_dir / command).symlink_to(shutil.which(command) or pytest.fail(f"this machine has no {command}"))
    script(bin_dir / "python3", f'exec "{sys.executable}" "$@"')
    sources = {name: value for name, value in os.environ.items() if SOURCES.fullmatch(name)}
    cache = {"UV_CACHE_DIR": str(Path.home() / ".cache/uv")}
    return {"PATH": str(bin_dir), "HOME": str(home), "npm_config_offline": "true", **cache, **sources, **env}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkout, with nothing installed."""
    return repository(tmp_path_factory.mktemp("bare") / "checkout")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_service_starts_answers_and_stops(checkout: Path, tmp_path: Path, stop: signal.Signals) -> None:
    port, grpc_port = str(free_port()), str(free_port())
    command = ["./run.sh", "--port", port, "--grpc-port", grpc_port]
    with subprocess.Popen(
        command, cwd=checkout, env=newcomer(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            wait_until_ready(process, port)
            answer = httpx.post(
                f"http://127.0.0.1:{port}/chat", json={"question": "Where to?"}, trust_env=False, verify=False
            )
            assert "Where to?" in answer.json()["answer"]
        finally:
            process.send_signal(stop)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert "Traceback" not in output


def wait_until_ready(process: "subprocess.Popen[str]", port: str) -> None:
    """Installing what it needs included, the first time."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/ready", trust_env=False, verify=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"not ready: {process.poll()}")


@pytest.fixture(scope="module")
def adopted(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkout under another name, with two of the sample flows, without the parts, with the tutorial's flow.

    As docs/adopting.md goes on.
    """
    home = tmp_path_factory.mktemp("adopter") / "home"
    rest, grpc = str(free_port()), str(free_port())
    env = newcomer(home, "git", "curl", PORT=rest, GRPC_PORT=grpc)
    run(checkout, env, "./run.sh", "setup")
    run(checkout, env, ".venv/bin/just", "rename", "invoice-helper")
    commit(checkout)
    for name in REMOVED_FLOWS:
        assert f"{name} is removed" in run(checkout, env, ".venv/bin/just", "remove-flow", name)
        commit(checkout)
    for name in REMOVED_PARTS:
        assert f"{name} is removed" in run(checkout, env, ".venv/bin/just", "remove-part", name)
        commit(checkout)
    with Reader(checkout, env, {"8080": rest, "50051": grpc}) as reader:
        reader.follow(steps_of(checkout / "docs/add-a-flow.md"))
    return checkout


def run(checkout: Path, env: Mapping[str, str], *command: str) -> str:
    """Run a command, which must end well, and return what it prints."""
    done = subprocess.run(command, cwd=checkout, env=dict(env), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("check", ["ruff check", "ruff format --check", "mypy", "tools.docstrings"])
def test_what_is_left_is_typed_and_formatted(adopted: Path, tmp_path: Path, check: str) -> None:
    run(adopted, newcomer(tmp_path), ".venv/bin/python", "-m", *check.split())


def run_tests(checkout: Path, env: Mapping[str, str], *arguments: str) -> dict[str, str]:
    """Run `./run.sh test`, which must pass, and return the tests that were skipped, each with its reason."""
    report = Path(env["HOME"]) / "report.xml"
    # The same random cases each time: new ones are for the suite itself to find.
    command = [
        "./run.sh",
        "test",
        "--hypothesis-seed=0",
        "-o",
        "junit_family=xunit1",
        f"--junitxml={report}",
        *arguments,
    ]
    done = subprocess.run(command, cwd=checkout, env=dict(env), capture_output=True, text=True, timeout=SUITE_SECONDS)
    assert done.returncode == 0, done.stdout[-100_000:] + done.stderr
    cases = ElementTree.parse(report).iter("testcase")
    skipped = ((case, case.find("skipped")) for case in cases)
    return {
        f"{case.attrib['file']}::{case.attrib['name']}": reason.attrib["message"]
        for case, reason in skipped
        if reason is not None
    }


@pytest.fixture(scope="module")
def skipped(adopted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tests that the whole suite skips with Python alone, and why; the next tests keep it up to date."""
    return run_tests(adopted, newcomer(tmp_path_factory.mktemp("bare") / "home"))


def test_with_python_alone_the_whole_suite_passes_and_says_what_it_leaves_out(skipped: dict[str, str]) -> None:
    assert skipped
    assert not [reason for reason in skipped.values() if not REASON.fullmatch(reason)]


@pytest.mark.parametrize("last", STEPS)
def test_with_each_tool_more_of_what_was_left_out_passes(
    adopted: Path, skipped: dict[str, str], tmp_path: Path, last: str
) -> None:
    """The tools come one after the other; with the last, nothing is left out."""
    names = list(STEPS)
    there = names[: names.index(last) + 1]
    commands = [command for name in there for command in STEPS[name]]
    if last == "node's packages":
        lend_node_packages(adopted)
    before = dict(skipped)
    assert before
    skipped.clear()
    skipped.update(run_tests(adopted, newcomer(tmp_path, *commands), *before))
    assert not [reason for reason in skipped.values() if not REASON.fullmatch(reason)]
    assert not [reason for reason in skipped.values() if any(f"{command} (" in reason for command in commands)]
    assert len(skipped) < len(before) or last == "node"
    assert bool(skipped) == (last != names[-1])
