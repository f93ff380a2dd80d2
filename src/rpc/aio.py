"""A grpc.aio server that clients can't stop.

grpc.aio decodes the path of each RPC without a registered method as UTF-8, in the loop that accepts RPCs. A single path
that is not UTF-8 ends the whole server. So every method is registered by name, and RPCs of other methods are refused
before their path is read.
"""

import asyncio
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

from src.config import ConfigError

UNKNOWN_METHOD = "unknown"
# Private names of grpcio that this module uses or overrides.
PRIVATE = (
    *("_handle_rpc", "_schedule_rpc_coro", "_MethodResolver"),
    *("AioServer._request_call", "AioServer._server_main_loop"),
)


def check_private_names() -> None:
    """Raise ConfigError if this version of grpcio lacks one, because clients could stop its own server."""
    for name in PRIVATE:
        try:
            attrgetter(name)(cygrpc)
        except AttributeError:
            raise ConfigError(
                f"grpcio {grpc.__version__} has no cygrpc.{name}, on which the gRPC server is built; "
                "install the version that requirements/ pins"
            ) from None


check_private_names()


class Server(_server.Server):
    """A grpc.aio server that serves registered methods only.

    Attributes:
        methods: Full names of all registered methods.
        ended: Set when no more RPCs are accepted.
    """

    def __init__(
        self, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int | str]]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        self._server = _Core(self._loop, tuple(interceptors), tuple(options), self.ended)
        self.methods: set[str] = set()

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        super().add_registered_method_handlers(service_name, dict(method_handlers))
        self.methods |= {f"/{service_name}/{name}" for name in method_handlers}

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Do nothing: libraries register what they add here by name too."""


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # it has no stubs
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interceptors: tuple[Any, ...],
        options: tuple[Any, ...],
        ended: asyncio.Event,
    ) -> None:
        super().__init__(loop, None, (), interceptors, options, None)
        self._running = loop
        self._ended = ended
        self._around = interceptors
        self._none = cygrpc._MethodResolver([], {})
        self._refusals: set[asyncio.Task[None]] = set()  # the loop holds weak references only

    async def _server_main_loop(self, server_started: "asyncio.Future[bool]") -> None:
        try:
            await super()._server_main_loop(server_started)
        finally:
            self._ended.set()

    async def _request_call(self) -> None:
        """Take the RPCs that no method is registered for; grpc's own loop gets none of them."""
        while True:
            state = await super()._request_call()
            rpc = cygrpc._handle_rpc(UNKNOWN_METHOD, self._none, self._around, state, self._running, False)
            scheduled = cygrpc._schedule_rpc_coro(rpc, state, self._running, UNKNOWN_METHOD)
            refusal = self._running.create_task(scheduled)
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)
