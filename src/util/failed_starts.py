"""A start that a wrong setting stops, told to the server in one line."""

import sys
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.config import ConfigError


def told_in_one_line(app: ASGIApp) -> ASGIApp:
    """`app` whose ConfigErrors in start-up reach the server as their message alone.

    Starlette gives the server the whole traceback to log, and raises for the server to log it once more.
    """

    async def with_short_failures(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return

        async def send_short(message: Message) -> None:
            error = sys.exception()
            if message["type"] == "lifespan.startup.failed" and isinstance(error, ConfigError):
                message = {**message, "message": str(error)}
            await send(message)

        with suppress(ConfigError):  # the server has been told
            await app(scope, receive, send_short)

    return with_short_failures
