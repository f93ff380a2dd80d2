"""The chain: whoever answers, the answer is hardened and traceable, and no layer needs another."""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import litestar
import pytest
import quart
import structlog
from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import LogCapture

from src.config import Settings
from src.logs import access as access_log
from src.logs import failures
from src.logs.access import AccessLines, EndedCall
from src.middleware.limits import FREE_PIECES, MIN_PIECE_BYTES
from src.rate_limit import Decision, MemoryBuckets, RateLimit
from src.security import Layer, apply_security_middleware, header_policy, layers, wrap
from src.settings_loader import load_settings
from src.util.probe_paths import PROBE_PATHS
from src.util.rate import Rate
from testing.asgi import Response, body_of, http_scope, play

REQUIRED = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "strict-origin-when-cross-origin",
    "permissions-policy": "geolocation=(), camera=(), microphone=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-permitted-cross-domain-policies": "none",
    "cache-control": "no-store",
}
NAMES = [
    "AccessLogMiddleware",
    "GZipMiddleware",
    "CORSMiddleware",
    "TrustedHostMiddleware",
    "RateLimitMiddleware",
    "TimeoutMiddleware",
    "MaxBodySizeMiddleware",
    "ExceptionHandlerMiddleware",
    "SecurityHeadersMiddleware",
    "RequestIdMiddleware",
]


def settings(**values: Any) -> Settings:
    return load_settings(
        {
            "model": "offline/demo",
            "trusted_hosts": "api.test",
            "cors_allowed_origins": "https://app.test",
            "max_body_size": 100,
            "request_timeout": 0.05,
            "trusted_proxies": "10.0.0.0/8",
            **values,
        }
    )


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """An app without a framework; its paths are what the tests need."""
    path = scope["path"]
    if path == "/bug":
        raise RuntimeError("secret detail")
    if path == "/hang":
        await asyncio.Event().wait()
    body = b""
    while path == "/echo":
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RuntimeError("client gone")
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if path.startswith("/sse"):
        await stream(path, send)
        return
    headers = [(b"server", b"leaky/1.0"), (b"x-frame-options", b"ALLOWALL"), (b"x-empty", b"")]
    await send(
        {"type": "http.response.start", "status": 200 if path in ("/", "/echo", "/health") else 404, "headers": headers}
    )
    await send({"type": "http.response.body", "body": body or b"hello"})


