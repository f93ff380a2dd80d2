"""Spans are exported without anybody's words."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Status, StatusCode

from src.logs.redaction import MAX_CLIENT_TEXT
from src.telemetry.traces import GENKIT_KEPT, redact_span

WORDS = "what-a-caller-wrote"
PLAIN: dict[str, str | int] = {"http.request.method": "POST", "http.route": "/chat", "gen_ai.usage.input_tokens": 7}


def span(attributes: Mapping[str, str | int], *events: Event, description: str | None = None) -> ReadableSpan:
    status = Status(StatusCode.ERROR, description) if description else Status()
    return ReadableSpan("chat", attributes=attributes, events=events, status=status)


def test_a_span_of_types_and_places_is_exported_as_it_is() -> None:
    plain = span(PLAIN)
    assert redact_span(plain) is plain


@given(st.text(min_size=1).map("genkit:{}".format).filter(lambda name: name not in GENKIT_KEPT))
def test_of_genkits_attributes_only_known_ones_leave(name: str) -> None:
    assert redact_span(span({**PLAIN, name: WORDS})).attributes == PLAIN


@pytest.mark.parametrize("name", ["exception.message", "exception.stacktrace", "url.query"])
def test_attributes_that_quote_leave_nowhere(name: str) -> None:
    event = Event("exception", {name: WORDS, "exception.type": "ValueError"}, 1)
    exported = redact_span(span({**PLAIN, name: WORDS}, event))
    assert exported.attributes == PLAIN
    assert [dict(event.attributes or {}) for event in exported.events] == [{"exception.type": "ValueError"}]


@pytest.mark.parametrize("name", ["url.full", "http.url"])
@given(st.text(), st.text(st.characters(exclude_characters="?")))
def test_an_address_leaves_without_its_query_and_cut(name: str, query: str, path: str) -> None:
    exported = redact_span(span({name: f"https://model.test/{path}?key={query}"})).attributes or {}
    address = exported[name]
    assert isinstance(address, str)
    assert "?" not in address
    assert len(address) <= MAX_CLIENT_TEXT + 1  # with the mark of what was cut off


def test_the_words_of_a_status_stay_here_and_its_code_leaves() -> None:
    exported = redact_span(span(PLAIN, description=WORDS))
    assert exported.status.description is None
    assert exported.status.status_code is StatusCode.ERROR
