"""HTTP connections to the LLM's provider."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpcore
import httpx

from src.config import Settings
from src.providers.wire import respell

CONNECT_SECONDS = 5.0  # an unreachable host must not use up LLM_TIMEOUT
IDLE_SECONDS = 60.0


def configure_httpx_defaults(settings: Settings) -> dict[str, Any]:
    """Return the arguments for a provider SDK's `httpx.AsyncClient`: connection pool and separate timeouts.

    httpx has no process-wide defaults and reads none from the environment, so only a client made with these arguments
    has them. SDKs also set a timeout per request, the same for connecting and reading, which the hook corrects. Reading
    may take as long as the whole call, because a thinking model is silent until it answers. `src.llm` limits the whole
    call.
    """
    wall = settings.llm_timeout / 1000
    timeout = httpx.Timeout(wall, connect=min(CONNECT_SECONDS, wall))

    async def split_timeouts(request: httpx.Request) -> None:
        request.extensions["timeout"] = timeout.as_dict()
        request.headers["accept-encoding"] = "identity"  # `respell` needs uncompressed bytes

    return {
        "limits": httpx.Limits(
            max_connections=settings.httpx_pool_max,
            max_keepalive_connections=settings.httpx_pool_max_keepalive,
            keepalive_expiry=IDLE_SECONDS,
        ),
        "timeout": timeout,
        "event_hooks": {"request": [split_timeouts], "response": [respell]},
    }


def provider_client(settings: Settings) -> httpx.AsyncClient:
    return reclaiming(httpx.AsyncClient(**configure_httpx_defaults(settings)))


def reclaiming(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Make the client's pools take back the connections of cancelled requests.

    httpcore (1.0.9, issue 1093) leaks a connection if its request is cancelled before it was sent, or while its
    response is being closed. Each client that disconnects at such a moment would cost a place in the pool, until no LLM
    call gets one.
    """
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.AsyncHTTPTransport):
            pool: Any = transport._pool
            pool.closings = set()
            pool.__class__ = type("ReclaimingPool", (_Reclaiming, type(pool)), {})
    return client


class _Reclaiming(httpcore.AsyncConnectionPool):
    """A pool that closes connections which no request owns and no request could get.

    Attributes:
        closings: Tasks that close responses. The event loop itself holds only weak references to tasks.
    """

    closings: set["asyncio.Future[None]"]

    def _assign_requests_to_connections(self) -> list[Any]:
        # Called for each request that is added or ends.
        owned = {id(request.connection) for request in self._requests}
        orphans = [each for each in self._connections if id(each) not in owned and not _is_known(each)]
        for orphan in orphans:
            self._connections.remove(orphan)
        return [*orphans, *super()._assign_requests_to_connections()]

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        response = await super().handle_async_request(request)
        response.stream = _ClosedForCertain(response.stream, self.closings)
        return response


def _is_known(connection: Any) -> bool:
    """Return True if the pool itself can reuse or close a connection without a request."""
    return bool(connection.is_available() or connection.is_idle() or connection.is_closed())


class _ClosedForCertain:
    """A response body whose closing is not cancelled together with its reader."""

    def __init__(self, stream: Any, closings: set["asyncio.Future[None]"]) -> None:
        self._stream = stream
        self._closings = closings

    def __aiter__(self) -> AsyncIterator[bytes]:
        parts: AsyncIterator[bytes] = self._stream.__aiter__()
        return parts

    async def aclose(self) -> None:
        closing = asyncio.ensure_future(self._stream.aclose())
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)
        await asyncio.shield(closing)
