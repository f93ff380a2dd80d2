"""No client holds more than its share of what all have together, whichever protocols it mixes."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.service import Service
from testing.small_service import pb

HOSTILE, HONEST = "203.0.113.1", "203.0.113.2"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


def started(upstream: GeminiStandIn, **env: str) -> Service:
    return Service(**upstream.env, TRUSTED_PROXIES="127.0.0.1", **{"LLM_MAX_CONCURRENCY": "8", **env})


def post(service: Service, path: str, client: str, **body: Any) -> httpx.Response:
    return service.http.post(path, json=body, headers={"x-forwarded-for": client})


def failed_rpc(service: Service, client: str) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        service.stub.PirateChat(pb.ChatRequest(), metadata=(("x-forwarded-for", client),), timeout=20)
    return caught.value


def hold(service: Service, upstream: GeminiStandIn, calls: list[Any], clients: ThreadPoolExecutor) -> None:
    """Begin calls that the model does not answer."""
    before = len(upstream.requests)
    upstream.script(*[gemini.HANG] * len(calls))
    for call in calls:
        clients.submit(call)
    upstream.wait_for(lambda: len(upstream.requests) == before + len(calls))


@pytest.mark.parametrize(
    ("holder", "refused", "honest"),
    [
        pytest.param([HOSTILE] * 2, HOSTILE, HONEST, id="an address"),
        pytest.param(["2001:db8:0:1::1", "2001:db8:0:2::1"], "2001:db8:0:3::1", "2001:db8:1::1", id="a /48"),
    ],
)
def test_who_has_a_quarter_of_the_places_is_refused_over_both_protocols_and_nobody_else(
    upstream: GeminiStandIn, holder: list[str], refused: str, honest: str
) -> None:
    with ThreadPoolExecutor(16) as clients, started(upstream) as service:
        first, second = holder
        rpc = {"metadata": (("x-forwarded-for", second),)}
        calls = [
            lambda: post(service, "/tell-story/stream", first),
            lambda: service.stub.PirateChat(pb.ChatRequest(), **rpc),
        ]
        hold(service, upstream, calls, clients)
        answer = post(service, "/chat", refused)
        assert (answer.status_code, answer.json()["title"]) == (503, "Overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        error = failed_rpc(service, refused)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        status: Any = rpc_status.from_call(error)
        assert any(detail.Unpack(error_details_pb2.RetryInfo()) for detail in status.details)
        for _ in range(5):
            assert post(service, "/chat", honest).status_code == 200
        service.output_with("raise LLM_MAX_PER_CLIENT")
        service.kill()


def test_one_client_has_a_quarter_of_the_images_in_memory(upstream: GeminiStandIn) -> None:
    with (
        ThreadPoolExecutor(16) as clients,
        started(upstream, LLM_MAX_CONCURRENCY="64", CACHE_ENABLED="false") as service,
    ):
        hold(service, upstream, [lambda: post(service, "/describe-image", HOSTILE, image_url=PIXEL)] * 4, clients)
        assert post(service, "/describe-image", HOSTILE, image_url=PIXEL).status_code == 503
        assert post(service, "/chat", HOSTILE).status_code == 200
        assert post(service, "/describe-image", HONEST, image_url=PIXEL).status_code == 200
        service.kill()


def test_for_one_backend_the_share_can_be_all(upstream: GeminiStandIn) -> None:
    with ThreadPoolExecutor(16) as clients, started(upstream, LLM_MAX_PER_CLIENT="8") as service:
        hold(service, upstream, [lambda: post(service, "/chat", HOSTILE)] * 8, clients)
        assert post(service, "/chat", HOSTILE).status_code == 503
        service.kill()


def test_the_cache_tells_of_itself_in_debug_only(upstream: GeminiStandIn) -> None:
    """In production strangers share its scope: they would learn what others ask."""
    for flag, expected in ((True, ["fwd=miss", "hit"]), (False, [])):
        with started(upstream, DEBUG=str(flag)) as service:
            answers = [post(service, "/translate", HONEST, text="hello") for _ in range(2)]
            told = [answer.headers["cache-status"] for answer in answers if "cache-status" in answer.headers]
            assert told == [f"flow-cache; {use}" for use in expected]
            assert "cache-status" not in post(service, "/chat", HONEST).headers
