"""A failure keeps nothing alive of what its frames have used, whichever cycles it is part of."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest

from src.util.locals import forget_locals


class Large:
    """Stands for the bytes of an image."""


@pytest.fixture(autouse=True)
def collector_off() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def fails(seen: "list[weakref.ref[Large]]") -> None:
    large = Large()
    seen.append(weakref.ref(large))
    try:
        raise ValueError
    except ValueError as error:
        kept = error  # as libraries do: the exception refers to this frame, and the frame to it
        raise RuntimeError from kept


def test_the_frames_of_a_failure_and_of_its_causes_are_emptied() -> None:
    seen: list[weakref.ref[Large]] = []
    for forget in (lambda _: None, forget_locals):
        try:
            fails(seen)
        except RuntimeError as error:
            forget(error)
    assert [ref() is None for ref in seen] == [False, True]


def test_causes_may_go_round_in_a_circle() -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    forget_locals(first)
    first.__cause__ = None
    forget_locals(None)


def test_frames_that_still_run_are_left_alone() -> None:
    async def run() -> str:
        mine = "still here"
        with suppress(TimeoutError):
            try:
                async with asyncio.timeout(0):
                    await asyncio.sleep(1)
            except TimeoutError as error:
                forget_locals(error)
                raise
        return mine

    assert asyncio.run(run()) == "still here"
