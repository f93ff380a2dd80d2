"""Cache keys: equal for equal input, different for any difference."""

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from src.util.hash import cache_key
from testing.small_service import TranslateRequest

REQUESTS = st.builds(TranslateRequest, text=st.text(max_size=9).filter(str.strip), target_language=st.text(max_size=9))


def key(input: TranslateRequest, flow: str = "translate_text", model: str = "offline/demo") -> str:
    return cache_key(flow, model, input)


@given(st.permutations([("text", "hello"), ("target_language", "French")]))
def test_the_order_of_fields_and_defaults_left_out_make_no_difference(fields: list[tuple[str, Any]]) -> None:
    assert key(TranslateRequest(**dict(fields))) == key(TranslateRequest(text="hello"))


@given(REQUESTS, REQUESTS)
def test_any_difference_makes_another_key(one: TranslateRequest, other: TranslateRequest) -> None:
    assert (key(one) == key(other)) is (one == other)
    assert re.fullmatch("[0-9a-f]{64}", key(one))


def test_flow_and_model_are_part_of_it() -> None:
    request = TranslateRequest(text="hello")
    parts = [("a", "b"), ("b", "a"), ("ab", ""), ("", "ab"), ("a", "")]
    assert len({key(request, *names) for names in parts}) == len(parts)
