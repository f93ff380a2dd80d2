"""`python -m tools.remove_flow NAME`: removes a flow, by its name, its path or its RPC.

Removes its row, its method, its RPC, what only these used (models, messages, instructions, imports, its prompt file),
its tests, its rows in the tables of the contract test and of the pages, and the blocks of the pages that call it; then
generates the code of the proto file.
It prints the lines that still name the flow. `git diff HEAD` shows all of it, `git reset --hard` takes it back.
"""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.rename import PROTOS, ROOT, Refused, generate, git, need_clean

OPERATIONS, FLOWS, SCHEMAS = "src/operations.py", "src/flows.py", "src/schemas.py"
CONTRACT = "tests/test_contract.py"
# Tests and benchmarks use flows of their own, `testing.small_service`, some under the same names.
_PLACES = ("README.md", "docs", "src", ":!src/generated", ":!docs/performance")
# For flows to come: the page about adding one uses them.
_KEPT = {(SCHEMAS, "NonBlankText"), (FLOWS, "TEXT")}
# What the blocks of the pages call: without it too little of the pages would be left.
EXAMPLE = "pirate_chat"
# A fenced block of a page, with its output and the paragraph that ends with a colon before it.
_BLOCK = re.compile(
    r"(?m)(?:(?:^[^#\n].*\n)*?^[^#\n].*:\n\n)?^(?P<indent> *)```\w[^\n]*\n(?P<text>(?:.*\n)*?)(?P=indent)```\n\n?"
    r"(?:(?P=indent)```text title=\"Output\"\n(?:.*\n)*?(?P=indent)```\n\n?)?"
)
_RPC = re.compile(r"rpc (\w+)\((?:stream )?(\w+)\) returns \((?:stream )?(\w+)\);")
Span = tuple[int, int]  # the first and the last line, from 1


@dataclass(frozen=True, slots=True)
class Flow:
    """A row of the operations, as its source has it.

    Attributes:
        name: The method of `Flows`.
        span: The row's lines.
    """

    name: str
    path: str
    rpc: str
    span: Span

    def is_called(self, name: str) -> bool:
        """True for the flow's name, its path (the first slash may be left out) and its RPC."""
        return name in (self.name, self.path, self.path.removeprefix("/"), self.rpc)

    @property
    def mention(self) -> str:
        """A regular expression that finds it in texts: not as a part of a longer name or path."""
        return rf"\b{self.name}\b|(^|[^\w.*]|:\d+){self.path}($|[^-/\w])|\b{self.rpc}\b"


@dataclass(frozen=True, slots=True)
class Definition:
    """Something that may be left without a use: a model, a function, a constant, an instruction, an attribute."""

    file: str
    name: str
    span: Span


def remove(root: Path, name: str) -> Flow:
    """Remove the flow from this checkout. Raises Refused, before it changes anything."""
    need_clean(root)
    flow = find(root, name)
    need_no_call(root, flow)
    spared = _KEPT | {(each.file, each.name) for each in _unused(root)}
    method, proto = _method(root, flow.name), _proto(root)
    text = without_rpc(proto.read_text(encoding="utf-8"), flow.rpc)
    cut(root / OPERATIONS, [flow.span])
    cut(root / FLOWS, [method])
    gone = {flow.name, flow.path, flow.rpc} | _remove_unused(root, spared)
    _remove_prompt_files(root)
    proto.write_text(text, encoding="utf-8")
    _remove_tests(root, flow, gone)
    remove_from_pages(root, flow)
    generate(root, proto.parent.relative_to(root / PROTOS).as_posix())
    return flow


def find(root: Path, name: str) -> Flow:
    """The flow that is meant. Raises Refused where there is none, or where it is the last one."""
    flows = list(_flows(_parsed(root / OPERATIONS)))
    found = [flow for flow in flows if flow.is_called(name)]
    if len(found) != 1:
        raise Refused(f"{name!r} is no flow; there are {', '.join(flow.name for flow in flows)}")
    if len(flows) == 1:
        raise Refused(f"{name} is the last flow: add yours first (docs/add-a-flow.md)")
    return found[0]


