"""`grpc.health.v1`: one status for all services of this process (gRPC health checking protocol).

These RPCs have no rate limit, so each has its own limits. Unknown names are not stored and end a watch at once. A
client has few watches, which end after an hour. All other RPCs end within `PROBE_SECONDS`.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from src.errors import Overloaded
from src.rpc.errors import Context, RpcRefused
from src.rpc.hooks import caller_key, current_rpc

_untyped: Any = health_pb2  # its type stubs lack List
_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
_NOT_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


WATCH_SECONDS = 3600.0
MAX_WATCHES = 4  # of one client
RETRY_SECONDS = 60.0  # after a refused watch


class HealthService:
    """Answers health checks.

    Args:
        services: Full names of the services; the empty name is the whole server.
        watch_seconds: Maximum duration of a watch, shortened at random by up to a tenth, so that not all end together.
    """

    def __init__(self, services: Collection[str], watch_seconds: float = WATCH_SECONDS) -> None:
        self._watch_seconds = watch_seconds
        self._watches: Counter[str] = Counter()  # by client; clients without watches have no entry
        self._services = frozenset({"", *services})
        self._now = _NOT_SERVING
        self._stopping = asyncio.Event()

    def start(self) -> None:
        self._now = _SERVING

    def stop(self) -> None:
        """Report NOT_SERVING from now on, also to open watches, and end these."""
        self._now = _NOT_SERVING
        self._stopping.set()

    async def check(self, request: health_pb2.HealthCheckRequest, _context: Context) -> health_pb2.HealthCheckResponse:
        """Return the status of one service. Raises RpcRefused for an unknown one."""
        if request.service not in self._services:
            raise RpcRefused("NOT_FOUND", "Unknown service")
        return self._now

    async def list(self, _requests: object, _context: Context) -> Any:
        return _untyped.HealthListResponse(statuses=dict.fromkeys(self._services, self._now))

    async def watch(
        self, request: health_pb2.HealthCheckRequest, _context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Send the status of one service now and when it changes.

        Raises:
            Overloaded: The client has its maximum of watches.
        """
        if request.service not in self._services:
            yield _SERVICE_UNKNOWN
            return
        rpc = current_rpc()
        with self._place(caller_key(rpc)):
            yield self._now
            rpc.lift_deadline()
            if self._now is _SERVING and await self._has_stopped():
                yield self._now

    async def _has_stopped(self) -> bool:
        """Wait for the stop, at most for the duration of a watch. Returns True if it came."""
        seconds = self._watch_seconds * random.uniform(0.9, 1)  # noqa: S311 - not a secret
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    @contextmanager
    def _place(self, client: str) -> Iterator[None]:
        """Hold one of the client's places for watches. Raises Overloaded if all are taken."""
        if self._watches[client] >= MAX_WATCHES:
            raise Overloaded(RETRY_SECONDS)
        self._watches[client] += 1
        try:
            yield
        finally:
            self._watches[client] -= 1
            if not self._watches[client]:
                del self._watches[client]

    def handlers(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        request, response = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self.check, request, response),
            # Its request is empty, so the handler does not wait for it.
            "List": grpc.stream_unary_rpc_method_handler(
                self.list, response_serializer=_untyped.HealthListResponse.SerializeToString
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch, request, response),
        }
