"""The start-up and shutdown of a process: the model, gRPC beside REST, the drain, and the exit."""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI
from genkit import ActionKind, Genkit

from src.config import ConfigError, Settings
from src.drain import Drain
from src.lifecycle.ports import check_port_free
from src.lifecycle.server_parent import main_processes, server_parent_ended
from src.lifecycle.stop_signals import BEGIN_STOP, on_stop_signals
from src.logs.access import CallListener
from src.logs.writer import stderr_writer
from src.rate_limit import RateLimit
from src.runner import Runner
from src.telemetry.build import Telemetry

if TYPE_CHECKING:
    from src.rpc.server import GrpcServer

ACCEPTING_SECONDS = 0.2  # after SIGTERM; uvicorn closes its port within 0.1
STATUS_FLUSH_SECONDS = 0.3  # beyond the grace period, to send the status of ended calls
LAST_WORK_SECONDS = 0.2  # minimum for the last work, if calls have used up the grace period
EXIT_SECONDS = 0.3  # for the server to end the lifespan, after the last call

log = structlog.get_logger(__name__)


class Lifespan:
    """The start-up and shutdown of a process.

    Attributes:
        ready: True between the end of start-up and the beginning of shutdown.
    """

    def __init__(
        self,
        settings: Settings,
        ai: Genkit,
        runner: Runner,
        limit: RateLimit,
        drain: Drain,
        *,
        telemetry: Telemetry,
        listeners: Sequence[CallListener],
        addresses: Mapping[str, str],
    ) -> None:
        self.ready = False
        self._telemetry = telemetry
        self._listeners = listeners
        self._addresses = addresses
        self._settings = settings
        self._ai = ai
        self._runner = runner
        self._limit = limit
        self._drain = drain
        self._grpc: GrpcServer | None = None
        self._last_work = AsyncExitStack()
        self._stopping: asyncio.Task[None] | None = None
        self._exit: asyncio.TimerHandle | None = None
        self._status = 0

    @asynccontextmanager
    async def run(self, _app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        """Start gRPC beside REST. Both drain from the stop signal on, and the lifespan ends after the drain."""
        await self._resolve_model()
        async with self._last_work:
            await self._last_work.enter_async_context(self._telemetry.running(self._seconds_for_last_work))
            on_signal = on_stop_signals(lambda: self._begin_stop(may_exit=True))
            with on_signal as begin_serving, stderr_writer().batching():
                await self._start_grpc()
                # Objects of the start-up live on, so full collections can skip them.
                gc.freeze()
                self.ready = True
                self._announce()
                begin_serving()
                try:
                    with self._noticing_failures():
                        yield {BEGIN_STOP: lambda: self._begin_stop(may_exit=True)}
                finally:
                    self._begin_stop(may_exit=False)
                    await self._end()

    @contextmanager
    def _noticing_failures(self) -> Iterator[None]:
        watching = [asyncio.create_task(self._notice_parent_end()), asyncio.create_task(self._notice_grpc_end())]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()

    async def _notice_parent_end(self) -> None:
        await server_parent_ended()
        self._fail("the server's main process has ended")

    async def _notice_grpc_end(self) -> None:
        if self._grpc is not None:
            await self._grpc.ended()
            self._fail("the gRPC server has ended by itself")

    def _fail(self, reason: str) -> None:
        """Stop as after SIGTERM, but with an exit status that a supervisor acts on."""
        if self.ready:
            log.critical(reason)
            self._status = 1
            signal.raise_signal(signal.SIGTERM)

    def _begin_stop(self, *, may_exit: bool) -> None:
        """Become unready and begin to drain, once.

        Args:
            may_exit: End the process if the server does not end the lifespan after the drain.
        """
        if not self.ready:
            return
        self.ready = False
        self._drain.start()
        self._stopping = asyncio.create_task(self._stop(may_exit))
        log.info("stopping", grace=self._settings.shutdown_grace)

    async def _stop(self, may_exit: bool) -> None:
        status = 1
        try:
            await self._finish_calls()
            await self._last_work.aclose()
            log.info("stopped")
            status = self._status
        except Exception as error:
            log.critical("stop failed", exc_info=error)
            raise
        finally:
            if may_exit:
                self._exit = asyncio.get_running_loop().call_later(EXIT_SECONDS, _exit, status)

    async def _finish_calls(self) -> None:
        """Send GOAWAY at once, and return when no request or RPC is in flight."""
        if self._grpc is None:
            await self._drain.finished(STATUS_FLUSH_SECONDS)
            return
        self._grpc.set_not_serving()
        draining = asyncio.create_task(self._grpc.stop(self._drain.seconds_left + STATUS_FLUSH_SECONDS))
        await self._drain.refusing()
        self._grpc.end_waiting()
        await self._drain.finished(STATUS_FLUSH_SECONDS)
        await self._grpc.stop(STATUS_FLUSH_SECONDS)
        await draining

    async def _end(self) -> None:
        if self._stopping is not None:
            await self._stopping
        if self._exit is not None:
            self._exit.cancel()
        if self._status:
            _exit(self._status)

    def _seconds_for_last_work(self) -> float:
        return max(LAST_WORK_SECONDS, self._drain.seconds_left)

    async def _resolve_model(self) -> None:
        """Resolve the model once, before any caller does: Genkit would cache a caller's cancellation permanently."""
        if await self._ai.registry.resolve_action(ActionKind.MODEL, self._settings.model) is None:
            raise ConfigError(f"MODEL={self._settings.model!r} (--model): the provider has no such text model")

    async def _start_grpc(self) -> None:
        if self._settings.grpc_enabled:
            # After the fork: grpc must not be loaded in a worker's parent.
            from src.rpc.in_flight import RpcsInFlight
            from src.rpc.server import GrpcServer, PortShared

            hooks = (RpcsInFlight(self._drain), *self._telemetry.rpc_hooks())
            self._grpc = GrpcServer(
                self._settings,
                self._runner,
                self._limit,
                hooks,
                self._listeners,
                main_processes=main_processes(),
            )
            try:
                await self._grpc.start()
            except RuntimeError as error:
                is_shared = isinstance(error, PortShared)
                raise ConfigError(_why_not_listening(self._settings, is_shared=is_shared)) from None

    def _announce(self) -> None:
        settings = self._settings
        if not settings.trusted_host_patterns and not settings.debug:
            log.warning(
                "No TRUSTED_HOSTS configured — Host-header validation is disabled. Set TRUSTED_HOSTS to your "
                "domain(s) in production to prevent host-header poisoning attacks."
            )
        if settings.debug and settings.accepts_other_machines:
            log.warning(
                "Debug mode is reachable from other machines: API docs, gRPC reflection and CORS for any origin are "
                "open to them. Set HOST=127.0.0.1, or turn DEBUG off.",
                host=settings.host,
            )
        log.info("service is up", model=settings.model, **self._addresses)


def _why_not_listening(settings: Settings, *, is_shared: bool) -> str:
    """Return why gRPC could not listen, which its core does not say."""
    try:
        check_port_free("HOST", settings.host, "GRPC_PORT", settings.grpc_port)
    except ValueError as error:
        return str(error)
    reason = "another service listens there; choose another" if is_shared else f"can't listen on {settings.host}"
    return f"GRPC_PORT={settings.grpc_port} (--grpc-port): {reason}"


def _exit(status: int) -> None:
    """End the process although the server still waits for connections. All calls are finished and logged.

    granian waits for idle HTTP/2 connections and incomplete requests until it is killed, and all servers wait for
    clients that don't read. An exception would wait for the server's tasks again.
    """
    try:
        stderr_writer().close()
    finally:
        os._exit(status)