def need_no_call(root: Path, flow: Flow) -> None:
    """Raise Refused where the flow is the pages' example and one of their blocks calls it."""
    pages = [page.name for page in _pages(root) if flow.name == EXAMPLE and _blocks(page, flow)]
    if pages:
        raise Refused(f"blocks of {', '.join(pages)} call {flow.name}: let them call another flow first")


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _flows(module: ast.Module) -> Iterator[Flow]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Operation":
            given = node.args + [keyword.value for keyword in node.keywords]
            flow, _, _, path, rpc = (ast.unparse(each) for each in given[:5])
            yield Flow(flow.removeprefix("Flows."), ast.literal_eval(path), ast.literal_eval(rpc), _span(node))


def _span(node: ast.AST) -> Span:
    decorators = [decorator.lineno for decorator in getattr(node, "decorator_list", [])]
    return min([node.lineno, *decorators]), node.end_lineno  # type: ignore[attr-defined]


def _method(root: Path, name: str) -> Span:
    for node in ast.walk(_parsed(root / FLOWS)):
        if isinstance(node, ast.AsyncFunctionDef) and node.name == name:
            return _span(node)
    raise Refused(f"{FLOWS} has no method {name}")


def cut(path: Path, spans: Sequence[Span]) -> None:
    """Remove these lines, and the comments right above them."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for first, last in sorted(spans, reverse=True):
        while first > 1 and lines[first - 2].lstrip().startswith("#"):
            first -= 1  # noqa: PLW2901
        del lines[first - 1 : last]
    path.write_text("".join(lines), encoding="utf-8")


def _unused(root: Path) -> Iterator[Definition]:
    """The definitions of flows and schemas that nothing in `src` refers to, but for themselves."""
    used: dict[str, list[tuple[str, int]]] = {}
    for path in (root / "src").rglob("*.py"):
        if path.parent.name != "generated":
            for name, line in _references(_parsed(path)):
                used.setdefault(name, []).append((path.relative_to(root).as_posix(), line))
    for file in (FLOWS, SCHEMAS):
        for name, (first, last) in _definitions(_parsed(root / file)):
            if all(where == file and first <= line <= last for where, line in used.get(name, [])):
                yield Definition(file, name, (first, last))


def _references(module: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno


def _definitions(module: ast.Module) -> Iterator[tuple[str, Span]]:
    """All at the top; of classes, the members of `Say`, and what `__init__` makes: parameters that it keeps stay."""
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, _span(node)
        yield from _assigned([node])
    for inner in ast.walk(module):
        if getattr(inner, "name", "") in ("Say", "__init__"):
            yield from _assigned(inner.body)  # type: ignore[attr-defined]


def _assigned(statements: Sequence[ast.stmt]) -> Iterator[tuple[str, Span]]:
    for node in statements:
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Name):
            yield ast.unparse(node.targets[0]).removeprefix("self."), _span(node)


def _remove_unused(root: Path, spared: set[tuple[str, str]]) -> set[str]:
    """Remove definitions until each has a use, but for those that had none before; returns their names."""
    gone: set[str] = set()
    while unused := [each for each in _unused(root) if (each.file, each.name) not in spared]:
        for file in (FLOWS, SCHEMAS):
            cut(root / file, [each.span for each in unused if each.file == file])
        gone |= {each.name for each in unused}
    return gone


def _remove_prompt_files(root: Path) -> None:
    flows = (root / FLOWS).read_text(encoding="utf-8")
    for path in (root / "prompts").glob("*.prompt"):
        if f'PromptFile("{path.stem}")' not in flows:
            path.unlink()


def _proto(root: Path) -> Path:
    found = list((root / PROTOS).rglob("*.proto"))
    if len(found) != 1:
        raise Refused(f"{PROTOS} has {len(found)} proto files; one can be changed")
    return found[0]


def without_rpc(proto: str, rpc: str) -> str:
    """The proto file without this RPC, and without the messages that it alone used.

    Raises Refused where it can't cut one of them out: the RPC is one line, and a message has nothing nested.
    """
    if not re.search(rf"(?m)^  rpc {rpc}\(.*;$", proto):
        raise Refused(f"the RPC {rpc} is not one line that ends with ';': remove it by hand")
    before = _unused_messages(proto)
    proto = re.sub(rf"(?m)^(  //.*\n)*  rpc {rpc}\(.*\n", "", proto)
    while unused := _unused_messages(proto) - before:
        for message in unused:
            if re.search(rf"(?m)^message {message} \{{[^}}]*\{{", proto):
                raise Refused(f"the message {message} has another one inside: remove the flow by hand")
            proto = re.sub(rf"(?m)^(//.*\n)*message {message} \{{[^}}]*\}}\n\n?", "", proto)
    return proto.rstrip("\n") + "\n"


def _unused_messages(proto: str) -> set[str]:
    messages = set(re.findall(r"(?m)^message (\w+) \{", proto))
    used = {name for _, *names in _RPC.findall(proto) for name in names}
    used |= set(re.findall(r"(?m)^  (?:repeated |optional )?(\w+) \w+ = \d+;", proto))
    return messages - used


def _remove_tests(root: Path, flow: Flow, gone: set[str]) -> None:
    """Remove the test file of the flow, and the entries of the contract test's tables that name what is gone."""
    (root / f"tests/flows/test_{flow.name}.py").unlink(missing_ok=True)

    def names_it(node: ast.AST) -> bool:
        return any(
            (isinstance(each, ast.Constant) and each.value in gone)
            or (isinstance(each, ast.Attribute) and each.attr in gone)
            for each in ast.walk(node)
        )

    spans = [
        (key.lineno, value.end_lineno or 0)
        for table in _tables(_parsed(root / CONTRACT))
        for key, value in zip(table.keys, table.values, strict=True)
        if key is not None and (names_it(key) or names_it(value))
    ]
    cut(root / CONTRACT, spans)


