"""The REST adapter around flows of a scripted model, without a server: bodies, errors and documents."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message

from src.asgi import create_app
from src.middleware import access_log
from src.runner import Runner
from src.settings_loader import load_settings
from src.util.probe_paths import PROBE_PATHS
from testing.asgi import LEFT, http_scope, play
from testing.small_service import OPERATIONS, in_this_process


@pytest.fixture(scope="module")
def app() -> Iterator[ASGIApp]:
    limit = {"rate_limit_default": "1000000/second"}
    with in_this_process():
        yield create_app(load_settings({"model": "offline/demo", "log_level": "error", **limit}))


@pytest.fixture
def client(app: ASGIApp) -> "Client":
    return Client(app)


class Client:
    """Sends a request to an app in this process."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def post(self, path: str, body: bytes, content_type: str = "application/json") -> httpx.Response:
        headers = {"content-type": content_type} if content_type else {}

        async def scenario() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                return await http.post(path, content=body, headers=headers)

        return asyncio.run(scenario())


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"text": "a"', id="cut off"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"text"', id="a string"),
        pytest.param(b'{"text": 5}', id="wrong type"),
        pytest.param(b'{"text": NaN}', id="NaN"),
        pytest.param(b'{"text": "\xff"}', id="no UTF-8"),
        pytest.param(b'{"x":' * 1000 + b"1" + b"}" * 1000, id="1,000 deep"),
        pytest.param(b'{"text":' + b"[" * 100_000, id="100,000 open brackets"),
        pytest.param(b'{"text": ' + b"9" * 5000 + b"}", id="a huge number"),
        pytest.param(b"\xff\xfe{\x00}\x00", id="UTF-16"),
    ],
)
def test_a_bad_body_is_unprocessable_and_never_echoed(client: Client, body: bytes) -> None:
    answer = client.post("/translate", body)
    assert answer.status_code == 422
    for problem in answer.json()["detail"]:
        assert problem.keys() == {"type", "loc", "msg"}
        assert problem["loc"][0] == "body"


def test_no_body_is_an_empty_object(client: Client) -> None:
    assert client.post("/chat", b"").json() == client.post("/chat", b"{}").json()


@pytest.mark.parametrize("content_type", ["application/json", "APPLICATION/JSON; charset=utf-8", "application/x+json"])
def test_json_by_any_of_its_names_is_taken(client: Client, content_type: str) -> None:
    assert client.post("/chat", b"{}", content_type).status_code == 200


@pytest.mark.parametrize("path", [operation.path for operation in OPERATIONS])
@pytest.mark.parametrize("body", [b"", b"{}"])
@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"]
)
def test_what_a_page_of_another_site_can_send_is_refused(
    client: Client, path: str, body: bytes, content_type: str
) -> None:
    answer = client.post(path, body, content_type)
    assert answer.status_code == 415
    assert answer.json()["title"] == "Unsupported Media Type"


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("path", sorted(PROBE_PATHS))
def test_a_probe_may_ask_with_head(path: str, debug: bool) -> None:
    app = create_app(load_settings({"model": "offline/demo", "log_level": "error", "debug": debug}))

    async def scenario() -> tuple[httpx.Response, ...]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            return await http.get(path), await http.head(path), await http.post(path)

    got, head, refused = asyncio.run(scenario())
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-length"] == str(len(got.content))
    assert refused.status_code == 405


def left(app: ASGIApp, *before: Message) -> tuple[list[Message], list[int]]:
    """Return the messages to a client that leaves after these, and its line in the access log."""
    lines: list[int] = []

    async def think(*_: Any) -> None:
        await asyncio.Event().wait()

    scope = http_scope("/chat", method="POST", headers=[(b"host", b"x"), (b"content-type", b"application/json")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access_log, "report_call", lambda call, _listeners: lines.append(call.status))
        patch.setattr(Runner, "_result", think)
        return play(app, scope, [*before, LEFT]).messages, lines


@pytest.mark.parametrize(
    ("before", "status"),
    [
        pytest.param([], 400, id="before its body"),
        pytest.param([{"type": "http.request", "body": b"{", "more_body": True}], 400, id="within its body"),
        pytest.param([{"type": "http.request", "body": b"{}", "more_body": False}], 499, id="before its answer"),
    ],
)
def test_a_client_that_left_gets_no_status_that_clients_do_not_know(
    app: ASGIApp, before: list[Message], status: int
) -> None:
    [start, _], [logged] = left(app, *before)
    assert (start["status"], logged) == (400, status)
    assert (b"x-frame-options", b"DENY") in start["headers"]


def test_an_unknown_path_is_told_as_a_problem(client: Client) -> None:
    answer = client.post("/nowhere", b"{}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "Not Found",
        "request_id": answer.headers["x-request-id"],
    }
