"""`python -m tools.docstrings`: no docstring begins with a noun clause, such as "What has left of a response".

A reader has to finish such a clause before learning what the thing does. A verb or the thing's name says it at once.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("benchmarks", "docs", "src", "tests", "tools")
_NOUN_CLAUSE = re.compile(r"(What|Who|Whom|Whose|Whether|Where|Which|When|Why|How)\b")
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def noun_clauses(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the first line of each docstring that begins with a noun clause."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _Documented) and _NOUN_CLAUSE.match(text := ast.get_docstring(node) or ""):
            yield node.body[0].lineno, text.partition("\n")[0]


def main() -> int:
    """Print each one; the exit status is 1 if there is any."""
    status = 0
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for line, text in noun_clauses(path.read_text(encoding="utf-8")):
            print(f"{path.relative_to(ROOT)}:{line}: begin with a verb or a noun: {text}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
