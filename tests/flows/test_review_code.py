"""The programming language: it goes into the prompt, so it is letters, # and + alone."""

import pytest
from pydantic import ValidationError

from src.schemas import CodeReviewRequest


@pytest.mark.parametrize("language", ["python3", "c++ ", "a\nb", "rm -rf", "é", "python\n"])
def test_a_language_is_letters_hash_and_plus(language: str) -> None:
    with pytest.raises(ValidationError):
        CodeReviewRequest(language=language)


@pytest.mark.parametrize("language", ["python", "C#", "c++"])
def test_a_language_of_these_is_taken(language: str) -> None:
    assert CodeReviewRequest(language=language).language == language