async def stream(path: str, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
    if path == "/sse-bug":
        raise RuntimeError("secret detail")
    if path == "/sse-hang":
        await asyncio.Event().wait()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def fastapi_app() -> ASGIApp:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    @app.get("/health")
    async def hello() -> str:
        return "hello"

    @app.post("/echo")
    async def echo(request: Request) -> str:
        return (await request.body()).decode()

    @app.get("/hang")
    async def hang() -> None:
        await asyncio.Event().wait()

    return app


def litestar_app() -> ASGIApp:
    @litestar.get(["/", "/health"])
    async def hello() -> str:
        return "hello"

    @litestar.post("/echo")
    async def echo(request: litestar.Request[Any, Any, Any]) -> str:
        return (await request.body()).decode()

    @litestar.get("/hang")
    async def hang() -> None:
        await asyncio.Event().wait()

    return litestar.Litestar([hello, echo, hang], openapi_config=None)  # type: ignore[return-value]


def quart_app() -> ASGIApp:
    app = quart.Quart(__name__)

    @app.get("/")
    @app.get("/health")
    async def hello() -> str:
        return "hello"

    @app.post("/echo")
    async def echo() -> bytes:
        data: Any = await quart.request.get_data()
        return bytes(data)

    @app.get("/hang")
    async def hang() -> str:
        await asyncio.Event().wait()
        return ""

    return app  # type: ignore[return-value]


APPS: dict[str, Callable[[], ASGIApp]] = {
    "bare": lambda: bare,
    "FastAPI": fastapi_app,
    "Litestar": litestar_app,
    "Quart": quart_app,
}


def request(
    app: ASGIApp,
    path: str = "/",
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: Sequence[bytes] = (b"",),
    peer: str = "192.0.2.7",
    hosts: Sequence[bytes] = (b"api.test",),
    version: str = "1.1",
    root_path: str = "",
    read: float = math.inf,
) -> Response:
    """Make one request; its body is streamed in without a declared length."""
    given = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    if "host" not in (headers or {}):
        given += [(b"host", host) for host in hosts]
    scope = http_scope(path, method=method, headers=given, client=(peer, 1), http_version=version, root_path=root_path)
    return play(app, scope, body_of(*body), read=read)


def chain_of(chosen: Settings, limit: RateLimit) -> list[Layer]:
    return layers(chosen, limit, header_policy(chosen), [AccessLines(chosen).write])


def chain_without(name: str | None, app: ASGIApp, **values: Any) -> ASGIApp:
    chosen = settings(**values)
    chain = chain_of(chosen, RateLimit(MemoryBuckets(), chosen.rate_limit))
    chain = [layer for layer, known in zip(chain, NAMES, strict=True) if known != name]
    return wrap(app, chain, header_policy(chosen))


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the chain's log lines, with the fields bound to the request."""
    capture = LogCapture()
    logger = structlog.wrap_logger(
        None,
        processors=[structlog.contextvars.merge_contextvars, capture],
        wrapper_class=structlog.make_filtering_bound_logger("notset"),  # not the one that Genkit configures
    )
    monkeypatch.setattr(failures, "log", logger)
    monkeypatch.setattr(failures._stdlib_log, "isEnabledFor", lambda _level: True)

    def write(_: AccessLines, call: EndedCall) -> None:
        event, fields = access_log._line(call)
        getattr(logger, "debug" if call.is_quiet else "info")(event, **fields)

    monkeypatch.setattr(AccessLines, "write", write)
    return capture.entries


def test_the_order_of_the_chain() -> None:
    app: Any = chain_without(None, bare)
    found = []
    while app is not bare:
        found.append(type(app).__name__)
        app = app.app
    assert found == ["EdgeMiddleware", *NAMES]


PREFLIGHT = {"origin": "https://app.test", "access-control-request-method": "POST"}

ANSWERS = [
    pytest.param({"path": "/"}, 200, id="200"),
    pytest.param({"path": "/nowhere"}, 404, id="404"),
    pytest.param({"path": "/", "headers": {"host": "evil.test"}}, 400, id="400 wrong host"),
    pytest.param({"path": "/", "method": "OPTIONS", "headers": PREFLIGHT}, 200, id="preflight"),
    pytest.param(
        {"path": "/", "method": "OPTIONS", "headers": PREFLIGHT | {"origin": "https://evil.test"}},
        400,
        id="preflight refused",
    ),
    pytest.param({"path": "/echo", "method": "POST", "headers": {"content-length": "101"}}, 413, id="413 declared"),
    pytest.param({"path": "/echo", "method": "POST", "headers": {"content-length": "9" * 5000}}, 413, id="413 absurd"),
    pytest.param({"path": "/echo", "method": "POST", "body": [b"x" * 60] * 2}, 413, id="413 streamed"),
    pytest.param({"path": "/hang"}, 504, id="504"),
]


@pytest.mark.parametrize("framework", APPS)
@pytest.mark.parametrize(("asked", "status"), ANSWERS)
def test_every_answer_of_every_framework_is_hardened_and_traceable(
    framework: str, asked: dict[str, Any], status: int
) -> None:
    result = request(chain_without(None, APPS[framework]()), **asked)
    assert (result.status, len(result.starts), result.ended) == (status, 1, True)
    for name, value in REQUIRED.items():
        assert result.header(name) == [value], name
    assert len(result.header("x-request-id")) == 1
    assert result.header("server") == result.header("strict-transport-security") == []
    assert all(value for _, value in result.starts[0]["headers"])


def test_a_bug_is_a_500_that_tells_nothing() -> None:
    result = request(chain_without(None, bare), "/bug")
    assert result.status == 500
    assert json.loads(result.body)["title"] == "Internal error"
    assert b"secret" not in result.body
    assert b"RuntimeError" not in result.body


async def cancelled(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise asyncio.CancelledError


def test_a_request_that_a_stop_cuts_off_is_a_503_with_all_headers(logged: list[Any]) -> None:
    chosen = settings()
    app = apply_security_middleware(
        cancelled,
        chosen,
        RateLimit(MemoryBuckets(), chosen.rate_limit),
        listeners=[AccessLines(chosen).write],
        has_cut=lambda: True,
    )
    result = request(app)
    assert (result.status, len(result.starts), result.ended) == (503, 1, True)
    assert result.header("x-frame-options") == ["DENY"]
    assert len(result.header("x-request-id")) == 1
    assert [line["status"] for line in logged if line["event"] == "request"] == [503]


def test_any_other_cancelled_request_stays_cancelled() -> None:
    with pytest.raises(asyncio.CancelledError):
        request(chain_without(None, cancelled))


@pytest.mark.parametrize(("path", "status"), [("/sse-bug", 500), ("/sse-hang", 504)])
def test_a_failure_in_mid_stream_is_one_error_event_and_a_clean_end(path: str, status: int) -> None:
    result = request(chain_without(None, bare), path, headers={"accept-encoding": "gzip"})
    assert len(result.starts) == 1
    assert result.body.startswith(b"data: 1\n\nevent: error\ndata: {")
    assert json.loads(result.body.rpartition(b"data: ")[2])["status"] == status
    assert result.ended


ANSWERED_BY: dict[str, tuple[dict[str, Any], int]] = {
    "TrustedHostMiddleware": ({"path": "/", "headers": {"host": "evil.test"}}, 400),
    "CORSMiddleware": ({"path": "/", "method": "OPTIONS", "headers": PREFLIGHT}, 200),
    "MaxBodySizeMiddleware": ({"path": "/echo", "body": [b"x" * 101]}, 413),
    "TimeoutMiddleware": ({"path": "/hang"}, 504),
    "ExceptionHandlerMiddleware": ({"path": "/bug"}, 500),
}


@pytest.mark.parametrize(
    ("left_out", "layer"), [(name, layer) for name in NAMES for layer in ANSWERED_BY if name != layer]
)
def test_no_layer_needs_another(left_out: str, layer: str) -> None:
    asked, status = ANSWERED_BY[layer]
    result = request(chain_without(left_out, bare), **asked)
    assert (result.status, len(result.starts), result.ended) == (status, 1, True)
    assert result.header("x-frame-options") == ["DENY"]
    assert len(result.header("x-request-id")) == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "RateLimitMiddleware"])
