"""Count requests in flight, so that the drain also waits until their responses are sent."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from src.drain import Drain


class RequestsInFlight:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self.app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        task = asyncio.current_task()
        self._drain.enter("http", task)
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._drain.has_cut:  # servers would log a traceback for each request that the drain cuts off
                raise
        finally:
            self._drain.leave("http", task)
