"""Requests that bypass a layer or FastAPI get the same response as those that don't."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Request, Response
from hypothesis import given
from hypothesis import strategies as st
from starlette.middleware import cors, gzip, trustedhost
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.asgi import create_app
from src.middleware.compression import GZipMiddleware
from src.middleware.cors import EXPOSED_HEADERS, CORSMiddleware
from src.middleware.host import TrustedHostMiddleware
from src.rest.app import FastPath
from src.settings_loader import load_settings
from testing.asgi import body_of, http_scope, play
from testing.small_service import in_this_process

ORIGINS = ["https://app.test", "https://other.test"]
HOSTS = ["api.test", "*.wild.test", "192.0.2.1", "[::1]"]
LAYERS: dict[str, tuple[Callable[[ASGIApp], ASGIApp], Callable[[ASGIApp], ASGIApp]]] = {
    "GZip": (GZipMiddleware, gzip.GZipMiddleware),
    "CORS": (
        lambda app: CORSMiddleware(app, ORIGINS),
        lambda app: cors.CORSMiddleware(
            app,
            allow_origins=ORIGINS,
            allow_methods=("GET", "POST", "OPTIONS"),
            allow_headers=("Content-Type", "Authorization", "X-Request-ID"),
            expose_headers=EXPOSED_HEADERS,
        ),
    ),
    "TrustedHost": (
        lambda app: TrustedHostMiddleware(app, HOSTS),
        lambda app: trustedhost.TrustedHostMiddleware(app, allowed_hosts=HOSTS, www_redirect=False),
    ),
}

request_headers = st.lists(
    st.one_of(
        st.tuples(
            st.just(b"accept-encoding"), st.sampled_from([b"gzip", b"br", b"gzip;q=0.5", b"identity", b"", b"*"])
        ),
        st.tuples(st.just(b"origin"), st.sampled_from([b"https://app.test", b"https://evil.test", b"null", b""])),
        st.tuples(
            st.just(b"host"),
            st.sampled_from([b"api.test", b"API.test", b"api.test:80", b"a.wild.test", b"evil.test", b"[::1]:80"]),
        ),
        st.tuples(st.just(b"access-control-request-method"), st.sampled_from([b"POST", b"PUT"])),
    ),
    max_size=4,
)
response_headers = st.lists(
    st.one_of(
        st.tuples(
            st.just(b"content-type"),
            st.sampled_from(
                [
                    b"application/json",
                    b"text/event-stream",
                    b"Text/Event-Stream; charset=utf-8",
                    b"image/png",
                    b"video/mp4",
                    b"application/grpc+proto",
                    b"",
                ]
            ),
        ),
        st.tuples(st.just(b"content-encoding"), st.just(b"br")),
        st.tuples(st.just(b"vary"), st.sampled_from([b"Cookie", b"*", b"Origin", b"accept-encoding"])),
        st.tuples(st.just(b"x-other"), st.just(b"1")),
    ),
    max_size=4,
)
chunks = st.lists(st.sampled_from([b"", b"x", b"x" * 499, b"x" * 500, b"x" * 3000]), min_size=1, max_size=3)


def asked(
    app: ASGIApp,
    method: str,
    path: str,
    headers: list[tuple[bytes, bytes]],
    body: bytes = b"",
    *,
    root_path: str = "",
) -> list[Message]:
    """The messages that leave the app."""
    state = {"request_id": "the-id"}
    scope = http_scope(path, method=method, headers=headers, root_path=root_path, state=state)
    sent = play(app, scope, body_of(body)).messages
    return [{**message, "headers": sorted(message.get("headers", ()))} for message in sent]


@pytest.mark.parametrize("layer", LAYERS)
@given(
    method=st.sampled_from(["GET", "POST", "OPTIONS"]),
    given_headers=request_headers,
    answer=st.tuples(st.sampled_from([200, 206, 404]), response_headers, chunks),
)
def test_going_round_a_layer_gives_the_same_bytes(
    layer: str, method: str, given_headers: list[tuple[bytes, bytes]], answer: tuple[int, Any, list[bytes]]
) -> None:
    status, answered_headers, body = answer

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(answered_headers)})
        for number, chunk in enumerate(body, 1):
            await send({"type": "http.response.body", "body": chunk, "more_body": number < len(body)})

    if layer == "TrustedHost":  # it refuses none and several, which test_security.py looks at
        hosts = [header for header in given_headers if header[0] == b"host"]
        given_headers = [header for header in given_headers if header[0] != b"host"] + (
            hosts or [(b"host", b"other.test")]
        )[:1]
    ours, starlettes = LAYERS[layer]
    assert asked(ours(app), method, "/", given_headers) == asked(starlettes(app), method, "/", given_headers)


def rest_app() -> FastPath:
    """The fast path and the FastAPI app inside of the whole service."""
    with in_this_process():
        app: Any = create_app(load_settings({"model": "offline/demo", "log_level": "error"}))
    while not isinstance(app, FastPath):
        app = app.__closure__[0].cell_contents if hasattr(app, "__closure__") else app.app
    return app


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/ready"),
        ("HEAD", "/health"),
        ("POST", "/health"),
        ("POST", "/translate"),
        ("GET", "/translate"),
        ("POST", "/translate/"),
        ("POST", "/tell-story/stream"),
        ("POST", "/describe-image"),
        ("GET", "/nowhere"),
    ],
)
@pytest.mark.parametrize("body", [b"", b'{"text": "hello"}', b'{"text": ', b'{"topic": 7, "text": 7}'])
@pytest.mark.parametrize("content_type", [b"application/json", b"text/plain"])
def test_going_past_fastapi_gives_the_same_answer(method: str, path: str, body: bytes, content_type: bytes) -> None:
    fast = rest_app()
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    assert asked(fast, method, path, headers, body) == asked(fast.app, method, path, headers, body)


def statuses(fast: FastPath) -> list[int]:
    answers = [asked(fast, "GET", "/health", []), asked(fast, "POST", "/chat", [], b"{}")]
    return [answer[0]["status"] for answer in answers]


def test_middleware_that_someone_adds_is_asked_for_every_operation() -> None:
    def refusing(_app: ASGIApp) -> ASGIApp:
        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        return refuse

    fast = rest_app()
    fast.app.add_middleware(refusing)
    assert statuses(fast) == [401, 401]


def test_a_handler_that_someone_adds_handles_the_exceptions_of_operations() -> None:
    fast = rest_app()
    [chat] = [route for route in fast.app.routes if getattr(route, "path", "") == "/chat"]

    async def raises(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError

    async def teapot(_request: Request, _error: Exception) -> Response:
        return Response(status_code=418)

    fast.app.add_exception_handler(KeyError, teapot)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(chat.app), "__call__", raises)  # type: ignore[attr-defined]
        assert statuses(fast) == [200, 418]


def test_a_mounted_app_answers_under_its_path() -> None:
    fast = rest_app()
    for path in ("/api/health", "/health", "/api/nowhere"):
        answers = [asked(it, "GET", path, [], root_path="/api") for it in (fast, fast.app)]
        assert answers[0] == answers[1]