def test_a_layer_alone_answers_as_in_the_chain(name: str) -> None:
    chosen = settings()
    [layer] = [
        it
        for it, known in zip(chain_of(chosen, RateLimit(MemoryBuckets(), chosen.rate_limit)), NAMES, strict=True)
        if known == name
    ]
    asked, status = ANSWERED_BY.get(name, ({"path": "/"}, 200))
    result = request(layer(bare), **asked)
    assert (result.status, len(result.starts), result.ended) == (status, 1, True)


def test_an_access_log_alone_keeps_the_status_that_a_client_has_got(logged: list[Any]) -> None:
    chosen = settings()
    access_log, *_ = chain_of(chosen, RateLimit(MemoryBuckets(), chosen.rate_limit))
    with pytest.raises(RuntimeError):
        request(access_log(bare), path="/sse-bug")
    [line] = [each for each in logged if each["event"] == "request"]
    assert line["status"] == 200


class Exhausted(MemoryBuckets):
    async def take(self, buckets: Sequence[tuple[str, Rate]], cost: int = 1) -> Decision:
        return Decision(False, 0, 7.0)


# What is asked, the layer that refuses it, and the level of the line that says so.
FAILURES: dict[str, tuple[dict[str, Any], str, str]] = {
    "429": ({"path": "/"}, "RateLimitMiddleware", "debug"),
    "413 streamed": ({"path": "/echo", "body": [b"x" * 101]}, "MaxBodySizeMiddleware", "debug"),
    "413 declared": ({"path": "/echo", "headers": {"content-length": "101"}}, "MaxBodySizeMiddleware", "debug"),
    "504": ({"path": "/hang"}, "TimeoutMiddleware", "warning"),
    "504 in mid-stream": ({"path": "/sse-hang"}, "TimeoutMiddleware", "warning"),
    "500": ({"path": "/bug"}, "", "error"),
    "500 in mid-stream": ({"path": "/sse-bug"}, "", "error"),
}


