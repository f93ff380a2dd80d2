"""A request's id."""

import uuid

from src.util.request_id import new_request_id


def test_a_new_id_is_a_random_uuid() -> None:
    """Version 4, in the one spelling, and never the same."""
    made = [new_request_id() for _ in range(1000)]
    assert len(set(made)) == len(made)
    for text in made:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)
    assert {text[19] for text in made} == set("89ab")
