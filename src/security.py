"""The middleware chain around the app: pure ASGI layers in a fixed order, independent of each other.

    AccessLog → GZip → CORS → TrustedHost → RateLimit → Timeout → MaxBodySize → ExceptionHandler → SecurityHeaders
    → RequestId → App

Each layer is a class of that name with `Middleware` at its end. Those outside SecurityHeaders and RequestId answer some
requests themselves (a wrong host, a preflight, a body that is too large). `EdgeMiddleware`, around all layers, adds the
missing headers to such responses.
"""

import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus

import structlog
from secure import Secure
from secure.headers import (
    ContentSecurityPolicy,
    CrossOriginOpenerPolicy,
    CrossOriginResourcePolicy,
    CustomHeader,
    PermissionsPolicy,
    ReferrerPolicy,
    StrictTransportSecurity,
    XContentTypeOptions,
    XFrameOptions,
)
from starlette.datastructures import MutableHeaders
from starlette.middleware import cors, gzip, trustedhost
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.config import Settings
from src.errors import PayloadTooLarge, TimedOut, as_service_error
from src.logs.access import AccessLines, CallListener, EndedCall, report_call
from src.middleware.responses import guard, guarded, in_time, release, send_status
from src.middleware.unread_body import UnreadBody, may_be_unread
from src.rate_limit import RateLimit, RateLimitMiddleware
from src.util.client_address import TrustedProxies, client_of, peer_of
from src.util.deadlines import Deadlines
from src.util.probe_paths import PROBE_PATHS, STATUS_PATHS
from src.util.request_id import request_id_of
from src.util.scope import (
    CLIENT_GONE,
    CLIENT_LEFT,
    HARDENED,
    IDENTIFIED,
    first_header,
    has_header,
    headers_of,
    route_path,
)

log = structlog.get_logger(__name__)

MAX_LENGTH_DIGITS = 18
FREE_PIECES = 256  # pieces of a body, of any size
MIN_PIECE_BYTES = 256  # bytes that allow one more piece
TOO_MANY_PIECES = "The request's body comes in too many pieces."
MIN_COMPRESSED_BYTES = 500
HTTP_1_0 = ("1.0", "1")  # the second is granian's
PARTIAL_CONTENT = 206
EXPOSED_HEADERS = (
    "X-Request-ID",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Cache-Status",
    "X-Model",
    "X-Truncated",
)
VARY_ORIGIN = (b"vary", b"Origin")

RawHeaders = list[tuple[bytes, bytes]]
Layer = Callable[[ASGIApp], ASGIApp]

SWAGGER_CSP = (
    "default-src 'none'; connect-src 'self'; frame-ancestors 'none'; "
    "img-src 'self' data: https://fastapi.tiangolo.com; "
    "script-src 'unsafe-inline' https://cdn.jsdelivr.net; style-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    "worker-src blob:"
)


def apply_security_middleware(
    app: ASGIApp,
    settings: Settings,
    limit: RateLimit,
    operations: Mapping[str, str] | None = None,
    listeners: Sequence[CallListener] = (),
) -> ASGIApp:
    """Wrap `app` in the whole chain.

    Args:
        limit: The rate limit, shared with gRPC.
        operations: The flow's name by path, for the log.
        listeners: Get the record of each request that has ended, as the access log does.
    """
    return wrap(app, layers(settings, limit, listeners), settings, operations)


def wrap(
    app: ASGIApp, chain: Iterable[Layer], settings: Settings, operations: Mapping[str, str] | None = None
) -> ASGIApp:
    """Wrap `app` in these layers, outermost first, and `EdgeMiddleware` around them."""
    for layer in reversed(list(chain)):
        app = layer(app)
    return EdgeMiddleware(app, settings, operations)


def layers(settings: Settings, limit: RateLimit, listeners: Sequence[CallListener] = ()) -> list[Layer]:
    """Return the chain, outermost first."""
    listeners = (AccessLines(settings).write, *listeners)
    proxies = TrustedProxies(settings.trusted_proxy_networks)
    quiet_paths = PROBE_PATHS | STATUS_PATHS if settings.debug else PROBE_PATHS
    return [
        lambda app: AccessLogMiddleware(app, listeners, proxies, quiet_paths),
        GZipMiddleware,
        lambda app: CORSMiddleware(app, settings.cors_origins),
        lambda app: TrustedHostMiddleware(app, settings.trusted_host_patterns),
        lambda app: RateLimitMiddleware(app, limit, proxies, quiet_paths),
        lambda app: TimeoutMiddleware(app, settings.request_timeout),
        lambda app: MaxBodySizeMiddleware(app, settings.max_body_size),
        ExceptionHandlerMiddleware,
        lambda app: SecurityHeadersMiddleware(app, settings),
        RequestIdMiddleware,
    ]


