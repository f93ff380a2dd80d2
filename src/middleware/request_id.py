"""Send the request id with each response."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.middleware.headers import with_request_id
from src.util.request_id import request_id_of
from src.util.scope import IDENTIFIED


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
