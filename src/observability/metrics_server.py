"""The HTTP server behind METRICS_PORT: on the service's own loop, with bounds on connections, bytes and time."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import structlog

MAX_CONNECTIONS = 32
MAX_HEAD_BYTES = 8_192
STEP_SECONDS = 5.0  # for a request head to arrive, and again for the response to leave

log = structlog.get_logger(__name__)


class MetricsServer:
    """Answers GET, whatever the path, and then closes the connection.

    A connection over the maximum takes the place of the oldest one, so idle ones can't keep a scraper out.

    Args:
        exposition: Returns the metrics' text and its content type for an `Accept` header. It runs in a thread, one
            call at a time.
    """

    def __init__(
        self,
        exposition: Callable[[str], tuple[bytes, str]],
        *,
        max_connections: int = MAX_CONNECTIONS,
        step_seconds: float = STEP_SECONDS,
    ) -> None:
        self._exposition = exposition
        self._max_connections = max_connections
        self._step_seconds = step_seconds
        self._one_at_a_time = asyncio.Lock()
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> None:
        """Listen, unless it does already. Raises OSError, while another process has the port for example."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD_BYTES)

    async def close(self) -> None:
        """Close the port and all connections."""
        if self._server is not None:
            self._server.close()
        tasks = [task for task in self._open.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = asyncio.current_task()
        if len(self._open) > self._max_connections:
            next(iter(self._open)).transport.abort()
        try:
            async with asyncio.timeout(self._step_seconds):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(await self._response(head.decode("latin-1")))
            async with asyncio.timeout(self._step_seconds):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client left, took too long (TimeoutError is an OSError) or sent too much
        finally:
            del self._open[writer]
            writer.transport.abort()

    async def _response(self, head: str) -> bytes:
        request, *fields = head.split("\r\n")
        if not request.startswith("GET "):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, "allow: GET", b"")
        accept = ",".join(value for name, _, value in (field.partition(":") for field in fields) if _is_accept(name))
        try:
            async with self._one_at_a_time:
                body, content_type = await asyncio.to_thread(self._exposition, accept)
        except Exception as error:
            log.exception("metrics request failed", exc_info=error)
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR, "cache-control: no-store", b"")
        return _response(HTTPStatus.OK, f"content-type: {content_type}", body)


def _is_accept(name: str) -> bool:
    return name.strip().lower() == "accept"


def _response(status: HTTPStatus, field: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} {status.phrase}\r\n{field}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body