@pytest.mark.parametrize(
    ("failure", "left_out"),
    [(failure, name) for failure, (_, layer, _) in FAILURES.items() for name in ("none", *NAMES) if name != layer],
)
def test_a_failure_is_logged_once_with_the_flow(failure: str, left_out: str, logged: list[Any]) -> None:
    asked, layer, level = FAILURES[failure]
    chosen = settings()
    store = Exhausted() if layer == "RateLimitMiddleware" else MemoryBuckets()
    chain = [
        it
        for it, name in zip(chain_of(chosen, RateLimit(store, chosen.rate_limit)), NAMES, strict=True)
        if name != left_out
    ]
    request(wrap(bare, chain, header_policy(chosen), {asked["path"]: "the_flow"}), **asked)
    lines = [entry for entry in logged if entry["event"] in ("request failed", "internal error")]
    assert [(line["operation"], line["log_level"]) for line in lines] == [("the_flow", level)]


def test_a_failure_of_no_flow_names_none(logged: list[Any]) -> None:
    request(chain_without(None, bare), "/bug")
    [line] = [entry for entry in logged if entry["event"] == "internal error"]
    assert "operation" not in line


def test_a_probe_by_address_is_answered() -> None:
    assert request(chain_without(None, bare), "/health", headers={"host": "10.1.2.3"}).status == 200


@pytest.mark.parametrize("path", ["/health/", "//health", "/health/../", "/healthx", "/HEALTH"])
def test_nothing_but_the_probes_is_exempt(path: str) -> None:
    assert request(chain_without(None, bare), path, headers={"host": "evil.test"}).status == 400


@pytest.mark.parametrize("host", ["api.test", "API.TEST", "api.test:8080"])
def test_a_trusted_host_in_its_spellings(host: str) -> None:
    assert request(chain_without(None, bare), headers={"host": host}).status == 200


@pytest.mark.parametrize("given", ["abc-1.2_3:4", "a", "A" * 128])
def test_a_harmless_request_id_is_kept(given: str, logged: list[Any]) -> None:
    assert request(chain_without(None, bare), headers={"x-request-id": given}).header("x-request-id") == [given]
    assert {entry["request_id"] for entry in logged} == {given}


@pytest.mark.parametrize("given", ["", "a b", "a\tb", "é", "<script>", "a\x00b", "A" * 129, "a,b", "x" * 5000])
def test_a_hostile_request_id_is_replaced(given: str, logged: list[Any]) -> None:
    [echoed] = request(chain_without(None, bare), headers={"x-request-id": given}).header("x-request-id")
    assert len(echoed) == 36
    assert not given or given not in str(logged)


@pytest.mark.parametrize(("asked", "status"), [*ANSWERS, pytest.param({"path": "/bug"}, 500, id="bug")])
def test_every_log_line_of_a_request_has_its_id(asked: dict[str, Any], status: int, logged: list[Any]) -> None:
    [request_id] = request(chain_without(None, bare), **asked).header("x-request-id")
    assert {entry["request_id"] for entry in logged} == {request_id}
    [line] = [entry for entry in logged if entry["event"] == "request"]
    assert (line["status"], line["path"], line["client"]) == (status, asked["path"], "192.0.2.7")
    assert line["duration_ms"] >= 0


def test_a_probe_is_logged_at_debug_level(logged: list[Any]) -> None:
    request(chain_without(None, bare), "/health")
    assert [entry["log_level"] for entry in logged] == ["debug"]


