"""The stand-in for the Gemini API, against the real SDK and against plain sockets."""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from google import genai
from google.genai import types
from google.genai.errors import APIError, UnknownApiResponseError

from testing.fakes import gemini
from testing.fakes.gemini import Behaviour, Gate, GeminiStandIn, instance

MODEL = "gemini-flash-latest"
HELLO = "Hello from the stand-in."
CALL = f"/v1beta/models/{MODEL}:generateContent"
STREAM = f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"


@pytest.fixture
def standin() -> Iterator[GeminiStandIn]:
    with GeminiStandIn() as running:
        yield running


@pytest.fixture
def client(standin: GeminiStandIn) -> Iterator[genai.Client]:
    with sdk(standin) as opened:
        yield opened


def sdk(standin: GeminiStandIn) -> genai.Client:
    direct = {"trust_env": False}
    options = types.HttpOptions(base_url=standin.url, timeout=5000, client_args=direct, async_client_args=direct)
    return genai.Client(api_key="x", http_options=options)


def ask(client: genai.Client, **config: Any) -> types.GenerateContentResponse:
    answer: types.GenerateContentResponse = client.models.generate_content(
        model=MODEL, contents="hi", config=types.GenerateContentConfig(**config)
    )
    return answer


def stream(client: genai.Client) -> Iterator[types.GenerateContentResponse]:
    return iter(client.models.generate_content_stream(model=MODEL, contents="hi"))


def reason(answer: types.GenerateContentResponse) -> types.FinishReason | None:
    return answer.candidates[0].finish_reason if answer.candidates else None


def request_bytes(path: str = CALL, body: bytes = b"{}", headers: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def connect(standin: GeminiStandIn) -> socket.socket:
    return socket.create_connection(("127.0.0.1", standin.port), timeout=5)


def answers(connection: socket.socket, count: int) -> list[Any]:
    """The bodies of the next answers on a connection."""
    with connection.makefile("rb") as incoming:
        return [read_answer(incoming) for _ in range(count)]


def read_answer(incoming: Any) -> Any:
    head = b"".join(iter(incoming.readline, b"\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return json.loads(incoming.read(length))


# What the SDK makes of each behaviour


@pytest.mark.parametrize(
    ("behaviour", "text", "finish_reason"),
    [
        pytest.param(gemini.ECHO, HELLO, "STOP", id="default"),
        pytest.param(gemini.text("one ", "two"), "one two", "STOP", id="text"),
        pytest.param(gemini.text(""), "", "STOP", id="empty text"),
        pytest.param(gemini.CUT_SHORT, "Once upon a", "MAX_TOKENS", id="out of tokens"),
        pytest.param(gemini.BLOCKED_ANSWER, None, "SAFETY", id="answer blocked"),
        pytest.param(gemini.BLOCKED_PROMPT, None, None, id="prompt blocked"),
        pytest.param(gemini.text("one", finish_reason=None), "one", None, id="no reason"),
    ],
)
def test_the_sdk_reads_an_answer_whole_and_streamed(
    standin: GeminiStandIn, client: genai.Client, behaviour: Behaviour, text: str | None, finish_reason: str | None
) -> None:
    standin.default(behaviour)
    whole, chunks = ask(client), list(stream(client))
    assert (whole.text, reason(whole)) == (text, finish_reason)
    assert "".join(chunk.text or "" for chunk in chunks) == (text or "")
    assert reason(chunks[-1]) == finish_reason
    for answer in (whole, chunks[-1]):
        assert answer.usage_metadata is not None
        assert answer.usage_metadata.total_token_count == 12


def test_a_blocked_prompt_says_why(standin: GeminiStandIn, client: genai.Client) -> None:
    standin.script(gemini.BLOCKED_PROMPT)
    answer = ask(client)
    assert not answer.candidates
    assert answer.prompt_feedback is not None
    assert answer.prompt_feedback.block_reason == "SAFETY"


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "INVALID_ARGUMENT"),
        (403, "PERMISSION_DENIED"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (503, "UNAVAILABLE"),
    ],
)
def test_the_sdk_reads_an_error(standin: GeminiStandIn, client: genai.Client, status: int, name: str) -> None:
    details = ({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"},)
    standin.default(gemini.error(status, details=details, retry_after="7"))
    for call in (lambda: ask(client), lambda: next(stream(client))):
        with pytest.raises(APIError) as caught:
            call()
        assert (caught.value.code, caught.value.status) == (status, name)
        assert caught.value.details["error"]["details"] == list(details)
        assert caught.value.response.headers["retry-after"] == "7"


def test_garbage_is_no_json_to_the_sdk(standin: GeminiStandIn, client: genai.Client) -> None:
    standin.default(gemini.GARBAGE)
    with pytest.raises(json.JSONDecodeError):
        ask(client)
    with pytest.raises(UnknownApiResponseError):
        next(stream(client))


def test_a_cut_stream_breaks_after_its_chunks(standin: GeminiStandIn, client: genai.Client) -> None:
    standin.script(gemini.text("one ", "two ", "three", cut_after=2))
    chunks = stream(client)
    assert [next(chunks).text, next(chunks).text] == ["one ", "two "]
    with pytest.raises(httpx.RemoteProtocolError):
        next(chunks)
    standin.wait_for(lambda: standin.open_calls == 0)
    assert standin.closed_early == 0, "it was not the client who left"


def test_a_reset_is_seen_as_one(standin: GeminiStandIn) -> None:
    standin.script(gemini.RESET)
    with connect(standin) as connection:
        connection.sendall(request_bytes())
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_gate_holds_each_chunk_back(standin: GeminiStandIn, client: genai.Client) -> None:
    gate = Gate()
    standin.script(gemini.text("one ", "two", gate=gate))
    gate.release()
    chunks = stream(client)
    assert next(chunks).text == "one "
    assert standin.open_calls == 1
    gate.release()
    assert next(chunks).text == "two"
    assert list(chunks) == []


def test_a_permit_is_not_lost_with_a_call_that_gave_up(standin: GeminiStandIn, client: genai.Client) -> None:
    gate = Gate()
    standin.script(gemini.text("nobody waits", gate=gate), gemini.text("one", gate=gate))
    with connect(standin) as connection:
        connection.sendall(request_bytes())
        standin.wait_for(lambda: standin.open_calls == 1)
    standin.wait_for(lambda: standin.closed_early == 1)
    gate.release()
    assert ask(client).text == "one"


# Made-up answers

TIME_IN = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="time_in",
            parameters_json_schema={
                "type": "object",
                "properties": {"place": {"type": "string"}},
                "required": ["place"],
            },
        )
    ]
)


