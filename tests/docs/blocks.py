"""The command blocks of a documentation page, and a reader who follows them.

How a page is written:

- A `bash` block is run. `title="Terminal 2"` says where; a terminal keeps its folder from block to block.
- After a comma the title says what to expect, if it is not a command that ends well: `Terminal 1, keeps running` or
  `Terminal 1, fails`.
- The block after it, if titled `Output`, is what it must print. `...` in there stands for any text. What keeps running
  is up when it has printed this, so it needs one.
- `<!-- Ctrl+C in Terminal 1 -->` stops what runs there; it must end with status 0.
- Any other block is shown only. `<!-- shown only: why -->` above one with commands says why nobody runs it.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Self

FIRST_TERMINAL = "Terminal 1"
PATIENCE_SECONDS = 120.0

_PARTS = re.compile(
    r"(?:^ *<!-- shown only: (?P<reason>[^\n]*?) -->\n\n?)?"
    r"^(?P<indent> *)(?P<ticks>```+) *(?P<language>\w*)(?P<options>[^\n]*)\n(?P<text>.*?)^ *(?P=ticks) *$"
    r"|^ *<!-- Ctrl\+C in (?P<stopped>[^\n]*?) -->$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'title="([^"]*)"')
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced block.

    Attributes:
        text: Without the indentation of the fence.
        line: Where it begins, from 1.
        shown_only: Why it is not run, where the page says so.
    """

    language: str
    title: str
    text: str
    line: int
    shown_only: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that a reader types into a terminal.

    Attributes:
        output: What it prints, with `...` for any text; None: whatever it may be.
    """

    script: str
    terminal: str
    line: int
    keeps_running: bool = False
    fails: bool = False
    output: str | None = None


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Ctrl+C, pressed in a terminal."""

    terminal: str
    line: int


Step = Command | Interrupt


def fences_of(page: Path) -> list[Fence]:
    """All fenced blocks of a page, in order."""
    return [part for part in _parts_of(page) if isinstance(part, Fence)]


def steps_of(page: Path) -> list[Step]:
    """Return the steps of a reader of the page, in order."""
    parts = _parts_of(page)
    steps: list[Step] = []
    for part, after in zip_longest(parts, parts[1:]):
        if isinstance(part, Interrupt):
            steps.append(part)
        elif part.language == "bash":
            output = after.text if isinstance(after, Fence) and after.title == "Output" else None
            steps.append(_command(part, output))
    return steps


def _parts_of(page: Path) -> list[Fence | Interrupt]:
    markdown = page.read_text(encoding="utf-8")
    return [_part(found, markdown) for found in _PARTS.finditer(markdown)]


def _part(found: re.Match[str], markdown: str) -> Fence | Interrupt:
    begin = found.start() if found["stopped"] else found.start("ticks")
    line = markdown.count("\n", 0, begin) + 1
    if found["stopped"]:
        return Interrupt(found["stopped"], line)
    title = _TITLE.search(found["options"])
    text = re.sub(rf"^ {{0,{len(found['indent'])}}}", "", found["text"], flags=re.MULTILINE)
    return Fence(found["language"], title[1] if title else "", text, line, found["reason"] or "")


def _command(fence: Fence, output: str | None) -> Command:
    terminal, _, expectation = fence.title.partition(", ")
    if expectation not in ("", "keeps running", "fails"):
        raise ValueError(f"line {fence.line}: {expectation!r} is neither 'keeps running' nor 'fails'")
    if expectation == "keeps running" and output is None:
        raise ValueError(f"line {fence.line}: show by its output when it is up")
    return Command(
        script=fence.text,
        terminal=terminal or FIRST_TERMINAL,
        line=fence.line,
        keeps_running=expectation == "keeps running",
        fails=expectation == "fails",
        output=output,
    )


def matches(expected: str, printed: str, *, whole: bool = True) -> bool:
    """Compare the output with the one that the page shows; with `whole` off, only its beginning."""
    pattern = ".*".join(re.escape(text) for text in _plain(expected).split("..."))
    return re.match(pattern + (r"\Z" if whole else ""), _plain(printed), re.DOTALL) is not None


