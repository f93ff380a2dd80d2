"""Build metrics, traces and the debug status page, if they are on.

Parts that are off are not imported and wrap nothing.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from src.config import ConfigError, Settings
from src.lifecycle.ports import describe_listen_error
from src.lifecycle.startup_errors import exit_with
from src.llm import LlmCallHook
from src.providers.rows import PROVIDERS
from src.telemetry.sources import Sources

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from src.logs.access import CallListener
    from src.rpc.hooks import RpcHook
    from src.telemetry.metrics import Metrics
    from src.telemetry.status import Status


@dataclass
class Telemetry:
    """Metrics and traces of one process.

    Attributes:
        llm_calls: Context managers around each LLM call.
        listeners: Called with the record of each ended request and RPC.
        layers: Middleware around the whole chain, outermost last.
        taken_port: The error if another service has the metrics port. It is raised at start-up, because servers then
            end instead of starting new workers.
        around_rest: Replaces the fast path around FastAPI.
        more_hooks: Observe every RPC, inside of the traces.
        flushes: Send the remaining reports at the end, within the given seconds.
    """

    settings: Settings
    metrics: "Metrics | None" = None
    traces: "TracerProvider | None" = None
    status: "Status | None" = None
    llm_calls: list[LlmCallHook] = field(default_factory=list)
    listeners: "list[CallListener]" = field(default_factory=list)
    layers: list[Callable[[ASGIApp], ASGIApp]] = field(default_factory=list)
    taken_port: ConfigError | None = None
    around_rest: Callable[[ASGIApp], ASGIApp] | None = None
    more_hooks: "list[RpcHook]" = field(default_factory=list)
    flushes: list[Callable[[float], None]] = field(default_factory=list)

    def requests(self, app: ASGIApp) -> ASGIApp:
        """Wrap `app` so that every request is observed."""
        for layer in self.layers:
            app = layer(app)
        return app

    def rpc_hooks(self) -> "list[RpcHook]":
        """The hooks that observe every RPC, outermost first."""
        hooks: list[RpcHook] = []
        if self.traces is not None:
            from src.telemetry.traces import RpcTracing

            hooks.append(RpcTracing())
        return [*hooks, *self.more_hooks]

    @asynccontextmanager
    async def running(self, seconds_left: Callable[[], float]) -> AsyncIterator[None]:
        """Run from start-up to the end of the last request, then send the remaining spans and reports.

        Args:
            seconds_left: Returns the time left for that.

        Raises:
            ConfigError: The metrics port is taken.
        """
        if self.taken_port is not None:
            raise self.taken_port
        try:
            if self.metrics is None:
                yield
            else:
                async with self.metrics.served(self.settings.metrics_host, self.settings.metrics_port):
                    yield
        finally:
            if self.traces is not None:
                from src.telemetry.traces import flush

                await _in_thread(partial(flush, self.traces), seconds_left())
            for flush_reports in self.flushes:
                await _in_thread(flush_reports, seconds_left())


async def _in_thread(flush: Callable[[float], None], seconds: float) -> None:
    """Flush in a thread. All threads may be busy, with look-ups of names that never end."""
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(flush, seconds), seconds)


def build_telemetry(
    settings: Settings,
    traces: "TracerProvider | None",
    sources: Sources,
) -> Telemetry:
    telemetry = Telemetry(settings, traces=traces)
    if settings.debug:
        from src.telemetry.status import Status

        status = Status(sources, is_traced=traces is not None, trace_url=settings.trace_url)
        telemetry.status = status
        telemetry.listeners.append(status.note)
    if settings.metrics_port:
        _add_metrics(telemetry, sources)
    if traces is not None:
        from src.telemetry.traces import LlmTracing, TracingMiddleware

        provider = PROVIDERS[settings.model_provider].telemetry_name
        telemetry.llm_calls.append(LlmTracing(provider, settings.model_name))
        telemetry.layers.append(TracingMiddleware)
    if settings.sentry_dsn:
        import sentry_sdk

        from src.telemetry.sentry import StripBaggageMiddleware
        from src.telemetry.sentry_rpcs import RpcTransactions

        telemetry.around_rest = StripBaggageMiddleware
        telemetry.more_hooks.append(RpcTransactions())
        telemetry.flushes.append(sentry_sdk.flush)
    return telemetry


def _add_metrics(telemetry: Telemetry, sources: Sources) -> None:
    from src.telemetry.metrics_store import shared_metrics_directory

    settings = telemetry.settings
    host, port = settings.metrics_host, settings.metrics_port
    try:
        store = shared_metrics_directory(host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            exit_with(f"METRICS_PORT={port}: can't use the directory for the workers' metrics: {error}")
        telemetry.taken_port = ConfigError(describe_listen_error("METRICS_HOST", host, "METRICS_PORT", port, error))
        return
    from src.telemetry.metrics import Metrics

    telemetry.metrics = metrics = Metrics(model=settings.model, sources=sources, store=store)
    telemetry.llm_calls.append(metrics.llm_call)
    telemetry.listeners.append(metrics.observe)