class EdgeMiddleware:
    """Outermost layer. Assigns the request id before anything logs, and completes responses that lack headers.

    A response that passed the inner layers is marked in the scope's state and not changed. If the app has not read the
    body, a short one is read before the response ends, so that the keep-alive connection survives.
    """

    def __init__(self, app: ASGIApp, settings: Settings, operations: Mapping[str, str] | None) -> None:
        self.app = app
        self._policy = HeaderPolicy(settings)
        self._operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        state = scope["state"]
        body = UnreadBody(receive) if may_be_unread(scope) else None

        def send_with_missing_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                if HARDENED not in state:
                    message = {**message, "headers": self._policy.apply(scope, message.get("headers", ()))}
                if IDENTIFIED not in state:
                    message = {**message, "headers": with_request_id(message.get("headers", ()), request_id)}
            elif body is not None and body.is_untouched and not message.get("more_body", False):
                return discard_and_send(body, message)
            return send(message)

        async def discard_and_send(body: UnreadBody, message: Message) -> None:
            await body.discard()
            await send(message)

        response = guard(scope, send_with_missing_headers, self._operations)
        tokens = structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self.app(scope, receive if body is None else body.receive, response.send)
            if CLIENT_LEFT in state and not response.has_started:
                # granian would otherwise send its own 500 to a client that has half-closed the connection.
                await in_time(send_status(scope, send_with_missing_headers, HTTPStatus.BAD_REQUEST))
        except Exception as error:  # raised by a layer outside ExceptionHandlerMiddleware
            await response.fail(scope, response.send, as_service_error(error))
        finally:
            release(scope)
            structlog.contextvars.reset_contextvars(**tokens)


class AccessLogMiddleware:
    """Reports each request when it has ended; those for quiet paths are logged at debug level."""

    def __init__(
        self, app: ASGIApp, listeners: Sequence[CallListener], proxies: TrustedProxies, quiet_paths: frozenset[str]
    ) -> None:
        self.app = app
        self._listeners = listeners
        self._quiet_paths = quiet_paths
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        response, send = guarded(scope, send)
        began = time.perf_counter()
        status, size = CLIENT_GONE, 0

        def send_and_count(message: Message) -> Awaitable[None]:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            return send(message)

        try:
            await self.app(scope, receive, send_and_count)
        except Exception as error:
            if not response.has_started:
                status = as_service_error(error).http_status
            raise
        finally:
            seconds = time.perf_counter() - began
            method, path, route = scope["method"], scope["path"], route_path(scope)
            client, is_quiet = client_of(scope, self._proxies), route in self._quiet_paths
            call = EndedCall("http", method, path, route, status, seconds, size, client, request_id_of(scope), is_quiet)
            report_call(call, self._listeners)