def _tables(module: ast.Module) -> Iterator[ast.Dict]:
    """The dictionaries that constants hold."""
    for node in module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            yield node.value


def _pages(root: Path) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def _blocks(page: Path, flow: Flow) -> list[str]:
    """The blocks that call the flow."""
    mention = re.compile(flow.mention, re.MULTILINE)
    return [found[0] for found in _BLOCK.finditer(page.read_text(encoding="utf-8")) if mention.search(found["text"])]


def remove_from_pages(root: Path, flow: Flow) -> None:
    """Remove the flow's rows of tables, and the blocks that call it."""
    mention = re.compile(flow.mention)
    for page in _pages(root):
        text = page.read_text(encoding="utf-8")
        for block in _blocks(page, flow):
            text = text.replace(block, "")
        lines = text.splitlines(keepends=True)
        left = (line for line in lines if not (line.startswith("|") and mention.search(line)))
        page.write_text("".join(left), encoding="utf-8")


def mentions(root: Path, mention: "re.Pattern[str]", places: Sequence[str] = _PLACES) -> list[str]:
    """Return the lines that the pattern is found in, as `file:line`."""
    found = []
    for name in git(root, "ls-files", "-z", "--", *places).split("\0"):
        path = root / name
        if name and path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found += [f"{name}:{number}" for number, line in enumerate(lines, 1) if mention.search(line)]
    return found


def main(argv: Sequence[str]) -> int:
    """Remove the flow from the checkout this stands in; the exit status is 2 where that is refused."""
    try:
        if len(argv) != 1:
            raise Refused("say which flow: just remove-flow NAME")
        flow = remove(ROOT, argv[0])
        places = mentions(ROOT, re.compile(flow.mention))
    except Refused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    print(f"{flow.name} is removed: POST {flow.path}, RPC {flow.rpc}.")
    for place in places:
        print(f"still named in {place}")
    print("Look at it with 'git diff HEAD', run './run.sh test', and commit.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
