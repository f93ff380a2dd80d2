"""The lint of docstrings."""

import pytest

from tools.docstrings import noun_clauses


@pytest.mark.parametrize(
    "source",
    [
        '"""What it is."""',
        'class A:\n    """Who asks."""',
        'def f():\n    """Whether it is so."""',
        'async def f():\n    """\n    Where it goes.\n\n    More.\n    """',
    ],
)
def test_a_noun_clause_is_found(source: str) -> None:
    assert len(list(noun_clauses(source))) == 1


@pytest.mark.parametrize(
    "source", ['"""Return it."""', 'def f():\n    """The whole."""', "def f():\n    pass", '"""Whatever came."""']
)
def test_others_pass(source: str) -> None:
    assert not list(noun_clauses(source))