def _plain(text: str) -> str:
    """Without colours, and without the spaces that nobody sees."""
    return "\n".join(line.rstrip() for line in _COLOURS.sub("", text).strip().splitlines())


class Reader:
    """Does what a page says, each terminal in a folder of its own choice. A context manager that ends what it began.

    Args:
        folder: Where every terminal opens.
        env: The whole environment of the commands.
        replace: Texts that are other ones here, such as ports; in commands and in what they print.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], replace: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._env = dict(env)
        self._replace = dict(replace or {})
        self._folders: dict[str, Path] = {}
        self._running: dict[str, _Running] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running.values():
            running.kill()

    def follow(self, steps: Sequence[Step]) -> None:
        """Do these steps. Raises AssertionError, with the page's line, where something else comes of it."""
        for step in steps:
            self.do(step)

    def do(self, step: Step) -> None:
        """Do one step; raises as `follow`."""
        if isinstance(step, Interrupt):
            assert step.terminal in self._running, f"line {step.line}: nothing runs in {step.terminal}"
            self._running[step.terminal].interrupt(step.line)
            del self._running[step.terminal]
        else:
            assert step.terminal not in self._running, f"line {step.line}: {step.terminal} is busy"
            self._run(step)

    def _run(self, step: Command) -> None:
        folder = self._folders.get(step.terminal, self._folder)
        running = _Running(self._replaced(step.script), folder, self._env)
        self._running[step.terminal] = running
        expected = None if step.output is None else self._replaced(step.output)
        if step.keeps_running:
            running.wait_for(expected or "", step)
            return
        running.wait_for_end(expected, step)
        self._folders[step.terminal] = running.folder_after()
        running.kill()
        del self._running[step.terminal]

    def _replaced(self, text: str) -> str:
        for old, new in self._replace.items():
            text = text.replace(old, new)
        return text


class _Running:
    """A script in a shell."""

    def __init__(self, script: str, folder: Path, env: Mapping[str, str]) -> None:
        self._output: IO[bytes] = TemporaryFile()  # noqa: SIM115 - closed in kill
        self._where: IO[bytes] = TemporaryFile()  # noqa: SIM115 - likewise
        noting = f"trap 'pwd >&{self._where.fileno()}' EXIT\n"
        self._process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", noting + script],
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            pass_fds=[self._where.fileno()],
            start_new_session=True,
        )

    def wait_for(self, expected: str, step: Command) -> None:
        """Wait until it has printed this, and possibly more."""
        for _ in _moments():
            if matches(expected, self.printed(), whole=False):
                return
            assert self._process.poll() is None, f"line {step.line}: has ended\n{self.printed()}"
        raise AssertionError(f"line {step.line}: expected\n{expected}\ngot\n{self.printed()}")

    def wait_for_end(self, expected: str | None, step: Command) -> None:
        """Wait until it has ended as the page says."""
        status = self._ended(step.line)
        printed = self.printed()
        assert (status != 0) == step.fails, f"line {step.line}: status {status}\n{printed}"
        if expected is not None:
            assert matches(expected, printed), f"line {step.line}: expected\n{expected}\ngot\n{printed}"

    def interrupt(self, line: int) -> None:
        """Press Ctrl+C: signal everything that runs in the terminal."""
        os.killpg(self._process.pid, signal.SIGINT)
        status = self._ended(line)
        assert status == 0, f"line {line}: status {status}\n{self.printed()}"
        self.kill()

    def _ended(self, line: int) -> int:
        try:
            return self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"line {line}: does not end\n{self.printed()}") from None

    def printed(self) -> str:
        """All of it so far."""
        return _content(self._output)

    def folder_after(self) -> Path:
        """Return the shell's folder at its end."""
        return Path(_content(self._where).strip())

    def kill(self) -> None:
        """End all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()
        self._where.close()


def _content(file: IO[bytes]) -> str:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def _moments() -> Iterator[None]:
    """As long as one waits for something to appear."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(0.02)
