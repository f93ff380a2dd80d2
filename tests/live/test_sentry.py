"""Sentry gets each bug once, and nothing of what people sent."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.fakes.sentry import SentrySink
from testing.service import COMMANDS, ROOT, Service
from testing.small_service import pb
from tests.live.test_hostile_bytes import attack
from tests.live.test_logging import KEY, PROMPT, TOKEN, over_grpc, over_rest
from tests.live.test_trace_headers import ask, assert_no_trace_is_sent_on


@pytest.fixture
def upstream(upstream: GeminiStandIn) -> GeminiStandIn:
    """The Gemini API, on loopback, out of order."""
    upstream.default(gemini.error(503))
    return upstream


@pytest.fixture
def sentry() -> Iterator[SentrySink]:
    with SentrySink() as sink:
        yield sink


@pytest.mark.parametrize("server", ["granian", "uvicorn"])
def test_a_bug_is_one_event_and_a_refusal_is_none(server: str, sentry: SentrySink, upstream: GeminiStandIn) -> None:
    command = [part.replace("src.asgi", "tests.live.broken") for part in COMMANDS[server]]
    env = {"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "1", "APP_ENV": "staging"}
    env |= upstream.env | {"GEMINI_API_KEY": KEY, "CB_FAILURE_THRESHOLD": "1"}
    with Service(command, **env, RATE_LIMIT_DEFAULT="9/hour") as service:
        ids = [
            over_rest(service, "/chat", question=PROMPT),
            over_rest(service, "/tell-story/stream", topic=PROMPT),
            over_grpc(service, "PirateChat", pb.ChatRequest(question=PROMPT)),
            over_grpc(service, "TellStory", pb.StoryRequest(topic=PROMPT)),
        ]
        over_rest(service, "/chat", question="")
        over_rest(service, "/describe-image", image_url="http://localhost/")
        service.http.get("/nowhere")
        statuses = [service.http.post("/translate", json={}).status_code for _ in range(3)]
        assert statuses == [502, 503, 429]
        sentry.wait_for(lambda: len(sentry.of("event")) >= 4)
        service.terminate()
        service.wait()
    events = sentry.of("event")
    assert sorted(event["tags"]["request_id"] for event in events) == sorted(ids)
    for event in events:
        assert event["environment"] == "staging"
        assert event["tags"]["operation"] in ("pirate_chat", "tell_story")
        types = [error["type"] for error in event["exception"]["values"]]
        assert "LookupError" in types
        assert not {"request", "user", "breadcrumbs", "extra", "modules", "server_name"} & event.keys()
    sent = b"".join(sentry.bodies).decode()
    assert not [word for word in (PROMPT, TOKEN, KEY, "canary:", "session=") if word in sent]


def test_each_request_and_rpc_is_a_transaction_of_its_own(sentry: SentrySink) -> None:
    with Service(SENTRY_DSN=sentry.dsn, SENTRY_TRACES_SAMPLE_RATE="1") as service:
        over_rest(service, "/translate", text=PROMPT)
        over_rest(service, "/chat", question=PROMPT)
        over_grpc(service, "PirateChat", pb.ChatRequest(question=PROMPT))
        over_grpc(service, "TellStory", pb.StoryRequest(topic=PROMPT))
        over_grpc(service, "TranslateText", pb.TranslateRequest(text=PROMPT * 1000))
        ready = 1
        sentry.wait_for(lambda: len(sentry.of("transaction")) >= ready + 5)
        service.terminate()
        service.wait()
    traces = {event["transaction"]: event["contexts"]["trace"] for event in sentry.of("transaction")}
    assert {name: (trace["op"], trace["status"]) for name, trace in traces.items() if name != "/ready"} == {
        "/translate": ("http.server", "ok"),
        "/chat": ("http.server", "ok"),
        "/genkit.sample.v1.GenkitService/PirateChat": ("grpc.server", "ok"),
        "/genkit.sample.v1.GenkitService/TellStory": ("grpc.server", "ok"),
        "/genkit.sample.v1.GenkitService/TranslateText": ("grpc.server", "invalid_argument"),
    }
    assert len({trace["trace_id"] for trace in traces.values()}) == len(traces)
    sent = b"".join(sentry.bodies).decode()
    assert not [word for word in (PROMPT, TOKEN, "session=") if word in sent]


@pytest.mark.parametrize(("rate", "is_sampled"), [("0", False), ("1", True)])
def test_a_caller_decides_no_sampling_and_no_provider_gets_a_trace(
    rate: str, is_sampled: bool, sentry: SentrySink, upstream: GeminiStandIn
) -> None:
    upstream.default(gemini.text("hello"))
    env = {"SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": rate, "CACHE_ENABLED": "false"}
    with Service(**upstream.env, **env) as service:
        ask(service)
        service.terminate()
        assert service.wait() == 0
    assert bool(sentry.of("transaction")) == is_sampled
    assert_no_trace_is_sent_on(upstream)


def test_clients_bytes_are_not_reported(sentry: SentrySink) -> None:
    with Service(SENTRY_DSN=sentry.dsn, SENTRY_TRACES_SAMPLE_RATE="1") as service:
        attack(service)
        service.terminate()
        service.wait()
    assert sentry.of("transaction")
    assert b"canary" not in b"".join(sentry.bodies).replace(b"canarydsnkey", b"").lower()


def test_a_failing_error_reporter_ends_the_start_without_a_secret() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from src.telemetry import sentry; del sentry.report_bug\nimport src.asgi as a; a.create_app()",
        ],
        cwd=ROOT,
        env={"PATH": "", "MODEL": "offline/demo", "SENTRY_DSN": "http://canary@127.0.0.1:9/1"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    [line] = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
    assert line["event"] == "can't start"
    assert "canary" not in done.stdout + done.stderr
