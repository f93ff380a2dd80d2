"""The composition root: `build_app` builds every shared part of a process once and passes it on.

The app's lifespan owns the gRPC server, so both protocols start and drain together, under any ASGI server and with any
number of workers.
"""

from starlette.types import ASGIApp

from src.app_init import build_genkit, start_telemetry
from src.bulkhead import Bulkhead
from src.cache import FlowCache
from src.circuit_breaker import CircuitBreaker
from src.config import Settings
from src.drain import Drain
from src.flows import Flows
from src.images.fetch import ImageFetcher
from src.lifecycle.lifespan import ACCEPTING_SECONDS, Lifespan
from src.lifecycle.startup_errors import brief_startup_errors
from src.llm import Llm
from src.logs.access import AccessLines
from src.middleware.in_flight import RequestsInFlight
from src.middleware.websockets import websockets_as_http
from src.operations import OPERATIONS
from src.rate_limit import MemoryBuckets, RateLimit
from src.rest.app import FastPath, build_endpoints, build_rest
from src.runner import EncodedOutput, Runner
from src.security import apply_security_middleware
from src.telemetry.build import build_telemetry
from src.telemetry.sources import Sources
from src.util.probe_paths import STATUS_PATH


def build_app(settings: Settings, *, listens_as_set: bool = False) -> ASGIApp:
    """All parts of the service, put together. Raises ConfigError where the settings ask for what is not installed.

    Args:
        listens_as_set: True where the server takes REST's address from the settings, which the log then names.
    """
    traces = start_telemetry(settings)
    ai = build_genkit(settings)
    buckets = MemoryBuckets()
    limit = RateLimit(buckets, settings.rate_limit)
    breaker = build_breaker(settings)
    cache = build_cache(settings)
    drain = Drain(settings.shutdown_grace, accepting=ACCEPTING_SECONDS)
    telemetry = build_telemetry(settings, traces, Sources(drain, buckets, breaker, cache))
    llm = Llm(
        ai,
        timeout=settings.llm_timeout / 1000,
        bulkhead=Bulkhead(settings.llm_max_concurrency, per_client=settings.llm_max_per_client),
        breaker=breaker,
        hooks=telemetry.llm_calls,
    )
    images = ImageFetcher(client_share=settings.client_share)
    flows = Flows(llm, images)
    runner = Runner(ai, flows, model=settings.model, cache=cache, drain=drain)
    listeners = (AccessLines(settings).write, *telemetry.listeners)
    lifespan = Lifespan(
        settings,
        ai,
        runner,
        limit,
        drain,
        telemetry=telemetry,
        listeners=listeners,
        addresses=addresses_for_log(settings, listens_as_set),
    )
    endpoints = build_endpoints(runner, lambda: lifespan.ready, tells_cache=settings.debug)
    rest = build_rest(settings, endpoints, lifespan.run)
    if telemetry.status is not None:
        telemetry.status.add_to(rest)
    app: ASGIApp = telemetry.around_rest(rest) if telemetry.around_rest else FastPath(rest, endpoints)
    operations = {operation.path: operation.name for operation in OPERATIONS}
    secured = apply_security_middleware(
        app, settings, limit, operations=operations, listeners=listeners, has_cut=lambda: drain.has_cut
    )
    return brief_startup_errors(websockets_as_http(RequestsInFlight(telemetry.requests(secured), drain)))


def build_breaker(settings: Settings) -> CircuitBreaker | None:
    """Return the circuit breaker, unless it is off."""
    if not settings.cb_enabled:
        return None
    return CircuitBreaker(
        failure_threshold=settings.cb_failure_threshold, recovery_timeout=settings.cb_recovery_timeout
    )


def build_cache(settings: Settings) -> FlowCache[EncodedOutput] | None:
    """Return the response cache, unless it is off."""
    if not settings.cache_enabled:
        return None
    return FlowCache(
        ttl=settings.cache_ttl,
        max_size=settings.cache_max_size,
        max_bytes=settings.cache_max_bytes,
        size_of=lambda result: result.size,
    )


def addresses_for_log(settings: Settings, listens_as_set: bool) -> dict[str, str]:
    """Return where clients reach the service. A server that chooses REST's address logs it itself."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    addresses = {}
    if listens_as_set:
        rest = f"http://{host}:{settings.port}"
        addresses["rest"] = rest
        if settings.debug:
            addresses |= {"docs": f"{rest}/docs", "status": f"{rest}{STATUS_PATH}"}
    if settings.grpc_enabled:
        addresses["grpc"] = f"{host}:{settings.grpc_port}"
    return addresses
