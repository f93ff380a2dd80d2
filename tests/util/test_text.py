"""No text keeps half a surrogate pair, and no other is changed."""

from hypothesis import given
from hypothesis import strategies as st

from src.util.text import well_formed

HALVES = st.text(st.characters(exclude_categories=[]) | st.sampled_from("\ud83d\ude00"))


@given(st.text())
def test_a_good_text_stays(text: str) -> None:
    assert well_formed(text) is text


@given(HALVES)
def test_any_text_can_be_encoded_afterwards(text: str) -> None:
    mended = well_formed(text)
    assert mended.encode().decode() == mended
    assert len(mended) <= len(text)


def test_pairs_are_joined_and_halves_replaced() -> None:
    assert well_formed("\ud83d\ude00 \ud83d \ude00") == "\U0001f600 \ufffd \ufffd"