def test_a_tool_is_asked_for_and_its_result_answered_with(standin: GeminiStandIn, client: genai.Client) -> None:
    standin.default(gemini.CALLS_TOOL)
    config = types.GenerateContentConfig(tools=[TIME_IN])
    asked = client.models.generate_content(model=MODEL, contents="hi", config=config)
    (call,) = asked.function_calls or []
    assert (call.name, call.args) == ("time_in", {"place": "stand-in"})
    result = types.Part.from_function_response(name="time_in", response={"result": "noon"})
    answered = client.models.generate_content(model=MODEL, contents=types.UserContent([result]), config=config)
    assert answered.text == 'The tool says {"result": "noon"}'


def test_a_tool_without_arguments_is_called_with_none(standin: GeminiStandIn, client: genai.Client) -> None:
    standin.script(gemini.CALLS_TOOL)
    (call,) = (
        ask(client, tools=[types.Tool(function_declarations=[types.FunctionDeclaration(name="now")])]).function_calls
        or []
    )
    assert (call.name, call.args) == ("now", {})


def test_a_named_tool_is_called_with_given_arguments(standin: GeminiStandIn, client: genai.Client) -> None:
    standin.script(gemini.tool_call("time_in", place="Rome"))
    (call,) = ask(client).function_calls or []
    assert (call.name, call.args) == ("time_in", {"place": "Rome"})


def test_a_response_schema_is_honoured(client: genai.Client) -> None:
    schema = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER", "minimum": 5}}, "required": ["n"]}
    for asked in ({"response_schema": schema}, {"response_json_schema": {**schema, "type": "object"}}):
        answer = ask(client, response_mime_type="application/json", **asked)
        assert json.loads(answer.text or "") == {"n": 5}


def test_json_without_a_schema_is_an_object(client: genai.Client) -> None:
    assert ask(client, response_mime_type="application/json").text == "{}"