@pytest.mark.parametrize(
    ("peer", "said", "sent"),
    [
        pytest.param("10.0.0.1", "https", True, id="a trusted proxy says https"),
        pytest.param("10.0.0.1", "http", False, id="a trusted proxy says http"),
        pytest.param("192.0.2.7", "https", False, id="anybody else is not believed"),
    ],
)
def test_hsts_over_https_only(peer: str, said: str, sent: bool) -> None:
    result = request(chain_without(None, bare), headers={"x-forwarded-proto": said}, peer=peer)
    expected = ["max-age=31536000; includeSubDomains"] if sent else []
    assert result.header("strict-transport-security") == expected


def test_cors_names_what_scripts_may_use() -> None:
    preflight = request(chain_without(None, bare), method="OPTIONS", headers=PREFLIGHT)
    assert preflight.header("access-control-allow-origin") == ["https://app.test"]
    assert preflight.header("access-control-allow-methods") == ["GET, POST, OPTIONS"]
    assert "*" not in preflight.header("access-control-allow-headers")[0]
    assert preflight.header("access-control-allow-credentials") == []
    answer = request(chain_without(None, bare), headers={"origin": "https://app.test"})
    assert answer.header("access-control-expose-headers") == [
        "X-Request-ID, Retry-After, RateLimit, RateLimit-Policy, Cache-Status, X-Model, X-Truncated"
    ]


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "https://app.test.evil.test", "http://app.test"])
def test_an_origin_that_is_not_listed_may_not_read(origin: str) -> None:
    result = request(chain_without(None, bare), headers={"origin": origin})
    assert result.header("access-control-allow-origin") == []


def test_unconfigured_cors_is_same_origin_in_production_and_any_in_debug() -> None:
    for debug, allowed in ((False, []), (True, ["*"])):
        app = chain_without(None, bare, debug=debug, cors_allowed_origins="")
        assert request(app, headers={"origin": "https://x.test"}).header("access-control-allow-origin") == allowed


@pytest.mark.parametrize("left_out", [None, *NAMES])
@pytest.mark.parametrize("scope_type", ["lifespan", "websocket"])
def test_other_scopes_pass_untouched(scope_type: str, left_out: str | None) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend((scope, receive, send))

    async def receive() -> Message:
        return {}

    async def send(_message: Message) -> None:
        return None

    scope: Scope = {"type": scope_type, "headers": [(b"host", b"api.test")]}
    work: Awaitable[None] = chain_without(left_out, app)(scope, receive, send)
    asyncio.run(work)  # type: ignore[arg-type]
    assert seen == [{"type": scope_type, "headers": [(b"host", b"api.test")]}, receive, send]


def test_httpx_can_talk_to_the_chain() -> None:
    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(chain_without(None, bare))
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
            return await client.get("/")

    assert asyncio.run(scenario()).text == "hello"


@pytest.mark.parametrize(
    ("configured", "sent"),
    [
        ("https://App.Example.com", "https://app.example.com"),
        ("HTTPS://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("https://[2001:DB8:0::1]:443", "https://[2001:db8::1]"),
    ],
)
def test_an_origin_is_known_as_browsers_send_it(configured: str, sent: str) -> None:
    app = chain_without(None, bare, cors_allowed_origins=f"https://other.test, {configured}")
    assert request(app, headers={"origin": sent}).header("access-control-allow-origin") == [sent]


async def long(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"x" * 1000})


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", ["gzip"]),
        ("br, gzip;q=0.001", ["gzip"]),
        ("gzip ; q=1.0", ["gzip"]),
        ("gzip;q=0", []),
        ("br, gzip; Q=0.000, *", []),
        ("identity, gzip;q=0, *;q=0", []),
        ("notgzip", []),
        ("gzip2, br", []),
    ],
)
def test_only_a_client_that_takes_gzip_gets_it(accepted: str, encoding: list[str]) -> None:
    answer = request(chain_without(None, long), headers={"accept-encoding": accepted})
    assert answer.header("content-encoding") == encoding
    assert set(", ".join(answer.header("vary")).split(", ")) == {"Accept-Encoding", "Origin"}


