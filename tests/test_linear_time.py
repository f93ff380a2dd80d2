"""No text makes a regular expression of this service slow: the time that each takes is linear in the text.

All are found by looking, a new one too. Each gets texts made of its own literals and alphabets.
"""

import ast
import importlib
import pkgutil
import re
import string
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from re import _constants as ops
from re import _parser
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

import src
from src.logs.redaction import Redactor, client_text, escape_unprintable, only_colours

LARGE = 64 * 1024
LIMIT = 10.0  # linear time grows by 4 from a quarter of that, quadratic time by 16
REPEATS = 12
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(src.__path__, "src.") if not module.name.startswith("src.generated")
)
ENDS = ("", "\0")  # the second one is what a match that runs to the end fails at
CANDIDATES = "a0A-._/:@=+ \"'\\\t,;&{}[]~" + string.printable

Action = Callable[[str], Any]


def patterns_in(value: Any, depth: int = 3) -> Iterator[re.Pattern[str]]:
    """The compiled patterns in a value of a module: itself, in a container, of a class."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, type) and value.__module__.startswith("src."):
        yield from (each for each in vars(value).values() if isinstance(each, re.Pattern))
    elif isinstance(value, (list, tuple, set, frozenset, dict)) and depth:
        for item in value.values() if isinstance(value, dict) else value:
            yield from patterns_in(item, depth - 1)


def calls_of_re(module: str) -> Iterator[tuple[ast.Call, bool]]:
    """The calls of `re` in a module's source, and whether each is made on import."""
    tree = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text())
    in_functions = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=attr)) if attr != "escape":
                yield node, node not in in_functions


def compiled() -> dict[str, re.Pattern[str]]:
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for pattern in patterns_in(list(vars(module).values())):
            found[f"{name}: {pattern.pattern[:40]}"] = pattern
        for call, _ in calls_of_re(name):
            if call.args and isinstance(call.args[0], ast.Constant):
                pattern = re.compile(str(call.args[0].value))
                found.setdefault(f"{name}: {pattern.pattern[:40]}", pattern)
    return found


def constraints() -> dict[str, tuple[str, Action]]:
    """The fields of all models with a pattern: it, and how pydantic checks it."""
    found = {}
    for name in MODULES:
        for model in vars(importlib.import_module(name)).values():
            if isinstance(model, type) and issubclass(model, BaseModel) and model.__module__ == name:
                for field, info in model.model_fields.items():
                    for each in info.metadata:
                        if pattern := getattr(each, "pattern", None):
                            found[f"{model.__name__}.{field}"] = (pattern, checked(each))
    return found


def checked(constraint: Any) -> Action:
    adapter = TypeAdapter(Annotated[str, constraint])

    def check(text: str) -> None:
        with suppress(ValidationError):
            adapter.validate_python(text)

    return check


COMPILED = compiled()
CONSTRAINTS = constraints()


def accepts(items: list[Any], char: str) -> bool:
    """Return True if a character class has this character."""
    negated = items[0][0] is ops.NEGATE
    for kind, value in items:
        if (
            (kind is ops.LITERAL and chr(value) == char)
            or (kind is ops.RANGE and value[0] <= ord(char) <= value[1])
            or (kind is ops.CATEGORY and re.match(CATEGORIES[value], char))
        ):
            return not negated
    return negated


CATEGORIES = {
    ops.CATEGORY_DIGIT: r"\d",
    ops.CATEGORY_NOT_DIGIT: r"\D",
    ops.CATEGORY_SPACE: r"\s",
    ops.CATEGORY_NOT_SPACE: r"\S",
    ops.CATEGORY_WORD: r"\w",
    ops.CATEGORY_NOT_WORD: r"\W",
}
REPEATED = (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT)


def texts_of(kind: Any, value: Any) -> list[str]:
    """Some texts that one part of a parsed pattern matches."""
    makers: dict[Any, Callable[[], list[str]]] = {
        ops.LITERAL: lambda: [chr(value)],
        ops.NOT_LITERAL: lambda: [next(char for char in CANDIDATES if char != chr(value))],
        ops.ANY: lambda: ["a"],
        ops.IN: lambda: [char for char in CANDIDATES if accepts(value, char)][:8] or ["\x1b"],
        ops.SUBPATTERN: lambda: texts_of_all(value[3]),
        ops.ATOMIC_GROUP: lambda: texts_of_all(value),
        ops.BRANCH: lambda: [text for branch in value[1] for text in texts_of_all(branch)],
        **dict.fromkeys(REPEATED, lambda: [text * max(1, value[0]) for text in texts_of_all(value[2])]),
    }
    return makers.get(kind, lambda: [""])()


