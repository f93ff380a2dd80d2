"""Events leave for Sentry without personal data."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from src.logs.redaction import Redactor
from src.telemetry import sentry
from src.telemetry.sentry import KEPT, StripBaggageMiddleware, report_bug, sampler, stripped
from testing.asgi import http_scope, play

SECRET = "the-key-of-the-provider"
WORDS = "what-a-caller-wrote"
REDACTOR = Redactor([SECRET])

words = st.just(WORDS) | st.builds("{} {}".format, st.text(max_size=5), st.just(WORDS))
bags: st.SearchStrategy[Any] = st.recursive(
    words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=3,
)
frames = st.fixed_dictionaries(
    {"filename": st.just("src/llm.py"), "lineno": st.integers(1, 500)},
    optional={
        "vars": bags,
        "context_line": words,
        "pre_context": st.lists(words, max_size=1),
        "post_context": st.lists(words, max_size=1),
    },
)
exceptions = st.fixed_dictionaries(
    {
        "type": st.just("ValueError"),
        "value": words,
        "stacktrace": st.fixed_dictionaries({"frames": st.lists(frames, max_size=2)}),
    },
    optional={"mechanism": st.fixed_dictionaries({"type": st.just("log")}, optional={"data": bags})},
)
spans = st.fixed_dictionaries(
    {"op": st.just("http.client"), "span_id": st.just("1")},
    optional={"data": bags, "description": words, "tags": bags},
)
contexts = st.fixed_dictionaries(
    {"trace": spans, "runtime": st.just({"name": "CPython"})},
    optional={"response": bags, "state": bags, "gen_ai": bags},
)
# Of the SDK's own fields, and of those that a later version may invent.
unknown = st.dictionaries(
    st.sampled_from(["request", "user", "extra", "breadcrumbs", "message", "logentry", "server_name", "modules"])
    | st.text(min_size=1, max_size=8).filter(lambda name: name not in KEPT),
    bags,
    max_size=4,
)


@given(
    unknown,
    st.fixed_dictionaries(
        {"exception": st.fixed_dictionaries({"values": st.lists(exceptions, max_size=2)}), "contexts": contexts},
        optional={"spans": st.lists(spans, max_size=2)},
    ),
)
def test_no_words_of_a_caller_leave(extra: dict[str, Any], event: dict[str, Any]) -> None:
    assert WORDS not in json.dumps(stripped({**extra, **event}, REDACTOR))


@given(st.sampled_from(sorted(KEPT - {"contexts", "spans", "exception", "transaction"})), st.text(), st.text())
def test_a_known_secret_leaves_in_no_field(field: str, before: str, after: str) -> None:
    event = {field: {"nested": [f"{before}{SECRET}{after}"]}}
    assert SECRET not in json.dumps(stripped(event, REDACTOR))


def test_what_finds_a_bug_is_kept() -> None:
    frame = {"filename": "src/llm.py", "function": "call", "lineno": 7, "vars": {"text": WORDS}}
    error = {"type": "KeyError", "value": WORDS, "stacktrace": {"frames": [frame]}}
    event = stripped({"exception": {"values": [error]}, "tags": {"request_id": "r-1"}, "level": "error"}, REDACTOR)
    [kept] = event["exception"]["values"]
    assert kept["type"] == "KeyError"
    assert kept["stacktrace"]["frames"] == [{"filename": "src/llm.py", "function": "call", "lineno": 7}]
    assert event["tags"] == {"request_id": "r-1"}
    assert event["level"] == "error"


@pytest.mark.parametrize("stacktrace", [None, {}, {"frames": []}])
def test_an_error_without_frames_is_no_obstacle(stacktrace: dict[str, Any] | None) -> None:
    event = {"exception": {"values": [{"type": "KeyError", "value": WORDS, "stacktrace": stacktrace}]}}
    assert WORDS not in json.dumps(stripped(event, REDACTOR))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_transactions_are_sampled_by_the_rate_alone(rate: float) -> None:
    for parent in (None, True, False):
        assert sampler(rate)({"parent_sampled": parent, "parent_sample_rate": 1 - rate}) == rate


@pytest.mark.parametrize(
    ("fields", "is_reported"),
    [
        pytest.param({"level": "error", "exc_info": LookupError("x")}, True, id="a bug"),
        pytest.param({"level": "critical", "exc_info": LookupError("x")}, True, id="a fatal one"),
        pytest.param({"level": "warning", "exc_info": LookupError("x")}, False, id="an expected failure"),
        pytest.param({"level": "error"}, False, id="an error without an exception"),
        pytest.param({"level": "error", "exc_info": True}, False, id="an exception that is not named"),
    ],
)
def test_a_logged_bug_is_reported_and_nothing_else(
    fields: dict[str, Any], is_reported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[tuple[BaseException, dict[str, str]]] = []
    monkeypatch.setattr(sentry, "report", lambda error, **tags: reported.append((error, tags)))
    event = {"event": "x", "request_id": "r-1", "client": "192.0.2.1", **fields}
    assert report_bug(None, "", dict(event)) == event
    assert reported == ([(fields["exc_info"], {"request_id": "r-1"})] if is_reported else [])


def test_the_sdk_sees_no_baggage_and_every_other_header() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 204, "headers": []})

    headers = [(b"baggage", b"sentry-release=x"), (b"sentry-trace", b"y"), (b"host", b"api.test"), (b"baggage", b"z")]
    play(StripBaggageMiddleware(app), http_scope(headers=headers))
    assert seen == [(b"sentry-trace", b"y"), (b"host", b"api.test")]