ITEM = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        pytest.param({"type": "string"}, "stand-in", id="string"),
        pytest.param({"type": "string", "minLength": 10}, "stand-in..", id="long string"),
        pytest.param({"type": "string", "maxLength": 3}, "sta", id="short string"),
        pytest.param({"type": "string", "enum": ["low", "high"]}, "low", id="enum"),
        pytest.param({"const": 0}, 0, id="const"),
        pytest.param({"type": "boolean"}, True, id="boolean"),
        pytest.param({"type": "null"}, None, id="null"),
        pytest.param({"type": "integer"}, 1, id="integer"),
        pytest.param({"type": "integer", "minimum": 0, "maximum": 100}, 1, id="integer in its limits"),
        pytest.param({"type": "integer", "maximum": -2}, -2, id="integer below"),
        pytest.param({"type": "number", "minimum": 1.5}, 1.5, id="number above"),
        pytest.param({"type": "array", "items": ITEM}, ["stand-in"], id="array"),
        pytest.param({"type": "array", "items": ITEM, "minItems": 2}, ["stand-in"] * 2, id="array of two"),
        pytest.param({"type": "array", "items": ITEM, "maxItems": 0}, [], id="array of none"),
        pytest.param({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1, id="first choice"),
        pytest.param(
            {"type": "object", "properties": {"a": ITEM, "b": ITEM}, "required": ["a"]},
            {"a": "stand-in"},
            id="required properties",
        ),
        pytest.param({"type": "object", "properties": {"a": ITEM}}, {}, id="nothing required"),
        pytest.param(
            {"$defs": {"N": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/N"}}, [1], id="reference"
        ),
    ],
)
def test_the_smallest_instance_fits_its_schema(schema: dict[str, Any], expected: Any) -> None:
    made = instance(schema)
    assert made == expected
    jsonschema.validate(made, schema)


def test_limits_may_be_written_as_strings_as_google_does() -> None:
    assert instance({"type": "ARRAY", "items": {"type": "INTEGER"}, "minItems": "2"}) == [1, 1]


# What the test can read


def test_calls_are_recorded_as_they_came(standin: GeminiStandIn, client: genai.Client) -> None:
    ask(client)
    list(stream(client))
    assert [(call.model, call.streamed) for call in standin.requests] == [(MODEL, False), (MODEL, True)]
    assert [call.path for call in standin.requests] == [CALL, STREAM]
    assert standin.requests[0].body["contents"][0]["parts"] == [{"text": "hi"}]
    assert standin.requests[0].headers["x-goog-api-key"] == "x"


def test_a_script_is_followed_and_then_the_default(standin: GeminiStandIn, client: genai.Client) -> None:
    standin.script(gemini.text("one"), gemini.text("two"))
    assert [ask(client).text for _ in range(3)] == ["one", "two", HELLO]


def test_models_are_listed_and_described_and_are_no_calls(standin: GeminiStandIn, client: genai.Client) -> None:
    listed = list(client.models.list())
    assert [model.name for model in listed] == [f"models/{name}" for name in gemini.MODELS]
    assert client.models.get(model=MODEL).supported_actions == ["generateContent"]
    assert (standin.requests, standin.calls_started) == ([], 0)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/v1beta/models/no-such-model", id="unknown model"),
        pytest.param("/v1beta/modelsx", id="unknown path"),
        pytest.param("/v1/models", id="another version"),
        pytest.param(CALL, id="a call by GET"),
    ],
)
def test_anything_else_is_not_found(standin: GeminiStandIn, path: str) -> None:
    answer = httpx.get(standin.url + path, trust_env=False, verify=False)
    assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")


def test_a_stream_in_another_format_is_not_found(standin: GeminiStandIn) -> None:
    assert httpx.post(standin.url + STREAM.partition("?")[0], json={}, trust_env=False, verify=False).status_code == 404


def test_calls_and_connections_are_counted(standin: GeminiStandIn) -> None:
    gate = Gate()
    standin.default(gemini.text("one", gate=gate))
    clients = [connect(standin) for _ in range(3)]
    for one in clients:
        one.sendall(request_bytes())
    standin.wait_for(lambda: standin.open_calls == 3)
    gate.release(3)
    for one in clients:
        answers(one, 1)
    standin.wait_for(lambda: standin.calls_finished == 3)
    gate.release()
    clients[0].sendall(request_bytes())
    answers(clients[0], 1)
    standin.wait_for(lambda: standin.calls_finished == 4)
    assert standin.open_connections == 3, "kept alive"
    for one in clients:
        one.close()
    standin.wait_for(lambda: standin.open_connections == 0)
    assert (standin.calls_started, standin.open_calls, standin.max_open_calls) == (4, 0, 3)
    assert (standin.max_open_connections, standin.closed_early) == (3, 0)


def test_waiting_in_vain_fails(standin: GeminiStandIn) -> None:
    with pytest.raises(AssertionError, match="never got there"):
        standin.wait_for(lambda: standin.closed_early == 1, timeout=0.01)


# Clients that leave


async def unary(client: genai.Client) -> None:
    await client.aio.models.generate_content(model=MODEL, contents="hi")


async def streamed(client: genai.Client) -> None:
    async for _ in await client.aio.models.generate_content_stream(model=MODEL, contents="hi"):
        pass