@pytest.mark.parametrize("trusted", ["", "api.test"])
@pytest.mark.parametrize("path", ["/", "/health"])
@pytest.mark.parametrize(
    ("hosts", "version", "status"),
    [
        pytest.param([b"api.test"], "1.1", 200, id="one"),
        pytest.param([], "1.1", 400, id="none"),
        pytest.param([b""], "1.1", 400, id="an empty one"),
        pytest.param([], "2", 400, id="none over HTTP/2"),
        pytest.param([b"api.test", b"api.test"], "1.1", 400, id="the same twice"),
        pytest.param([b"api.test", b"evil.test"], "1.1", 400, id="two"),
        pytest.param([b"evil.test", b"api.test"], "1.0", 400, id="two over HTTP/1.0"),
    ],
)
def test_a_request_has_one_host(hosts: list[bytes], version: str, status: int, path: str, trusted: str) -> None:
    app = chain_without(None, bare, trusted_hosts=trusted)
    assert request(app, path, hosts=hosts, version=version).status == status


@pytest.mark.parametrize(("hosts", "version"), [([], "1.0"), ([b""], "1.0"), ([b""], "1")])
@pytest.mark.parametrize(
    ("path", "trusted", "status"), [("/", "", 200), ("/", "api.test", 400), ("/health", "*.x", 200)]
)
def test_a_client_of_http_1_0_may_name_no_host(
    path: str, trusted: str, status: int, hosts: list[bytes], version: str
) -> None:
    app = chain_without(None, bare, trusted_hosts=trusted)
    assert request(app, path, hosts=hosts, version=version).status == status


@pytest.mark.parametrize("probe", sorted(PROBE_PATHS))
def test_a_probe_is_one_wherever_the_app_is_mounted(probe: str, logged: list[Any]) -> None:
    chosen = settings()
    app = wrap(bare, chain_of(chosen, RateLimit(Exhausted(), chosen.rate_limit)), header_policy(chosen))
    answers = [
        request(app, path, hosts=[b"10.1.2.3"], root_path=root).status
        for root, path in (("", probe), ("/api", f"/api{probe}"), ("/api", probe))
    ]
    assert not {400, 429} & set(answers)
    assert {entry["log_level"] for entry in logged} == {"debug"}
    others = [("/api", f"/apix{probe}"), ("", f"/api{probe}"), ("/ap", f"/api{probe}"), ("/api", f"/api/x{probe}")]
    for root, path in others:
        assert request(app, path, root_path=root).status == 429


PIECES = [
    pytest.param([b"x"] * FREE_PIECES, 200, id="few tiny ones"),
    pytest.param([b"x"] * (FREE_PIECES * 2), 413, id="many tiny ones"),
    pytest.param([b""] * (FREE_PIECES * 2), 413, id="many empty ones"),
    pytest.param([b"x" * (MIN_PIECE_BYTES - 1)] * 70_000, 413, id="many small ones"),
    pytest.param([b"x" * MIN_PIECE_BYTES] * 4000, 200, id="many of a usual size"),
    pytest.param([b"x" * 500_000] + [b""] * (FREE_PIECES * 20), 413, id="a large one and many empty ones"),
]


@pytest.mark.parametrize(("pieces", "status"), PIECES)
def test_a_body_in_very_many_pieces_is_refused(pieces: list[bytes], status: int) -> None:
    read = 0

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal read
        more = True
        while more:
            message = await receive()
            read += message["type"] == "http.request"
            more = message.get("more_body", False)
        await bare({**scope, "path": "/"}, receive, send)

    app = chain_without(None, counting, max_body_size=100_000_000, request_timeout=60)
    answer = request(app, "/upload", method="POST", body=pieces)
    assert answer.status == status
    assert read <= FREE_PIECES + sum(map(len, pieces)) // MIN_PIECE_BYTES
    if status == 413:
        assert json.loads(answer.body)["detail"] == "The request's body comes in too many pieces."


def test_debug_alone_lets_swagger_load() -> None:
    for debug, is_let in ((False, False), (True, True)):
        [policy] = request(chain_without(None, bare, debug=debug)).header("content-security-policy")
        assert ("script-src 'unsafe-inline' https://cdn.jsdelivr.net" in policy) is is_let
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy


