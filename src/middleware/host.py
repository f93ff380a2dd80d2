"""Check the `Host` header."""

from collections.abc import Sequence
from http import HTTPStatus

from starlette.middleware import trustedhost
from starlette.types import ASGIApp, Receive, Scope, Send

from src.middleware.responses import in_time, send_status
from src.util.probe_paths import PROBE_PATHS
from src.util.scope import route_path

HTTP_1_0 = ("1.0", "1")  # the second is granian's


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
