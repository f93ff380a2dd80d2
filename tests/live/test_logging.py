"""All that the process writes, under each server, in production: JSON lines, joined by request ids, telling nothing."""

import json
from collections import Counter
from contextlib import suppress
from typing import Any

import grpc
import pytest

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.service import COMMANDS, Service
from testing.small_service import pb
from tests.live.test_lifecycle import EXIT_STATUS

KEY, TOKEN, PROMPT, ANSWER = "canary-key-77", "canary-token-77", "canary prompt", "canary answer"


def over_rest(service: Service, path: str, **body: Any) -> str:
    headers = {"authorization": f"Bearer {TOKEN}", "cookie": f"session={TOKEN}"}
    answer = service.http.post(path, json=body, headers=headers, params={"key": TOKEN})
    return answer.headers["x-request-id"]


def over_grpc(service: Service, rpc: str, request: Any) -> str:
    call = getattr(service.stub, rpc)
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    # A unary call gives its metadata through its future alone.
    under_way = call.future(request, metadata=metadata) if hasattr(call, "future") else call(request, metadata=metadata)
    with suppress(grpc.RpcError):
        under_way.result() if hasattr(call, "future") else list(under_way)
    return str(dict(under_way.trailing_metadata())["x-request-id"])


def mixed_calls(service: Service, upstream: GeminiStandIn) -> list[str]:
    """Fifty calls over both protocols, most of which fail; the request ids of those that were answered."""
    ids = []
    moods = [
        gemini.text(ANSWER),
        gemini.error(500, details=({"reason": ANSWER},)),
        gemini.BLOCKED_ANSWER,
        gemini.Behaviour(raw=ANSWER.encode()),
        gemini.text(ANSWER, ANSWER, cut_after=1),
    ]
    for mood in moods * 2:
        upstream.default(mood)
        ids.append(over_rest(service, "/chat", question=PROMPT))
        ids.append(over_rest(service, "/translate", text=PROMPT))
        ids.append(over_rest(service, "/tell-story/stream", topic=PROMPT))
        ids.append(over_grpc(service, "PirateChat", pb.ChatRequest(question=PROMPT)))
        ids.append(over_grpc(service, "TellStory", pb.StoryRequest(topic=PROMPT)))
    return ids


@pytest.mark.parametrize("name", COMMANDS)
def test_every_line_is_json_and_tells_no_secret(name: str, upstream: GeminiStandIn) -> None:
    model = upstream.env | {"GEMINI_API_KEY": KEY}
    with Service(COMMANDS[name], **model, CB_ENABLED="false", CACHE_ENABLED="false") as service:
        ids = mixed_calls(service, upstream)
        service.terminate()
        assert service.wait() == EXIT_STATUS.get(name, 0)
        output = service.output()
    assert not [word for word in (KEY, TOKEN, PROMPT, ANSWER) if word in output]
    entries = [json.loads(line) for line in output.splitlines()]
    for entry in entries:
        assert {"event", "level", "logger", "timestamp"} <= entry.keys(), entry
    assert {"service is up", "stopping", "stopped"} <= {entry["event"] for entry in entries}
    access = Counter(entry["request_id"] for entry in entries if entry["logger"] == "access")
    assert [access[request_id] for request_id in ids] == [1] * 50
    about_requests = [entry for entry in entries if entry["event"] == "request failed"]
    assert {entry["request_id"] for entry in about_requests} <= set(ids)
    assert len(about_requests) == 2 * (1 + 5 + 5 + 5 + 3)


@pytest.mark.parametrize("server", ["granian", "uvicorn", "hypercorn", "gunicorn, 2 workers"])
def test_an_exception_that_carries_a_prompt_does_not_tell_it(server: str) -> None:
    command = [part.replace("src.asgi", "tests.live.broken") for part in COMMANDS[server]]
    with Service(command) as service:
        ids = [
            over_rest(service, "/chat", question=PROMPT),
            over_rest(service, "/tell-story/stream", topic=PROMPT),
            over_grpc(service, "PirateChat", pb.ChatRequest(question=PROMPT)),
            over_grpc(service, "TellStory", pb.StoryRequest(topic=PROMPT)),
        ]
        for request_id in ids:
            service.access_line(request_id)
        output = service.output()
    assert not [word for word in (TOKEN, PROMPT) if word in output]
    bugs = [json.loads(line) for line in output.splitlines() if '"internal error"' in line]
    assert sorted(bug["request_id"] for bug in bugs) == sorted(ids)
    assert all("LookupError" in bug["exception"] and "tests/live/broken.py" in bug["exception"] for bug in bugs)
