"""The first page a newcomer follows works word for word."""

from pathlib import Path

import pytest

from testing.ports import free_port
from testing.service import ROOT
from tests.docs.blocks import Command, Interrupt, Reader, fences_of, matches, steps_of
from tests.docs.checkout import lend_environment, offline_env, repository
from tests.needs import needs

PAGE = ROOT / "docs/getting-started.md"
ADDRESS = "https://github.com/your-team/hardened-genkit-service.git"
ENDLESS = '```bash title="Terminal 1, keeps running"\n'


@needs("bash", "git", "curl", "npx", "buf")
def test_every_command_works_and_prints_what_the_page_shows(tmp_path: Path) -> None:
    """In a clone of this checkout, on free ports, without a network."""
    rest, grpc = str(free_port()), str(free_port())
    origin = repository(tmp_path / "origin" / "hardened-genkit-service.git")
    env = offline_env(tmp_path / "home", PORT=rest, GRPC_PORT=grpc, HOST="127.0.0.1")
    newcomer = tmp_path / "newcomer"
    newcomer.mkdir()
    clone, *others = steps_of(PAGE)
    with Reader(newcomer, env, {ADDRESS: str(origin), "8080": rest, "50051": grpc}) as reader:
        reader.do(clone)
        lend_environment(newcomer / "hardened-genkit-service")
        reader.follow(others)


def test_commands_that_nobody_runs_say_why() -> None:
    shown = [fence for fence in fences_of(PAGE) if fence.language not in ("bash", "text")]
    assert shown
    assert all(fence.language == "console" and fence.shown_only for fence in shown)


def test_a_newcomers_path_is_short() -> None:
    """Seven commands, at most, to the first answers of both protocols, and no file to touch."""
    scripts = [step.script for step in steps_of(PAGE) if isinstance(step, Command)]
    before = next(place for place, script in enumerate(scripts) if "PirateChat" in script)
    assert sum(len(script.splitlines()) for script in scripts[:before]) + 1 <= 7


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.md"


def test_blocks_are_read_with_their_output_and_terminal(page: Path) -> None:
    page.write_text(
        '# Page\n\n=== "Tab"\n\n    ```bash title="Terminal 2, fails"\n    one \\\n      two\n    ```\n\n'
        '    ```text title="Output"\n    ...no\n    ```\n\n```console\nnot run\n```\n\n<!-- Ctrl+C in Terminal 2 -->\n'
    )
    command = Command("one \\\n  two\n", "Terminal 2", 5, fails=True, output="...no\n")
    assert steps_of(page) == [command, Interrupt("Terminal 2", 18)]


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        pytest.param("```bash\nfalse\n```", "status 1", id="a failure"),
        pytest.param('```bash title="Terminal 1, fails"\ntrue\n```', "status 0", id="no failure"),
        pytest.param('```bash\necho a\n```\n\n```text title="Output"\nb\n```', "expected\nb", id="another output"),
        pytest.param(f'{ENDLESS}true\n```\n\n```text title="Output"\nup\n```', "has ended", id="an end too soon"),
        pytest.param("<!-- Ctrl+C in Terminal 1 -->", "nothing runs", id="nothing to stop"),
    ],
)
def test_what_does_not_hold_fails(page: Path, tmp_path: Path, block: str, complaint: str) -> None:
    page.write_text(f"{block}\n\n")
    with Reader(tmp_path, {"PATH": "/usr/bin:/bin"}) as reader, pytest.raises(AssertionError, match=complaint):
        reader.follow(steps_of(page))


def test_what_keeps_running_has_to_show_when_it_is_up(page: Path) -> None:
    page.write_text(f"{ENDLESS}sleep 9\n```\n")
    with pytest.raises(ValueError, match="line 1: show by its output"):
        steps_of(page)


def test_a_terminal_stays_in_its_folder(page: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    page.write_text('```bash\ncd inner\n```\n\n```bash\npwd\n```\n\n```text title="Output"\n.../inner\n```\n')
    with Reader(tmp_path, {"PATH": "/usr/bin:/bin"}) as reader:
        reader.follow(steps_of(page))


def test_dots_stand_for_any_text_and_nothing_else_does() -> None:
    assert matches('{"id":"..."}\n...\nend', '{"id":"1"}  \n\x1b[2mx\x1b[0m\ny\nend\n')
    assert not matches("a.c", "abc")
    assert not matches("a", "ab")
    assert matches("a", "ab", whole=False)
