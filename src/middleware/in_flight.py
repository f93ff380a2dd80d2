"""Count requests and RPCs in flight, so that the drain also waits until their responses are sent."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from src.drain import Drain
from src.rpc.hooks import Rpc, RpcHook


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


class RpcsInFlight(RpcHook):
    """The outermost hook."""

    def __init__(self, drain: Drain) -> None:
        self._drain = drain

    async def on_start(self, _rpc: Rpc) -> None:
        """Count it in."""
        self._drain.enter("grpc")

    def on_end(self, _token: None, _rpc: Rpc) -> None:
        """Count it out."""
        self._drain.leave("grpc")
