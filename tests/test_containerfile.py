"""Checks of the image without building it; `just container-check` builds and runs it."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Instructions, each on one line.
CONTAINERFILE = re.sub(r"\\\n *", "", (ROOT / "Containerfile").read_text())
IGNORED = (ROOT / ".containerignore").read_text().splitlines()


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", CONTAINERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", ["RUN", "ENTRYPOINT"])
def test_no_instruction_needs_a_shell(name: str) -> None:
    commands = instructions(name)
    assert commands
    for command in commands:
        assert all(isinstance(word, str) for word in json.loads(command))


def test_both_base_images_can_be_pinned_from_outside() -> None:
    assert instructions("FROM") == ["${BUILDER_IMAGE} AS builder", "${RUNTIME_IMAGE}"]
    assert {"BUILDER_IMAGE=docker.io/library/python:3.13-slim"} < set(instructions("ARG"))
    assert "RUNTIME_IMAGE=gcr.io/distroless/python3-debian13:nonroot" in instructions("ARG")


def test_it_runs_as_nobody_and_fetches_nothing_by_itself() -> None:
    assert instructions("USER") == ["65534:65534"]
    assert instructions("ADD") == []
    assert instructions("CMD") == []
    [install] = [command for command in instructions("RUN") if '"pip"' in command]
    assert '"--require-hashes"' in install


def test_nothing_gets_into_the_build_but_what_is_copied() -> None:
    assert IGNORED[1] == "*"
    allowed = {line.removeprefix("!").removesuffix("/*.txt") for line in IGNORED if line.startswith("!")}
    copied = {
        source.replace("${REQUIREMENTS}", "requirements")
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    assert copied == allowed


def test_the_image_has_the_versions_that_are_tested() -> None:
    """requirements/image.txt is a part of requirements/runtime.txt, hashes included."""

    def pins(file: str) -> set[str]:
        return set(re.split(r"\n(?=[a-z])", (ROOT / "requirements" / file).read_text().strip()))

    assert pins("image.txt") < pins("runtime.txt") <= pins("dev.txt")


def test_the_bill_of_materials_is_of_what_the_image_installs() -> None:
    [installed] = [
        value for name, _, value in (arg.partition("=") for arg in instructions("ARG")) if name == "REQUIREMENTS"
    ]
    recipe = (ROOT / "justfile").read_text().partition("\nsbom:")[2].partition("\n\n")[0]
    assert re.findall(r"requirements/\S+", recipe) == [installed]
