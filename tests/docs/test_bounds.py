"""The page of bounds agrees with the code, and leaves nothing out."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.config import Settings
from src.rpc.server import LIMITS
from testing.service import ROOT
from tools.site.bounds import BOUNDS, OTHERS, bounds, bounds_tables, is_setting, outcomes, value_of, written


def numeric_settings() -> Iterator[str]:
    """Variables whose value is a number."""
    for name, field in Settings.model_fields.items():
        if field.annotation in (int, float):
            yield name.upper()


def numeric_constants() -> Iterator[str]:
    """Constants of modules whose value is a number, and the options of the gRPC server."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            yield from (f"{module}.{name}" for name in numbers_of(node))
    yield from (f"src.rpc.server.LIMITS[{name}]" for name, _ in LIMITS)


def numbers_of(node: ast.stmt) -> list[str]:
    """The names in capitals to which a statement assigns a number, or a calculation with numbers."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return []
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    pairs = [(target, node.value)]
    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
        pairs = list(zip(target.elts, node.value.elts, strict=True))
    return [name.id for name, value in pairs if isinstance(name, ast.Name) and name.id.isupper() and is_number(value)]


def is_number(value: ast.expr) -> bool:
    parts = list(ast.walk(value))
    if not all(isinstance(part, ast.Constant | ast.BinOp | ast.operator) for part in parts):
        return False
    return all(type(part.value) in (int, float) for part in parts if isinstance(part, ast.Constant))


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("MAX = 5", ["MAX"]),
        ("MAX_BYTES: int = 10 * 1024 * 1024", ["MAX_BYTES"]),
        ("_SECONDS = 1.5", ["_SECONDS"]),
        ("FREE, LEAST = 1, 2", ["FREE", "LEAST"]),
        ("NAME = 'a'", []),
        ("IS_ON = True", []),
        ("lower = 5", []),
        ("MADE = len('abc')", []),
    ],
)
def test_a_number_in_the_code_is_found(line: str, names: list[str]) -> None:
    assert numbers_of(ast.parse(line).body[0]) == names


PLACES = sorted({*numeric_settings(), *numeric_constants()})


@pytest.mark.parametrize("place", PLACES)
def test_every_number_of_the_code_is_a_bound_of_the_page_or_said_to_be_none(place: str) -> None:
    assert (place in {bound.place for bound in bounds()}) != (place in OTHERS)


def test_nothing_is_on_the_page_that_is_not_in_the_code() -> None:
    known = {*PLACES, *(name.upper() for name in Settings.model_fields)}
    assert not [bound.place for bound in bounds() if bound.place not in known]
    assert not [place for place in OTHERS if place not in known]


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("test", sorted({bound.test for bound in bounds()}))
def test_the_tests_that_it_names_exist(test: str) -> None:
    file, _, function = test.partition("::")
    assert function in functions_of(ROOT / file)


def test_values_are_those_of_the_code() -> None:
    assert value_of("MAX_BODY_SIZE") == Settings(model="offline/demo").max_body_size
    assert value_of("REQUEST_TIMEOUT") == 125
    assert value_of("RATE_LIMIT_DEFAULT") == "60/minute"
    assert value_of("src.rpc.server.LIMITS[grpc.max_concurrent_streams]") == 100
    shown = bounds_tables()
    assert all(written(bound) in shown for bound in bounds())


def test_every_group_has_a_heading_and_every_bound_a_consequence_over_both_protocols() -> None:
    shown = bounds_tables()
    assert [line.removeprefix("## ") for line in shown.splitlines() if line.startswith("## ")] == list(BOUNDS)
    assert all(all(outcomes(bound.beyond)) for bound in bounds())
    assert [bound for bound in bounds() if is_setting(bound.place)]
