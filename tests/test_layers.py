"""The modules of `src` form layers, and none grows without end."""

import ast
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tools.site.imports import imports, modules

# From top to bottom. A module belongs to the longest prefix of its name.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__", "main", "asgi"),
    ("service", "app_init"),
    ("telemetry", "lifecycle"),
    ("security", "rest", "rpc"),
    ("middleware",),
    ("runner", "operations", "flows"),
    (
        *("llm", "schemas", "prompt", "request_guard", "images", "connection", "providers", "marks"),
        *("rate_limit", "drain", "cache", "circuit_breaker", "bulkhead", "callers"),
    ),
    ("logs",),
    ("config", "config_checks", "settings_loader", "providers.rows", "errors"),
    ("util", "generated"),
)
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_SECURITY_LINES = 240  # the chain's order is read at a glance
OWN = {name: path for name, path in modules().items() if not name.startswith("generated.")}


def layer_of(module: str) -> int:
    """The number of a module's layer, from the top. Raises LookupError for a module of none."""
    prefixes = ((prefix, layer) for layer, row in enumerate(LAYERS) for prefix in row)
    found = [(len(prefix), layer) for prefix, layer in prefixes if f"{module}.".startswith(f"{prefix}.")]
    if not found:
        raise LookupError(f"src/{module.replace('.', '/')}.py is in no layer: add it to tests/test_layers.py")
    return max(found)[1]


def upward(pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """The imports of a module from a higher layer."""
    return {(importing, imported) for importing, imported in pairs if layer_of(imported) < layer_of(importing)}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module, path in OWN.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module}.{node.name}", node


def test_no_module_imports_from_a_higher_layer() -> None:
    assert not upward(imports())


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    """Inside a function too, and where a longer prefix has another layer than a shorter one."""
    for name in ("rpc", "lifecycle", "providers"):
        (tmp_path / "src" / name).mkdir(parents=True)
    (tmp_path / "src/lifecycle/lifespan.py").touch()
    (tmp_path / "src/providers/ollama.py").touch()
    (tmp_path / "src/rpc/server.py").write_text("def serve():\n    from src.lifecycle import lifespan\n")
    (tmp_path / "src/providers/rows.py").write_text("from src.providers.ollama import plugin\n")
    assert upward(imports(tmp_path / "src")) == {
        ("rpc.server", "lifecycle.lifespan"),
        ("providers.rows", "providers.ollama"),
    }


def test_a_module_of_no_layer_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"src/new/module\.py is in no layer"):
        layer_of("new.module")


def test_no_modules_import_each_other_in_a_circle() -> None:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for importing, imported in imports():
        sorter.add(importing, imported)
    sorter.prepare()  # raises CycleError


def test_utilities_know_nothing_of_the_service() -> None:
    assert not {pair for pair in imports() if pair[0].startswith("util.") and not pair[1].startswith("util.")}


def test_no_function_is_long() -> None:
    lines = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in functions()}
    assert not {name: count for name, count in lines.items() if count > MAX_FUNCTION_LINES}


def test_no_file_is_long() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in OWN.items()}
    assert not {name: count for name, count in lines.items() if count > MAX_FILE_LINES}
    assert lines["security"] <= MAX_SECURITY_LINES