class GZipMiddleware:
    """Starlette's compression. Clients that don't accept gzip bypass it and get the same bytes.

    Starlette would read every header of every response, only to set `Vary` on compressible ones.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._compressing = gzip.GZipMiddleware(app, MIN_COMPRESSED_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or accepts_gzip(scope):
            await self._compressing(scope, receive, send)
            return
        held: Message | None = None  # the start, until the body shows whether compression is worth it

        async def send_with_vary(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                held = message if may_be_compressed(message) else None  # replaces an earlier start after a failure
                if held is not None:
                    return
            if held is not None:
                start, held = held, None
                if message.get("more_body", False) or len(message.get("body", b"")) >= MIN_COMPRESSED_BYTES:
                    start = {**start, "headers": add_vary(start.get("headers", ()), "Accept-Encoding")}
                await send(start)
            await send(message)

        await self.app(scope, receive, send_with_vary)


def accepts_gzip(scope: Scope) -> bool:
    """Return True if the client accepts gzip. A weight of 0 forbids it (RFC 9110, 12.5.3)."""
    accepted = first_header(scope["headers"], b"accept-encoding")
    if b"gzip" not in accepted:
        return False
    return any(
        coding.strip() == b"gzip" and not _is_zero(weight)
        for coding, _, weight in (element.partition(b";") for element in accepted.split(b","))
    )


def _is_zero(weight: bytes) -> bool:
    name, _, value = weight.partition(b"=")
    value = value.strip()
    return name.strip() in (b"q", b"Q") and value != b"" and value.strip(b"0.") == b""


def may_be_compressed(start: Message) -> bool:
    """Return True if Starlette would compress this response for a client that accepts gzip."""
    if start["status"] == PARTIAL_CONTENT:
        return False
    headers = start.get("headers", ())
    return not has_header(headers, b"content-encoding") and is_compressible(first_header(headers, b"content-type"))


@lru_cache(maxsize=64)
def is_compressible(content_type: bytes) -> bool:
    """Return True unless Starlette excludes the type from compression."""
    media_type = content_type.decode("latin-1").partition(";")[0].strip().lower()
    if media_type.startswith("application/grpc+"):
        return False
    return {media_type, media_type.partition("/")[0] + "/*"}.isdisjoint(gzip.DEFAULT_EXCLUDED_CONTENT_TYPES)


def add_vary(headers: Iterable[tuple[bytes, bytes]], name: str) -> RawHeaders:
    """Return the headers with this one in `Vary`."""
    varied = MutableHeaders(raw=list(headers))
    varied.add_vary_header(name)
    return varied.raw


class CORSMiddleware:
    """Starlette's CORS. Requests without `Origin` bypass it, and their responses only get `Vary: Origin`."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self.app = app
        self._answering = cors.CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST", "OPTIONS"),
            allow_headers=("Content-Type", "Authorization", "X-Request-ID"),
            expose_headers=EXPOSED_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if has_header(scope["headers"], b"origin"):
            answering = self._answering(scope, receive, send)
            await (in_time(answering) if is_preflight(scope) else answering)
            return

        def send_with_vary(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                given = message.get("headers", ())
                headers = add_vary(given, "Origin") if has_header(given, b"vary") else [*given, VARY_ORIGIN]
                message = {**message, "headers": headers}
            return send(message)

        await self.app(scope, receive, send_with_vary)


def is_preflight(scope: Scope) -> bool:
    """Return True for a CORS preflight (Fetch standard), which Starlette answers itself."""
    return scope["method"] == "OPTIONS" and has_header(scope["headers"], b"access-control-request-method")


class TrustedHostMiddleware:
    """Starlette's check of the `Host` header, from which health probes are exempt.

    Every request needs exactly one `Host` (RFC 9112, 3.2); HTTP/1.0 requests may have none.
    """

    def __init__(self, app: ASGIApp, patterns: Sequence[str]) -> None:
        self.app = app
        self._patterns = patterns
        self._is_checking = bool(patterns)
        self._known = frozenset(pattern.lower().encode() for pattern in patterns if "*" not in pattern)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        host = None
        for name, value in scope["headers"]:
            if name == b"host":
                if host is not None:
                    await in_time(send_status(scope, send, HTTPStatus.BAD_REQUEST))
                    return
                host = value
        # granian gives an empty one if there is none.
        if not host and scope.get("http_version") not in HTTP_1_0:
            await in_time(send_status(scope, send, HTTPStatus.BAD_REQUEST))
            return
        is_suspect = self._is_checking and host not in self._known and route_path(scope) not in PROBE_PATHS
        await (self._check if is_suspect else self.app)(scope, receive, send)

    async def _check(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_known = False

        async def note(*_: object) -> None:
            nonlocal is_known
            is_known = True

        await in_time(trustedhost.TrustedHostMiddleware(note, self._patterns, www_redirect=False)(scope, receive, send))
        if is_known:
            await self.app(scope, receive, send)


class TimeoutMiddleware:
    """Limits the whole request, a stalled upload and a stream included, and cancels the work."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self._deadlines = Deadlines(seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        response, send = guarded(scope, send)
        try:
            with self._deadlines.begin() as deadline:
                await self.app(scope, receive, send)
        except TimeoutError:
            if not deadline.expired:
                raise
            await response.fail(scope, send, TimedOut("The request took longer than allowed."))


class MaxBodySizeMiddleware:
    """Refuses a body over the limit: by its declared length before it is read, otherwise while it arrives.

    A body in very many pieces is refused too, because each piece costs as much as a large one.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        response, send = guarded(scope, send)
        for length in headers_of(scope, b"content-length"):
            if self._is_too_long(length):
                await response.fail(scope, send, PayloadTooLarge())
                return
        received, pieces, refused = 0, 0, False

        async def receive_and_count() -> Message:
            nonlocal received, pieces, refused
            message = await receive()
            received += len(message.get("body", b""))
            pieces += 1
            if received <= self._max_bytes and pieces <= FREE_PIECES + received // MIN_PIECE_BYTES:
                return message
            if not refused:
                refused = True
                too_long = received > self._max_bytes
                await response.fail(scope, send, PayloadTooLarge() if too_long else PayloadTooLarge(TOO_MANY_PIECES))
            return {"type": "http.disconnect"}

        def send_unless_refused(message: Message) -> Awaitable[None]:
            return _nothing() if refused else send(message)

        try:
            await self.app(scope, receive_and_count, send_unless_refused)
        except Exception:
            if not refused:  # otherwise the app reports a disconnected client with it
                raise

    def _is_too_long(self, length: str) -> bool:
        return len(length) > MAX_LENGTH_DIGITS or (length.isdecimal() and int(length) > self._max_bytes)


async def _nothing() -> None: ...


class ExceptionHandlerMiddleware:
    """Turns any exception of the app into the response from the table of errors."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        response, send = guarded(scope, send)
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            await response.fail(scope, send, as_service_error(error))


class HeaderPolicy:
    """The headers of every response, each once, whatever the app set.

    Values from the `secure` library, after the OWASP Secure Headers Project. `X-XSS-Protection` is not sent: browsers
    dropped it, and it could be abused.
    """

    def __init__(self, settings: Settings) -> None:
        csp = ContentSecurityPolicy()
        secure = Secure(
            csp=csp.value(SWAGGER_CSP) if settings.debug else csp.default_src("'none'").frame_ancestors("'none'"),
            xcto=XContentTypeOptions().nosniff(),
            xfo=XFrameOptions().deny(),
            referrer=ReferrerPolicy().strict_origin_when_cross_origin(),
            permissions=PermissionsPolicy().geolocation().camera().microphone(),
            coop=CrossOriginOpenerPolicy().same_origin(),
            corp=CrossOriginResourcePolicy().same_origin(),
            custom=[CustomHeader("X-Permitted-Cross-Domain-Policies", "none")],
        )
        self._http = [(name.lower().encode(), value.encode()) for name, value in secure.header_items()]
        if "granian" in sys.modules:  # granian adds its own name if the app sends none; this can't be turned off
            self._http.append((b"server", b"-"))
        hsts = StrictTransportSecurity().max_age(31_536_000).include_subdomains()
        self._https = [*self._http, (b"strict-transport-security", hsts.header_value.encode())]
        self._owned = frozenset(name for name, _ in self._https) | {b"server", b"x-powered-by"}
        self._proxies = TrustedProxies(settings.trusted_proxy_networks)

    def apply(self, scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
        """Return the hardened headers: the policy's once, `Cache-Control` unless set, no empty ones, no `Server`."""
        kept = [header for header in headers if header[0] not in self._owned and header[1]]
        if not has_header(kept, b"cache-control"):
            kept.append((b"cache-control", b"no-store"))
        kept += self._https if self._is_https(scope) else self._http
        return kept

    def _is_https(self, scope: Scope) -> bool:
        if not self._proxies:
            return bool(scope.get("scheme") == "https")
        said = headers_of(scope, b"x-forwarded-proto")
        return self._proxies.scheme(peer_of(scope), scope.get("scheme", "http"), said) == "https"


class SecurityHeadersMiddleware:
    """Adds the security headers to the app's responses."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._policy = HeaderPolicy(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        def send_with_security_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message = {**message, "headers": self._policy.apply(scope, message.get("headers", ()))}
                scope.setdefault("state", {})[HARDENED] = True
            return send(message)

        await self.app(scope, receive, send_with_security_headers)


class RequestIdMiddleware:
    """Adds the request id to the app's responses."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)

        def send_with_request_id(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message = {**message, "headers": with_request_id(message.get("headers", ()), request_id)}
                scope["state"][IDENTIFIED] = True
            return send(message)

        await self.app(scope, receive, send_with_request_id)


def with_request_id(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> RawHeaders:
    """Return the headers with the id, once."""
    kept = [header for header in headers if header[0] != b"x-request-id"]
    kept.append((b"x-request-id", request_id.encode()))
    return kept
