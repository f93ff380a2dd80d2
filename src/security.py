"""The middleware chain around the app: pure ASGI layers in a fixed order, independent of each other.

    AccessLog → GZip → CORS → TrustedHost → RateLimit → Timeout → MaxBodySize → ExceptionHandler → SecurityHeaders
    → RequestId → App

Each layer is a class of that name with `Middleware` at its end. Those outside SecurityHeaders and RequestId answer some
requests themselves (a wrong host, a preflight, a body that is too large). `EdgeMiddleware`, around all layers, adds the
missing headers to such responses.
"""

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.config import Settings
from src.errors import as_service_error
from src.logs.access import CallListener
from src.middleware.access_log import AccessLogMiddleware
from src.middleware.compression import GZipMiddleware
from src.middleware.cors import CORSMiddleware
from src.middleware.headers import RawHeaders, with_request_id
from src.middleware.host import TrustedHostMiddleware
from src.middleware.limits import MaxBodySizeMiddleware, TimeoutMiddleware
from src.middleware.rate_limit import RateLimitMiddleware
from src.middleware.request_id import RequestIdMiddleware
from src.middleware.responses import ExceptionHandlerMiddleware, guard, in_time, release, send_status
from src.middleware.unread_body import UnreadBody, may_be_unread
from src.rate_limit import RateLimit
from src.util.client_address import TrustedProxies, peer_of
from src.util.probe_paths import PROBE_PATHS, STATUS_PATHS
from src.util.request_id import request_id_of
from src.util.scope import (
    CLIENT_LEFT,
    HARDENED,
    IDENTIFIED,
    has_header,
    headers_of,
)

log = structlog.get_logger(__name__)


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
    *,
    operations: Mapping[str, str] | None = None,
    listeners: Sequence[CallListener] = (),
    has_cut: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """Wrap `app` in the whole chain.

    Args:
        limit: The rate limit, shared with gRPC.
        operations: The flow's name by path, for the log.
        listeners: Get the record of each request that has ended.
        has_cut: Returns True once a stop cancels the requests that outlive the grace period.
    """
    policy = header_policy(settings)
    return wrap(app, layers(settings, limit, policy, listeners, has_cut), policy, operations)


def wrap(
    app: ASGIApp, chain: Iterable[Layer], policy: "HeaderPolicy", operations: Mapping[str, str] | None = None
) -> ASGIApp:
    """Wrap `app` in these layers, outermost first, and `EdgeMiddleware` around them."""
    for layer in reversed(list(chain)):
        app = layer(app)
    return EdgeMiddleware(app, policy, operations)


def layers(
    settings: Settings,
    limit: RateLimit,
    policy: "HeaderPolicy",
    listeners: Sequence[CallListener] = (),
    has_cut: Callable[[], bool] = lambda: False,
) -> list[Layer]:
    """Return the chain, outermost first."""
    quiet_paths = PROBE_PATHS | STATUS_PATHS if settings.debug else PROBE_PATHS
    return [
        lambda app: AccessLogMiddleware(app, listeners, settings.proxies, quiet_paths),
        GZipMiddleware,
        lambda app: CORSMiddleware(app, settings.cors_origins),
        lambda app: TrustedHostMiddleware(app, settings.trusted_host_patterns),
        lambda app: RateLimitMiddleware(app, limit, settings.proxies, quiet_paths),
        lambda app: TimeoutMiddleware(app, settings.request_timeout),
        lambda app: MaxBodySizeMiddleware(app, settings.max_body_size),
        lambda app: ExceptionHandlerMiddleware(app, has_cut),
        lambda app: SecurityHeadersMiddleware(app, policy),
        RequestIdMiddleware,
    ]


class EdgeMiddleware:
    """Outermost layer. Assigns the request id before anything logs, and completes responses that lack headers.

    A response that passed the inner layers is marked in the scope's state and not changed. If the app has not read the
    body, a short one is read before the response ends, so that the keep-alive connection survives.
    """

    def __init__(self, app: ASGIApp, policy: "HeaderPolicy", operations: Mapping[str, str] | None) -> None:
        self.app = app
        self._policy = policy
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


def header_policy(settings: Settings) -> "HeaderPolicy":
    """Return the policy that these settings ask for."""
    return HeaderPolicy(settings.proxies, debug=settings.debug)


class HeaderPolicy:
    """The headers of every response, each once, whatever the app set.

    Values from the `secure` library, after the OWASP Secure Headers Project. `X-XSS-Protection` is not sent: browsers
    dropped it, and it could be abused.

    Args:
        proxies: Their `X-Forwarded-Proto` decides whether a request came over HTTPS.
        debug: Allow the content of Swagger UI.
    """

    def __init__(self, proxies: TrustedProxies, *, debug: bool) -> None:
        csp = ContentSecurityPolicy()
        secure = Secure(
            csp=csp.value(SWAGGER_CSP) if debug else csp.default_src("'none'").frame_ancestors("'none'"),
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
        self._proxies = proxies

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

    def __init__(self, app: ASGIApp, policy: HeaderPolicy) -> None:
        self.app = app
        self._policy = policy

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
