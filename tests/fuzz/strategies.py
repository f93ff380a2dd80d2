"""Hostile values, and mutations of what is well formed."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from src.operations import Operation
from testing.small_service import OPERATIONS
from tests.fuzz.checks import CANARY

# What something, somewhere, reads a meaning into. Addresses are of this machine, at a port that is closed.
TOKENS = (
    *("{{", "}}", "{{{", "{{name}}", "{{#each this}}", "{{/each}}", "{{> a}}", '{{media url="http://127.0.0.1:1/"}}'),
    *("<<<dotprompt:role:system>>>", "<<<dotprompt:history>>>", "<<<dotprompt:media:url http://127.0.0.1:1/>>>"),
    *("---\nmodel: x\n---\n", "%s%n", "${jndi:ldap://127.0.0.1:1/}", "' OR 1=1 --", "<script>", "\x1b[31m", "\r\n"),
    *(
        "eyJ-",
        "Bearer ",
        "sk-",
        "password=",
        "\x00",
        "\ud800",
        "\udfff",
        "\u2028",
        "\u202e",
        "\ufeff",
        "\u017f",
        "\u0130",
        "🦄",
    ),
    *("http://127.0.0.1:1/", "http://[::1]:1/", "data:image/png;base64,", "file:///etc/passwd", "../../etc/passwd"),
    *("e\u0301" * 40, " ", "\n", "a", "=", "/", "\\", '"', "[", "{", ",", "AAAA", CANARY),
)
MAX_CHARS = 60_000

_words = st.sampled_from(TOKENS) | st.text(max_size=20)
_repeated = st.builds(lambda word, count: (word * count)[:MAX_CHARS], _words, st.integers(1, 20_000))
short_texts = st.lists(_words, min_size=1, max_size=6).map("".join)
texts = st.lists(_words | _repeated, max_size=6).map(lambda words: "".join(words)[:MAX_CHARS])

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
json_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)
bytes_or_text = st.binary(max_size=40) | texts.map(lambda text: text.encode("utf-8", "surrogatepass"))


def inputs(operation: Operation) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with the operation's own fields: mostly text that is short enough, now and then something else."""
    value = st.one_of(short_texts, short_texts, texts, json_values)
    return st.fixed_dictionaries({}, optional=dict.fromkeys(operation.input.model_fields, value))


def _bodies(operation: Operation) -> st.SearchStrategy[tuple[str, bytes]]:
    objects = st.one_of(inputs(operation), inputs(operation), json_values)
    written = objects.map(lambda value: json.dumps(value).encode()) | objects.map(_in_utf8)
    return st.tuples(st.just(operation.path), st.one_of(written, written, mutated(written), bytes_or_text))


def _in_utf8(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


bodies = st.sampled_from(OPERATIONS).flatmap(_bodies)


@st.composite
def _mutated(draw: Callable[[st.SearchStrategy[Any]], Any], base: st.SearchStrategy[bytes]) -> bytes:
    data: bytes = draw(base)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        times = draw(st.sampled_from((0, 1, 2, 50)))
        data = data[:start] + draw(st.binary(max_size=6)) + data[start:end] * times + data[end:]
    return data


def mutated(base: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The bytes with a few pieces of them inserted, left out, doubled or repeated fifty times."""
    return _mutated(base)
