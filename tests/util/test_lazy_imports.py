import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.util.lazy_imports import lazy_imports

NAME = "a_module_that_takes_long"
SOURCE = """
from enum import Enum

class Colour(Enum):
    RED = 1

class Thing:
    kind = "real"

    def __init__(self, size):
        self.size = size

def double(number):
    return 2 * number
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module that could be imported and is not."""
    (tmp_path / f"{NAME}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield
    sys.modules.pop(NAME, None)


def is_imported() -> bool:
    return hasattr(sys.modules.get(NAME), "__file__")


def taken(name: str) -> Any:
    """As a library takes a name, whose module is to be imported lazily."""
    with lazy_imports(NAME):
        namespace: dict[str, Any] = {}
        exec(f"from {NAME} import {name}", namespace)
    return namespace[name]


def test_taking_a_name_imports_nothing() -> None:
    thing = taken("Thing")
    assert thing | None  # as in an annotation
    assert not is_imported()


@pytest.mark.parametrize(
    ("name", "use", "expected"),
    [
        pytest.param("Thing", lambda thing: thing.kind, "real", id="an attribute"),
        pytest.param("Thing", lambda thing: thing(3).size, 3, id="an instance"),
        pytest.param("Colour", lambda colour: [one.name for one in colour], ["RED"], id="members"),
        pytest.param("Colour", lambda colour: colour["RED"].value, 1, id="a member"),
        pytest.param("double", lambda double: double(4), 8, id="a function"),
        pytest.param("Thing", lambda thing: isinstance(thing(3), thing), True, id="a check of an instance"),
        pytest.param("Thing", lambda thing: isinstance(3, thing), False, id="a check of something else"),
        pytest.param("Thing", lambda thing: issubclass(type(thing(3)), thing), True, id="a check of a class"),
    ],
)
def test_using_a_name_imports_its_module(name: str, use: Any, expected: object) -> None:
    assert use(taken(name)) == expected
    assert is_imported()


def test_using_it_at_once_does_too() -> None:
    with lazy_imports(NAME):
        assert importlib.import_module(NAME).Thing.kind == "real"
        assert is_imported()
    assert is_imported()


def test_who_imports_it_later_gets_the_module() -> None:
    taken("Thing")
    assert NAME not in sys.modules
    importlib.import_module(NAME)
    assert is_imported()


def test_a_name_that_the_module_lacks_is_missed_when_it_is_used() -> None:
    with pytest.raises(AttributeError):
        _ = taken("Nothing").kind


def test_a_module_that_is_there_is_left_alone() -> None:
    real = importlib.import_module(NAME)
    with lazy_imports(NAME):
        assert importlib.import_module(NAME) is real
    assert sys.modules[NAME] is real


def test_a_stand_in_is_no_base_for_a_class() -> None:
    with pytest.raises(TypeError, match="Thing is imported lazily"):
        type(taken("Thing"))("Larger", (taken("Thing"),), {})
    with pytest.raises(TypeError, match="Thing is imported lazily"):

        class Larger(taken("Thing")):  # type: ignore[misc]
            pass
