"""`grpc.health.v1`: one status for all services of this process (gRPC's health checking protocol)."""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from src.grpc_errors import Context, RpcRefused
from src.grpc_hooks import current_rpc

_untyped: Any = health_pb2  # its type stubs lack List
_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
_NOT_SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class HealthService:
    """Answers health checks.

    Args:
        services: Full names of the services; the empty name is the whole server.
    """

    def __init__(self, services: Collection[str]) -> None:
        self._services = frozenset({"", *services})
        self._now = _NOT_SERVING
        self._stopping = asyncio.Event()

    def start(self) -> None:
        """Report SERVING."""
        self._now = _SERVING

    def stop(self) -> None:
        """Report NOT_SERVING from now on, to open watches as well, and end these."""
        self._now = _NOT_SERVING
        self._stopping.set()

    async def check(self, request: health_pb2.HealthCheckRequest, _context: Context) -> health_pb2.HealthCheckResponse:
        """The status of one service. Raises RpcRefused for an unknown one."""
        if request.service not in self._services:
            raise RpcRefused("NOT_FOUND", "Unknown service")
        return self._now

    async def list(self, _request: Any, _context: Context) -> Any:
        """The status of every service."""
        return _untyped.HealthListResponse(statuses=dict.fromkeys(self._services, self._now))

    async def watch(
        self, request: health_pb2.HealthCheckRequest, _context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status of one service now, and when it changes."""
        if request.service not in self._services:
            yield _SERVICE_UNKNOWN
            return
        current_rpc().lift_deadline()
        yield self._now
        if not self._stopping.is_set():
            await self._stopping.wait()
            yield self._now

    def handlers(self) -> grpc.GenericRpcHandler:
        """For the server."""
        request, response = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self.check, request, response),
                "List": grpc.unary_unary_rpc_method_handler(
                    self.list,
                    _untyped.HealthListRequest.FromString,
                    _untyped.HealthListResponse.SerializeToString,
                ),
                "Watch": grpc.unary_stream_rpc_method_handler(self.watch, request, response),
            },
        )
