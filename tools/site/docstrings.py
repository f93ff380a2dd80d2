"""Reads docstrings."""

import inspect


def summary(thing: object) -> str:
    """Return the first sentence of a docstring, without the full stop."""
    paragraph = (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")
    return paragraph.partition(". ")[0].rstrip(".")
