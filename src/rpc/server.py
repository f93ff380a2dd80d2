"""The gRPC adapter: a grpc.aio server made from the operation rows."""

import math
from collections.abc import Sequence
from typing import Any

import grpc

from src.config import Settings
from src.logs.access import CallListener
from src.operations import OPERATIONS
from src.rate_limit import RateLimit
from src.rpc.aio import Server
from src.rpc.handlers import SERVICE_DESCRIPTOR, service_handlers
from src.rpc.health import SERVICE_NAME as HEALTH_SERVICE
from src.rpc.health import HealthService
from src.rpc.hooks import RpcHook
from src.rpc.interceptors import GrpcLoggingInterceptor, GrpcRateLimitInterceptor, RpcInterceptor
from src.rpc.shared_port import is_shared_with_strangers
from src.runner import Runner

# Limits of one connection, and the time until a dead one is noticed (gRPC A8, A9; in milliseconds).
LIMITS: tuple[tuple[str, int], ...] = (
    ("grpc.max_concurrent_streams", 100),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # `keepalive_timeout_ms` has no effect beside its default of a minute
    ("grpc.keepalive_permit_without_calls", 1),  # idle clients may ping, if not too often
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_metadata_size", 16_384),
    # A client resolves the host name when it connects, so only a client that reconnects finds newer servers.
    ("grpc.max_connection_age_ms", 1_800_000),
)


class PortShared(RuntimeError):
    """Another service listens on the gRPC port, and would get some of the connections."""


class GrpcServer:
    """The gRPC side of one process: all operations, `grpc.health.v1`, and reflection in debug only.

    Create it in the process and the event loop that serve it.

    Args:
        hooks: Further hooks, outside the server's own, for the drain and traces.
        listeners: Called with the record of each ended RPC.
        main_processes: Of the ASGI server that started this worker. Their other workers share the port.
    """

    def __init__(
        self,
        settings: Settings,
        runner: Runner,
        limit: RateLimit,
        hooks: Sequence[RpcHook] = (),
        listeners: Sequence[CallListener] = (),
        *,
        main_processes: Sequence[int] = (),
    ) -> None:
        self._main_processes = main_processes
        self._health = HealthService([SERVICE_DESCRIPTOR.full_name])
        logging = GrpcLoggingInterceptor(listeners)
        self._interceptor = RpcInterceptor(
            (*hooks, logging, GrpcRateLimitInterceptor(limit)),
            timeout=settings.request_timeout,
            proxies=settings.proxies,
            operations={f"/{SERVICE_DESCRIPTOR.full_name}/{operation.rpc}": operation.name for operation in OPERATIONS},
        )
        self._server = Server(
            interceptors=(self._interceptor,),
            options=(
                *LIMITS,
                ("grpc.so_reuseport", int(bool(main_processes))),  # only workers have somebody to share the port with
                ("grpc.max_receive_message_length", settings.max_body_size),
                ("grpc.max_connection_idle_ms", settings.keep_alive_timeout * 1000),
                ("grpc.max_connection_age_grace_ms", math.ceil(settings.request_timeout) * 1000),
            ),
        )
        self._server.add_registered_method_handlers(SERVICE_DESCRIPTOR.full_name, service_handlers(runner))
        self._server.add_registered_method_handlers(HEALTH_SERVICE, self._health.handlers())
        if settings.debug:
            _enable_reflection(self._server)
        self._credentials = _credentials(settings)
        self._host, self._port = settings.host, settings.grpc_port

    @property
    def methods(self) -> frozenset[str]:
        return frozenset(self._server.methods)

    async def start(self) -> None:
        """Listen, and report SERVING. Raises RuntimeError if the port can't be bound, PortShared if it is taken."""
        self._refuse_strangers()
        address = f"{_bracketed(self._host)}:{self._port}"
        if self._credentials is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, self._credentials)
        self._refuse_strangers()  # again, for a service that was started at the same moment
        await self._server.start()
        self._health.start()

    def _refuse_strangers(self) -> None:
        if is_shared_with_strangers(self._host, self._port, self._main_processes):
            raise PortShared("another service listens on the port")

    def set_not_serving(self) -> None:
        """Report NOT_SERVING, and end health watches."""
        self._health.stop()

    def end_waiting(self) -> None:
        """End RPCs whose message has not arrived."""
        self._interceptor.stop()

    async def ended(self) -> None:
        """Wait until the server accepts no more RPCs, because it was stopped or has crashed."""
        await self._server.ended.wait()

    async def stop(self, grace: float) -> None:
        """Refuse new RPCs, and give those in flight `grace` seconds to finish. A second call may shorten the time."""
        await self._server.stop(grace)


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Return the TLS credentials. If a client authority is configured, clients must present its certificates."""
    if settings.grpc_tls_cert is None or settings.grpc_tls_key is None:
        return None
    authority = settings.grpc_tls_client_ca.read_bytes() if settings.grpc_tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(settings.grpc_tls_key.read_bytes(), settings.grpc_tls_cert.read_bytes())],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )


def _enable_reflection(server: Any) -> None:
    from grpc_reflection.v1alpha import reflection

    names = (SERVICE_DESCRIPTOR.full_name, HEALTH_SERVICE, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
