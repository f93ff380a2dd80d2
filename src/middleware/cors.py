"""Cross-origin resource sharing (Fetch standard)."""

from collections.abc import Awaitable, Sequence

from starlette.middleware import cors
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.middleware.headers import add_vary
from src.middleware.responses import in_time
from src.util.scope import has_header

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
