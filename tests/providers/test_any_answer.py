"""Whatever a provider answers, no caller gets, and no cache keeps, half of it as the whole.

Each example is asked twice by the same caller, first over REST, then over gRPC: so the second one shows what the cache
holds, and how often a failure counts for the circuit.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from tests.providers.answers import (
    FORMATS,
    MISSING,
    Answer,
    Case,
    cases,
    failing,
    failing_statuses,
    no_answers,
    plainly,
)
from tests.providers.in_process import WAYS, InProcess

# Google's SDK warns of reasons that it does not know, and pytest would make a failure of that.
pytestmark = pytest.mark.filterwarnings("ignore:A_NEW_ONE:UserWarning")

EXAMPLES = settings(max_examples=50, suppress_health_check=list(HealthCheck))
MORE = settings(EXAMPLES, max_examples=120)


@pytest.fixture(scope="module", params=FORMATS)
def provider(request: pytest.FixtureRequest) -> str:
    """The name of the provider that answers."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def service(provider: str) -> Iterator[InProcess]:
    running = InProcess(FORMATS[provider])
    yield running
    running.close()


def test_an_answer_of_any_kind_is_told_for_what_it_is(provider: str, service: InProcess) -> None:
    MORE(given(cases(provider))(_checking(service)))()


def test_no_answer_is_made_of_anything_else(provider: str, service: InProcess) -> None:
    EXAMPLES(given(no_answers(provider))(_checking(service)))()


def test_a_failing_status_of_any_kind_is_told_for_what_it_is(provider: str, service: InProcess) -> None:
    EXAMPLES(given(failing_statuses(provider))(_checking(service)))()


def _checking(service: InProcess) -> Callable[[Case], None]:
    def check(case: Case) -> None:
        service.check(case)

    return check


NOTHING = Answer((), None)
TWO = Answer(("one ", "two "), "STOP")
LAST_EVENT = json.dumps(FORMATS["gemini"].events(TWO)[-1])
CR_BODY = plainly("openai", "stream", replace(TWO, ending="stop")).played.body + b"data: [DONE]\n\n"

FOUND = {
    "in mid-event": plainly("gemini", "stream", TWO, framing="close", cut=-40),
    "in mid-event, and HTTP tells": plainly("gemini", "stream", TWO, framing="chunked", cut=-40),
    "before the last event": plainly("gemini", "stream", TWO, framing="close", cut=-len(LAST_EVENT) - 8),
    "no reason": plainly("gemini", "stream", replace(TWO, ending=None)),
    "no reason, nor any text": plainly("gemini", "stream", Answer((), None)),
    "no reason, but thoughts": plainly("gemini", "stream", Answer((), None, thoughts="Hm.")),
    "a blocked prompt without usage": plainly("gemini", "text", Answer((), None, blocked=True, usage=MISSING)),
    "the same, streamed": plainly("gemini", "stream", Answer((), None, blocked=True, usage=MISSING)),
    "no answer, but usage": plainly("gemini", "text", NOTHING, body=b'{"usageMetadata": {"promptTokenCount": 7}}'),
    "a byte order mark": plainly(
        "gemini", "stream", TWO, body="\ufeff".encode() + plainly("gemini", "stream", TWO).played.body
    ),
    "nothing read after the end": plainly(
        "openai", "stream", replace(TWO, ending="stop"), body=CR_BODY.replace(b"\n", b"\r"), framing="chunked"
    ),
    "no choices": plainly("openai", "text", NOTHING, body=b'{"choices": []}'),
    "no text, and a new reason": plainly("openai", "text", Answer(("",), "a_new_one")),
    "infinite usage": replace(plainly("openai", "text", Answer(("a",), "stop", usage=1e999)), strange=True),
    "not done": plainly("ollama", "text", Answer(("a",), None)),
    "not done, streamed": plainly("ollama", "stream", Answer(("a",), None)),
    "a failure that is a number": failing("ollama", "text", 400, b"5"),
    "a failure that is a list": failing("ollama", "stream", 504, b"[]"),
}


@pytest.mark.parametrize(
    ("provider", "case"),
    [pytest.param(case.provider, case, id=f"{case.provider}, {name}") for name, case in FOUND.items()],
    indirect=["provider"],
    scope="module",
)
def test_an_answer_that_was_taken_for_something_else_once(service: InProcess, case: Case) -> None:
    service.check(case)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 429, 500, 503, 504])
@pytest.mark.parametrize("way", WAYS)
def test_only_what_content_can_cause_counts_once_a_caller(
    provider: str, service: InProcess, way: str, status: int
) -> None:
    """A provider's 504 is a timeout. Its 500 is none, and content as short as ours is no cause of it."""
    service.check(failing(provider, way, status))
