"""No text keeps half a surrogate pair, and no other is changed."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.util.surrogates import replace_lone_escapes, replace_lone_surrogates

HALVES = st.text(st.characters(exclude_categories=[]) | st.sampled_from("\ud83d\ude00"))


@given(st.text())
def test_a_good_text_stays(text: str) -> None:
    assert replace_lone_surrogates(text) is text


@given(HALVES)
def test_any_text_can_be_encoded_afterwards(text: str) -> None:
    mended = replace_lone_surrogates(text)
    assert mended.encode().decode() == mended
    assert len(mended) <= len(text)


def test_pairs_are_joined_and_halves_replaced() -> None:
    assert replace_lone_surrogates("\ud83d\ude00 \ud83d \ude00") == "\U0001f600 \ufffd \ufffd"


@given(
    st.lists(HALVES | st.sampled_from(["\\", "\\\\", "\\ud83d", "\\\\udc00", '"', "\n", "u"]), max_size=8).map("".join)
)
def test_a_documents_lone_escapes_are_replaced_and_nothing_else_changes(text: str) -> None:
    mended = replace_lone_escapes(json.dumps([text]).encode())
    assert json.loads(mended) == [replace_lone_surrogates(text)]


@pytest.mark.parametrize(
    "piece", [b"\\", b"\\u", b"\\\\u", b"\\ud83d", b"\\ud83d\\ude00", b"\\ud8", b"u", b"\\\\\\ud83d"]
)
def test_a_document_of_a_megabyte_takes_no_time(piece: bytes) -> None:
    began = time.process_time()
    replace_lone_escapes(piece * (2**20 // len(piece)))
    assert time.process_time() - began < 0.5
