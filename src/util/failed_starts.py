"""Report a configuration error at start-up to the server as one line.

The wrapper is outermost, so it must be a coroutine function: servers treat other callables as ASGI 2 apps.
"""

import sys
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.config import ConfigError, exit_with


def brief_startup_errors(app: ASGIApp) -> ASGIApp:
    """Wrap `app` so that a ConfigError at start-up reaches the server as its message only.

    Otherwise Starlette sends the server the whole traceback, and raises, so that the server logs it once more. Some
    servers (hypercorn) answer the message with an exception, which would print a traceback without the reason. In this
    case the process exits as for any invalid setting.
    """

    async def with_short_failures(scope: Scope, receive: Receive, send: Send) -> None:
        await (start if scope["type"] == "lifespan" else app)(scope, receive, send)

    async def start(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_short(message: Message) -> None:
            error = sys.exception()
            if message["type"] != "lifespan.startup.failed" or not isinstance(error, ConfigError):
                await send(message)
                return
            try:
                await send({**message, "message": str(error)})
            except Exception:
                exit_with(str(error))

        with suppress(ConfigError):  # the server has the message
            await app(scope, receive, send_short)

    return with_short_failures
