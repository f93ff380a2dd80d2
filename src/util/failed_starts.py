"""A start that a wrong setting stops, told to the server in one line.

It is the outside of the app, and so has to be a coroutine function: servers take others for ASGI of before 2019.
"""

import sys
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.config import ConfigError, exit_with


def told_in_one_line(app: ASGIApp) -> ASGIApp:
    """`app` whose ConfigErrors in start-up reach the server as their message alone.

    Starlette gives the server the whole traceback to log, and raises for the server to log it once more. A server that
    answers the message with an exception, as hypercorn does, would show a traceback and no reason: there the process
    ends as for any wrong setting.
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

        with suppress(ConfigError):  # the server has been told
            await app(scope, receive, send_short)

    return with_short_failures