def texts_of_all(parts: Any) -> list[str]:
    """Some texts that a sequence of parts matches: each choice of each part once."""
    choices = [texts_of(kind, value) for kind, value in parts]
    first = [each[0] for each in choices]
    texts = ["".join(first)]
    for place, each in enumerate(choices):
        texts += ["".join([*first[:place], other, *first[place + 1 :]]) for other in each[1:]]
    return texts


def attacks(pattern: str) -> list[tuple[str, str]]:
    """Beginnings, and what to repeat after them: everything up to each part of the pattern, and the part alone."""
    made: list[tuple[str, str]] = []

    def walk(parts: Any, before: str) -> None:
        for kind, value in parts:
            texts = texts_of(kind, value)
            for text in texts:
                made.extend([(before, text), ("", before + text)])
            inner = {ops.SUBPATTERN: lambda v: [v[3]], ops.ATOMIC_GROUP: lambda v: [v], ops.BRANCH: lambda v: v[1]}
            nested = [value[2]] if kind in REPEATED else inner.get(kind, lambda _: [])(value)
            for each in nested:
                walk(each, before)
            before += texts[0]

    walk(_parser.parse(pattern), "")
    return [attack for attack in dict.fromkeys(made) if attack[1]]


def filled(beginning: str, repeated: str, end: str, size: int) -> str:
    return beginning + repeated * ((size - len(beginning)) // len(repeated)) + end


def seconds(action: Action, text: str) -> float:
    began = time.thread_time()
    action(text)
    return time.thread_time() - began


def growth(action: Action, attack: tuple[str, str], end: str, large_size: int = LARGE) -> float:
    """Measure how many times as long four times the text takes: the minimum, because other processes disturb it."""
    small, large = (filled(*attack, end, size) for size in (large_size // 4, large_size))
    quick = slow = least = float("inf")
    for _ in range(REPEATS):
        quick = min(quick, *(seconds(action, small) for _ in range(3)))
        slow = min(slow, seconds(action, large))
        least = min(least, slow / quick)
        if least < LIMIT:
            break
    return least


def uses(pattern: re.Pattern[str]) -> list[Action]:
    return [lambda text: pattern.sub("", text), pattern.fullmatch]


def slow_attacks(actions: list[Action], pattern: str) -> list[tuple[str, str]]:
    return [
        attack
        for attack in attacks(pattern)
        if any(growth(action, attack, end) >= LIMIT for action in actions for end in ENDS)
    ]


@pytest.mark.parametrize("name", COMPILED)
def test_a_pattern_takes_time_linear_in_the_text(name: str) -> None:
    assert not slow_attacks(uses(COMPILED[name]), COMPILED[name].pattern)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_fields_pattern_takes_time_linear_in_the_text(name: str) -> None:
    pattern, check = CONSTRAINTS[name]
    assert not slow_attacks([check], pattern)


def test_a_pattern_that_backtracks_would_be_found() -> None:
    old = re.compile(r"\beyJ[a-z0-9_-]{10,}\.[a-z0-9_-]+\.[a-z0-9_-]*", re.IGNORECASE | re.ASCII)
    assert growth(old.search, ("", "eyJ-"), "", 4096) >= LIMIT
    assert ("", "eyJ-") in attacks(old.pattern)


def test_all_patterns_are_found() -> None:
    """Each is made on import or written out where it is used; one put together at run time could not be tested."""
    calls = [(name, call, on_import) for name in MODULES for call, on_import in calls_of_re(name)]
    built = [
        f"{name}:{call.lineno}" for name, call, ok in calls if not ok and not isinstance(call.args[0], ast.Constant)
    ]
    assert not built
    assert {name for name, _, _ in calls} <= {name.partition(":")[0] for name in COMPILED}
    assert "Settings.google_gemini_base_url" in CONSTRAINTS


FRAGMENTS = sorted(
    {text for pattern in COMPILED.values() for attack in attacks(pattern.pattern) for text in attack} - {""}
)
WHOLE: list[Action] = [
    Redactor(["a-secret", "two\nlines-of-it"]).text,
    client_text,
    escape_unprintable,
    lambda text: only_colours(None, "", text),
]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=3), st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=4))
def test_a_line_is_redacted_in_time_linear_in_it(beginning: list[str], repeated: list[str]) -> None:
    attack = ("".join(beginning), "".join(repeated))
    assert not [action for action in WHOLE for end in ENDS if growth(action, attack, end) >= LIMIT]
