"""Report each request when it has ended."""

import time
from collections.abc import Awaitable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.errors import as_service_error
from src.logs.access import CallListener, EndedCall, report_call
from src.middleware.responses import guarded
from src.util.client_address import TrustedProxies, client_of
from src.util.request_id import request_id_of
from src.util.scope import CLIENT_GONE, route_path


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
