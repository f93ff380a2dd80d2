"""`python -m tools.remove_part NAME`: removes a part as its row of the table in docs/adopting.md says.

It deletes the row's files, and in other files each statement, each entry of a list and each line that names the part;
then it formats the code and writes the example of the settings. It prints the lines that still name the part.
`git diff HEAD` shows all of it, `git reset --hard` takes it back.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.remove_flow import Span, cut, mentions
from tools.rename import ROOT, Refused, need_clean

PAGE = "docs/adopting.md"
_PLACES = (
    *("README.md", "docs", "src", "testing", "tests", "tools/site", "deploy"),
    *(":!docs/performance", ":!docs/bounds.md"),
)
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Part:
    """A row of the table.

    Attributes:
        name: The row's first cell.
        deleted: Files and folders that go whole.
        words: What names the part in code.
        edited: Files that lose what names it.
    """

    name: str
    deleted: tuple[str, ...]
    words: tuple[str, ...]
    edited: tuple[str, ...]

    @property
    def mention(self) -> "re.Pattern[str]":
        """Finds its words, in any case, where no letter stands before them."""
        return re.compile(rf"(?<![a-zA-Z])(?i:{'|'.join(map(re.escape, self.words))})")


def parts(page: str) -> Iterator[Part]:
    """The rows of the table, which has four columns."""
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 4 and "`" in line:  # noqa: PLR2004
            name, *codes = cells
            yield Part(name, *(tuple(_CODE.findall(code)) for code in codes))


def find(root: Path, name: str) -> Part:
    """The part of this name. Raises Refused where there is none."""
    found = {part.name.lower(): part for part in parts((root / PAGE).read_text(encoding="utf-8"))}
    if name.lower() not in found:
        raise Refused(f"{name!r} is not in the table of {PAGE}; it has {', '.join(found)}")
    return found[name.lower()]


def remove(root: Path, name: str) -> Part:
    """Remove the part from this checkout. Raises Refused, before it changes anything."""
    need_clean(root)
    part = find(root, name)
    for path in (root / file for file in part.deleted):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (root / file for file in part.edited):
        source = path.read_text(encoding="utf-8")
        named = naming(source, part.mention) if path.suffix == ".py" else _lines(source, part.mention)
        cut(path, list(named))
    page = root / PAGE
    rows = page.read_text(encoding="utf-8").splitlines(keepends=True)
    page.write_text("".join(row for row in rows if not row.startswith(f"| {part.name} |")), encoding="utf-8")
    for module in (("ruff", "check", "--fix", "--quiet"), ("ruff", "format", "--quiet"), ("tools.env_example",)):
        subprocess.run([sys.executable, "-m", *module], cwd=root, check=False)  # it says itself what is left to do
    return part


def _lines(text: str, mention: "re.Pattern[str]") -> Iterator[Span]:
    for number, line in enumerate(text.splitlines(), 1):
        if mention.search(line):
            yield number, number


def naming(source: str, mention: "re.Pattern[str]") -> set[Span]:
    """The lines of the statements, and of the entries of lists, tuples and dictionaries, that name it.

    Of those that begin and end a line, the smallest around each mention. Comments and docstrings name nothing.
    """
    lines = source.splitlines()
    spans = {span for span in _removable(ast.parse(source)) if _fills_its_lines(span, lines)}
    named = {(node.lineno, node.end_lineno or 0) for node in _naming(ast.parse(source), mention)}
    around = (
        [span[:2] for span in sorted(spans, key=lambda span: span[1] - span[0]) if span[0] <= first <= last <= span[1]]
        for first, last in named
    )
    return _outermost({found[0] for found in around if found})


def _removable(module: ast.Module) -> Iterator[tuple[int, int, int, int]]:
    """Of each: its first and its last line, and the columns where it begins and ends there."""
    for node in ast.walk(module):
        if isinstance(node, ast.stmt):
            decorators = [(each.lineno, each.col_offset - 1) for each in getattr(node, "decorator_list", [])]
            line, column = min([(node.lineno, node.col_offset), *decorators])
            yield line, node.end_lineno or 0, column, node.end_col_offset or 0
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            for entry in node.elts:
                yield entry.lineno, entry.end_lineno or 0, entry.col_offset, entry.end_col_offset or 0
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is not None:
                    yield key.lineno, value.end_lineno or 0, key.col_offset, value.end_col_offset or 0


def _fills_its_lines(span: tuple[int, int, int, int], lines: Sequence[str]) -> bool:
    first, last, begin, end = span
    before, after = lines[first - 1].encode()[:begin], lines[last - 1].encode()[end:].decode()
    return not before.strip() and re.fullmatch(r",?\s*(#.*)?", after) is not None


def _naming(module: ast.Module, mention: "re.Pattern[str]") -> Iterator[ast.expr | ast.stmt]:
    """Yield the nodes that name the part, except imports: formatting removes those that are left without a use."""
    docstrings = {node.value for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        match node:
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.Constant(value=str(text)):
                is_named = node not in docstrings
            case ast.FunctionDef(name=text) | ast.AsyncFunctionDef(name=text) | ast.ClassDef(name=text):
                is_named = True
            case _:
                continue
        if is_named and mention.search(text):
            yield node


def _outermost(spans: set[Span]) -> set[Span]:
    return {span for span in spans if not any(a <= span[0] and span[1] <= b for a, b in spans - {span})}


def main(argv: Sequence[str]) -> int:
    """Remove the part from the checkout this stands in; the exit status is 2 where that is refused."""
    try:
        if len(argv) != 1:
            raise Refused("say which part: just remove-part NAME")
        part = remove(ROOT, argv[0])
        places = mentions(ROOT, part.mention, _PLACES)
    except Refused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    print(f"{part.name} is removed.")
    for place in places:
        print(f"still named in {place}")
    print(
        "Look at it with 'git diff HEAD'. If pyproject.toml changed, run 'just lock'. Run './run.sh test', and commit."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