@pytest.mark.parametrize("call", [unary, streamed])
@pytest.mark.parametrize("chunks_before", [0, 1])
def test_a_cancelled_call_is_seen_at_once(
    standin: GeminiStandIn, client: genai.Client, call: Callable[[genai.Client], Awaitable[None]], chunks_before: int
) -> None:
    gate = Gate()
    gate.release(chunks_before if call is streamed else 0)
    standin.script(gemini.text("one ", "two", gate=gate))

    async def leave() -> None:
        task = asyncio.ensure_future(call(client))
        await asyncio.to_thread(standin.wait_for, lambda: standin.open_calls == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(standin.wait_for, lambda: standin.closed_early == 1)

    asyncio.run(leave())
    assert (standin.calls_started, standin.calls_finished, standin.open_calls) == (1, 0, 0)


@pytest.mark.parametrize("behaviour", [gemini.HANG, gemini.text("one", gate=Gate())], ids=["hanging", "gated"])
def test_a_socket_closed_before_the_answer_is_seen(standin: GeminiStandIn, behaviour: Behaviour) -> None:
    standin.script(behaviour)
    with connect(standin) as connection:
        connection.sendall(request_bytes(STREAM))
        standin.wait_for(lambda: standin.open_calls == 1)
        assert standin.closed_early == 0
    standin.wait_for(lambda: standin.closed_early == 1)


# The connection


def test_a_connection_serves_one_call_after_the_other(standin: GeminiStandIn) -> None:
    with connect(standin) as connection:
        for _ in range(3):
            connection.sendall(request_bytes())
            assert "candidates" in answers(connection, 1)[0]
    assert standin.max_open_connections == 1


def test_a_request_sent_before_the_answer_is_no_early_close(standin: GeminiStandIn) -> None:
    gate = Gate()
    standin.script(gemini.text("one", gate=gate), gemini.text("two"))
    with connect(standin) as connection:
        connection.sendall(request_bytes() * 2)
        standin.wait_for(lambda: standin.open_calls == 1)
        gate.release()
        first, second = answers(connection, 2)
    assert first["candidates"][0]["content"]["parts"] == [{"text": "one"}]
    assert second["candidates"][0]["content"]["parts"] == [{"text": "two"}]
    standin.wait_for(lambda: standin.calls_finished == 2)
    assert standin.closed_early == 0


def test_a_connection_is_closed_when_asked_to(standin: GeminiStandIn) -> None:
    with connect(standin) as connection:
        connection.sendall(request_bytes(headers="connection: close\r\n"))
        incoming = connection.makefile("rb")
        assert read_answer(incoming)
        assert incoming.read() == b""
        incoming.close()


# Down and up


def test_a_pause_refuses_and_a_resume_serves_again(standin: GeminiStandIn) -> None:
    url = standin.url
    with sdk(standin) as client:
        assert ask(client).text == HELLO
        standin.wait_for(lambda: standin.calls_finished == 1)  # the client may have its answer before
        standin.pause()
        with pytest.raises(httpx.ConnectError):
            ask(client)
        standin.resume()
        assert standin.url == url
        assert ask(client).text == HELLO
    standin.wait_for(lambda: standin.calls_finished == 2)
    assert len(standin.requests) == 2, "the record goes on"


def test_it_can_start_after_its_address_was_given_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    later = GeminiStandIn(port)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{later.url}/v1beta/models", trust_env=False, verify=False)
    with later:
        assert httpx.get(f"{later.url}/v1beta/models", trust_env=False, verify=False).status_code == 200


def test_a_stop_ends_everything_and_nobody_left_early() -> None:
    before = threading.active_count()
    standin = GeminiStandIn()
    standin.start()
    standin.script(gemini.HANG)
    with connect(standin) as connection, connect(standin) as idle:
        connection.sendall(request_bytes())
        standin.wait_for(lambda: standin.open_calls == 1)
        standin.stop()
        assert threading.active_count() == before
        assert ends(connection)
        assert ends(idle)
    assert (standin.open_calls, standin.open_connections, standin.closed_early) == (0, 0, 0)


def test_a_stop_does_not_wait_for_a_client_that_does_not_read() -> None:
    standin = GeminiStandIn()
    standin.start()
    standin.script(gemini.text("x" * 20_000_000))
    with connect(standin) as connection:
        connection.sendall(request_bytes())
        standin.wait_for(lambda: standin.open_calls == 1)
        stopping = threading.Thread(target=standin.stop, daemon=True)
        stopping.start()
        stopping.join(5)
        assert not stopping.is_alive()


def ends(connection: socket.socket) -> bool:
    """Return True once the other side has closed, in order or with a reset."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_stop_without_a_start_does_nothing() -> None:
    GeminiStandIn().stop()
