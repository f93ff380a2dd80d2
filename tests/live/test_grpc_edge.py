"""The edge of the gRPC side: ids, log lines, limits, and nothing of ours in a status."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from testing import small_service
from testing.fakes import gemini
from testing.fakes.gemini import Gate, GeminiStandIn
from testing.service import Service
from testing.small_service import pb
from tests.live.raw_h2 import RawRpcs, frame

CHAT = "/genkit.sample.v1.GenkitService/PirateChat"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(LOG_LEVEL="debug", TRUSTED_PROXIES="127.0.0.0/8") as running:
        yield running


def failure(call: Any, *arguments: Any, **options: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        list(call(*arguments, **options))
    return caught.value


@pytest.mark.parametrize("method", ["PirateChat", "TellStory"])
def test_an_rpc_keeps_a_harmless_id_and_logs_one_line(service: Service, method: str) -> None:
    request_id = f"my-id-{method}"
    metadata = (("x-request-id", request_id), ("x-forwarded-for", "198.51.100.1, 203.0.113.9"))
    request = pb.ChatRequest() if method == "PirateChat" else pb.StoryRequest()
    if method == "PirateChat":
        answer, call = service.stub.PirateChat.with_call(request, metadata=metadata)
        messages = [answer]
    else:
        call = service.stub.TellStory(request, metadata=metadata)
        messages = list(call)
    assert dict(call.trailing_metadata())["x-request-id"] == request_id
    assert dict(call.initial_metadata()).get("x-request-id") == (request_id if method == "TellStory" else None)
    line = service.access_line(request_id)
    assert (line["method"], line["code"]) == (f"/genkit.sample.v1.GenkitService/{method}", "OK")
    assert line["client"] == "203.0.113.9"
    assert line["bytes"] == sum(message.ByteSize() for message in messages) > 0
    assert line["duration_ms"] >= (20 if method == "TellStory" else 0), "a stream's time is that of all its chunks"


@pytest.mark.parametrize("hostile", ["a b", "x" * 129, "<script>"])
def test_a_hostile_id_is_replaced(service: Service, hostile: str) -> None:
    _, call = service.stub.Health.with_call(pb.HealthRequest(), metadata=(("x-request-id", hostile),))
    [echoed] = [item.value for item in call.trailing_metadata() if item.key == "x-request-id"]
    assert len(echoed) == 36
    assert hostile not in service.output()


def test_invalid_input_names_each_field_and_the_request(service: Service) -> None:
    error = failure(
        service.stub.TranslateText,
        pb.TranslateRequest(text="x" * 10_001, target_language="x" * 101),
        metadata=(("x-request-id", "invalid-1"),),
    )
    status: Any = rpc_status.from_call(error)
    info, bad_request = error_details_pb2.RequestInfo(), error_details_pb2.BadRequest()
    status.details[0].Unpack(info)
    status.details[1].Unpack(bad_request)
    assert info.request_id == "invalid-1"
    assert [violation.field for violation in bad_request.field_violations] == ["text", "target_language"]
    assert service.access_line("invalid-1")["code"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, id="no protobuf"),
        pytest.param(b"\x0a\x02\xff\xfe", grpc.StatusCode.INVALID_ARGUMENT, id="no UTF-8"),
        pytest.param(b"\x0a\xff\xff\xff\xff\x0f", grpc.StatusCode.INVALID_ARGUMENT, id="a lying length"),
        pytest.param(b"\x0a" + b"\x81\x80\x40" + b"x" * 1_048_577, grpc.StatusCode.RESOURCE_EXHAUSTED, id="too large"),
    ],
)
@pytest.mark.parametrize("method", ["PirateChat", "TellStory"])
def test_a_bad_message_is_refused_in_our_own_words(
    service: Service, method: str, body: bytes, code: grpc.StatusCode
) -> None:
    path = f"/genkit.sample.v1.GenkitService/{method}"
    make = service.channel.unary_unary if method == "PirateChat" else service.channel.unary_stream
    error = failure(make(path), body)
    assert error.code() == code
    assert not any(word in str(error.details()) for word in ("class", "google", "Traceback", "Error"))


def test_a_deadline_ends_the_rpc_and_is_logged(service: Service) -> None:
    """By a client that leaves the end to the server: others cancel at the same moment, and either may be first."""
    with RawRpcs(service.grpc_port) as rpcs:
        path = b"/genkit.sample.v1.GenkitService/TellStory"
        stream = rpcs.begin(path, (b"grpc-timeout", b"50m"), (b"x-request-id", b"deadline-1"))
        rpcs.send(stream, frame(b""), is_last=True)
        line = service.access_line("deadline-1")
    assert line["code"] == "DEADLINE_EXCEEDED"
    assert line["client"] == "127.0.0.1"


def test_a_cancelled_rpc_is_logged_as_such(service: Service) -> None:
    call = service.stub.TellStory(pb.StoryRequest(), metadata=(("x-request-id", "left"),))
    next(call)
    call.cancel()
    assert service.access_line("left")["code"] == "CANCELLED"


@pytest.mark.parametrize("path", ["/genkit.sample.v1.GenkitService/Nothing", "/no.Service/Nothing", "nonsense"])
def test_an_unknown_method_is_logged_and_traceable_like_any(service: Service, path: str) -> None:
    request_id = f"unknown:{len(path)}"
    error = failure(service.channel.unary_stream(path), b"", metadata=(("x-request-id", request_id),))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    line = service.access_line(request_id)
    assert (line["code"], line["client"]) == ("UNIMPLEMENTED", "127.0.0.1")


def test_health_checks_are_logged_at_debug_level_only(service: Service) -> None:
    service.stub.Health(pb.HealthRequest(), metadata=(("x-request-id", "probe"),))
    assert service.access_line("probe")["level"] == "debug"


def test_an_rpc_has_the_same_time_limit_as_a_request() -> None:
    with Service(REQUEST_TIMEOUT="0.1") as slow:
        assert failure(slow.stub.TellStory, pb.StoryRequest()).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        answer = slow.http.post("/tell-story/stream", json={})
        assert '"status":504' in answer.text.rpartition("event: error")[2]


@pytest.mark.parametrize("method", ["PirateChat", "TellStory"])
def test_an_rpc_whose_message_never_comes_is_timed_out_and_logged(method: str) -> None:
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait()
        yield from ()

    name = f"/genkit.sample.v1.GenkitService/{method}"
    with Service(REQUEST_TIMEOUT="0.5", RATE_LIMIT_DEFAULT="1/hour") as service:
        metadata = (("x-request-id", "stalled-1"),)
        error = failure(service.channel.stream_stream(name), nothing(), metadata=metadata, timeout=10)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert service.access_line("stalled-1")["code"] == "DEADLINE_EXCEEDED"
        error = failure(service.channel.stream_stream(name), nothing(), timeout=10)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        never.set()


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", CHAT, "/genkit.sample.v1.GenkitService/TellStory"])
def test_a_message_that_is_none_is_the_clients_mistake(service: Service, method: str) -> None:
    metadata = (("x-request-id", "garbage-1"),)
    error = failure(service.channel.unary_stream(method), b"\xff\xff\xff", metadata=metadata)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "DecodeError" not in str(error)


def test_an_oversized_message_is_logged(service: Service) -> None:
    metadata = (("x-request-id", "oversized-1"),)
    error = failure(service.channel.unary_stream(CHAT), b"x" * 1_100_000, metadata=metadata)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert service.access_line("oversized-1")["method"] == CHAT


def test_metadata_that_is_not_utf8_is_logged_nowhere(service: Service) -> None:
    with RawRpcs(service.grpc_port) as rpcs:
        secret = (b"authorization", b"Bearer \xff" + b"tok-5121")
        stream = rpcs.begin(CHAT.encode(), secret, (b"x-request-id", b"not-utf8-1"))
        rpcs.send(stream, frame(b""), is_last=True)
        assert rpcs.status(stream) == 0
    assert service.access_line("not-utf8-1")["code"] == "OK"
    assert "tok-5121" not in service.output()
    assert "Invalid encoding" not in service.output()


@pytest.mark.parametrize("method", ["PirateChat", "TellStory", "Nothing"])
def test_a_failure_before_the_first_message_is_trailers_only(service: Service, method: str) -> None:
    with RawRpcs(service.grpc_port) as rpcs:
        stream = rpcs.begin(f"/genkit.sample.v1.GenkitService/{method}".encode(), (b"x-request-id", b"trailers-1"))
        rpcs.send(stream, frame(b"\xff"), is_last=True)
        [headers] = rpcs.headers(stream)
    assert headers[b"x-request-id"] == b"trailers-1"
    assert headers[b"grpc-status"] in (b"3", b"12")


def test_a_client_that_does_not_read_is_ended_in_time() -> None:
    with GeminiStandIn() as upstream:
        upstream.default(gemini.text("w" * 200_000, "upon", gate=(gate := Gate())))
        with (
            Service(**gemini_settings(upstream), REQUEST_TIMEOUT="1") as service,
            RawRpcs(service.grpc_port, window=0) as rpcs,
        ):
            stream = rpcs.begin(b"/genkit.sample.v1.GenkitService/TellStory", (b"x-request-id", b"unread-1"))
            rpcs.send(stream, frame(b""), is_last=True)
            upstream.wait_for(lambda: upstream.open_calls == 1)
            gate.release()  # of the first piece, which does not fit into the client's window
            line = service.access_line("unread-1")
            assert line["code"] == "DEADLINE_EXCEEDED"
            assert line["duration_ms"] < 3000
            upstream.wait_for(lambda: upstream.open_calls == 0)


def test_a_clients_retry_policy_recovers_by_itself() -> None:
    with GeminiStandIn() as upstream:
        upstream.script(gemini.error(503))
        upstream.default(gemini.text("fine"))
        with (
            Service(**gemini_settings(upstream), CB_FAILURE_THRESHOLD="1", CB_RECOVERY_TIMEOUT="0.3") as service,
            grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}", [("grpc.service_config", RETRYING)]) as channel,
        ):
            stub = small_service.stub(channel)
            assert stub.PirateChat(pb.ChatRequest()).answer == "fine"
            upstream.script(gemini.error(503))
            assert [chunk.text for chunk in stub.TellStory(pb.StoryRequest())] == ["fine"]
            service.output_with('"code":"UNAVAILABLE"', 2)


RETRYING = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.3s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


def gemini_settings(upstream: GeminiStandIn) -> dict[str, str]:
    return upstream.env
