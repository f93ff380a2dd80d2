"""A part is removed as its row says, and the rows of the page name nothing in vain."""

import re

import pytest

from testing.service import ROOT
from tools.remove_part import PAGE, Part, find, naming, parts
from tools.rename import Refused

PARTS = list(parts((ROOT / PAGE).read_text(encoding="utf-8")))


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_file_of_a_row_exists_and_names_the_part(part: Part) -> None:
    assert part.words
    assert [name for name in part.deleted if not (ROOT / name).exists()] == []
    assert [name for name in part.edited if not part.mention.search((ROOT / name).read_text())] == []
    assert find(ROOT, part.name.lower()) == part


def test_anything_else_is_refused_with_the_parts_that_there_are() -> None:
    with pytest.raises(Refused, match=f"has {', '.join(part.name.lower() for part in PARTS)}$"):
        find(ROOT, "nothing")


SOURCE = '''\
"""Names acme in vain."""

from shop import acme_price, price

PRICES = {
    "other": 1,
    # The dear one.
    "acme": price(
        2,
    ),
}
NAMES = ["other", "acme"]


@price
def of_acme(name: str) -> int:
    return 3


def total(macme: int, other: int) -> int:
    if PRICES["acme"]:
        other += 1
    return macme + other  # acme


CASES = [
    price(
        {"acme": 1},
        3,
    ),
    price(4),
]
'''


def test_the_smallest_statement_or_entry_goes_that_fills_its_lines() -> None:
    """Imports that lose their use are left to ruff, comments and docstrings to people."""
    spans = naming(SOURCE, re.compile("(?<![a-z])acme"))
    assert sorted(SOURCE.splitlines()[first - 1].strip() for first, _ in spans) == [
        '"acme": price(',
        "@price",
        'NAMES = ["other", "acme"]',
        'if PRICES["acme"]:',
        "price(",
    ]
    assert sum(last - first + 1 for first, last in spans) == 3 + 3 + 1 + 2 + 4


@pytest.mark.parametrize(("text", "is_named"), [("SENTRY_DSN", True), ("check_sentry", True), ("pysentry", False)])
def test_a_word_begins_where_no_letter_stands_before_it(text: str, is_named: bool) -> None:
    assert bool(Part("Sentry", (), ("sentry",), ()).mention.search(text)) == is_named