async def started_only(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if scope["path"] == "/hang":
        await asyncio.Event().wait()
    while scope["path"] == "/read" and (await receive()).get("more_body"):
        pass
    raise RuntimeError("secret detail")


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.parametrize(("path", "status"), [("/", 500), ("/hang", 504), ("/read", 413)])
def test_a_failure_before_the_first_byte_is_still_told(
    path: str, status: int, encoding: str, logged: list[Any]
) -> None:
    headers = {"accept-encoding": encoding}
    answer = request(chain_without(None, started_only), path=path, headers=headers, body=[b"x" * 60] * 2)
    assert (answer.status, len(answer.starts)) == (status, 1)
    assert b"secret" not in answer.body
    for name, value in REQUIRED.items():
        assert answer.header(name) == [value], name
    assert len(answer.header("x-request-id")) == 1
    [line] = [entry for entry in logged if entry["event"] == "request"]
    assert line["status"] == status


class BrokenBuckets(MemoryBuckets):
    async def take(self, buckets: Sequence[tuple[str, Rate]], cost: int = 1) -> Any:
        raise RuntimeError("secret detail")


def test_a_bug_in_a_layer_is_answered_as_any_other(logged: list[Any]) -> None:
    chosen = settings()
    answer = request(
        wrap(
            bare,
            chain_of(chosen, RateLimit(BrokenBuckets(), chosen.rate_limit)),
            header_policy(chosen),
        )
    )
    assert (answer.status, json.loads(answer.body)["type"]) == (500, "urn:problem:internal")
    for name, value in REQUIRED.items():
        assert answer.header(name) == [value]
    [line] = [entry for entry in logged if entry["event"] == "request"]
    assert line["status"] == 500


def test_a_message_that_an_app_sends_again_and_again_gathers_nothing() -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}

    async def constant(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": b"hello"})

    app = chain_without(None, constant)
    answers = [request(app, headers={"origin": "https://app.test"}) for _ in range(2)] + [request(app)]
    assert start["headers"] == [(b"content-type", b"text/plain")]
    for name in ("ratelimit", "x-request-id", "x-frame-options"):
        assert [len(answer.header(name)) for answer in answers] == [1, 1, 1]
    assert [len(answer.header("access-control-allow-origin")) for answer in answers] == [1, 1, 0]


UNREAD: dict[str, dict[str, Any]] = {
    "200": {"path": "/"},
    "200 compressed": {"path": "/echo", "body": [b"x" * 90], "headers": {"accept-encoding": "gzip"}},
    "400 wrong host": {"hosts": [b"evil.test"]},
    "400 two hosts": {"hosts": [b"api.test", b"api.test"]},
    "preflight": {"method": "OPTIONS", "headers": PREFLIGHT},
    "preflight refused": {"method": "OPTIONS", "headers": {**PREFLIGHT, "origin": "https://evil.test"}},
    "another origin": {"headers": {"origin": "https://app.test"}},
    "413 declared": {"path": "/echo", "headers": {"content-length": "101"}},
    "413 streamed": {"path": "/echo", "body": [b"x" * 101]},
    "429": {"path": "/"},
    "500": {"path": "/bug"},
    "504": {"path": "/hang"},
    "stream": {"path": "/sse"},
    "stream with a bug": {"path": "/sse-bug"},
    "stream that hangs": {"path": "/sse-hang"},
}


@pytest.mark.parametrize("read", [0, 1, 2])
@pytest.mark.parametrize("answer", UNREAD)
def test_a_client_that_does_not_read_holds_nothing(
    answer: str, read: int, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.middleware.responses.SECONDS_TO_SEND", 0.01)
    chosen = settings()
    store = Exhausted() if answer == "429" else MemoryBuckets()
    app = wrap(bare, chain_of(chosen, RateLimit(store, chosen.rate_limit)), header_policy(chosen))
    began = time.monotonic()
    request(app, **UNREAD[answer], read=read)
    assert time.monotonic() - began < 2
    assert [entry["event"] for entry in logged].count("request") == 1
