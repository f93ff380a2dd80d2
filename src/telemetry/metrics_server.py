"""The HTTP server of METRICS_PORT, on the service's own event loop, with limits on connections, bytes and time."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import structlog

MAX_CONNECTIONS = 32
MAX_HEAD_BYTES = 8_192
STEP_SECONDS = 5.0  # for each of: receive the request head, collect the metrics, send the response
PLAIN_TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

log = structlog.get_logger(__name__)


class MetricsServer:
    """Answers GET on any path and then closes the connection.

    A connection over the maximum closes the oldest one, so idle connections can't block a scraper.

    Args:
        exposition: Returns the metrics in the format of this content type. It runs in a thread, once at a time per
            format; concurrent scrapers get the same text.
    """

    def __init__(
        self,
        exposition: Callable[[str], bytes],
        *,
        max_connections: int = MAX_CONNECTIONS,
        step_seconds: float = STEP_SECONDS,
    ) -> None:
        self._exposition = exposition
        self._max_connections = max_connections
        self._step_seconds = step_seconds
        self._expositions: dict[str, asyncio.Task[bytes | None]] = {}  # running expositions, by content type
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> None:
        """Listen. Raises OSError, for example if another process has the port."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD_BYTES)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = [task for task in self._open.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = asyncio.current_task()
        if len(self._open) > self._max_connections:
            self._evict_oldest()
        try:
            async with asyncio.timeout(self._step_seconds):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(await self._response(head.decode("latin-1")))
            async with asyncio.timeout(self._step_seconds):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client disconnected, was too slow (TimeoutError is an OSError) or sent too much
        except asyncio.CancelledError:
            pass  # evicted or closed: asyncio logs a task of its server that ends cancelled as a failure
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()

    def _evict_oldest(self) -> None:
        oldest = next(iter(self._open))
        task = self._open.pop(oldest)
        oldest.transport.abort()
        if task is not None:
            task.cancel()

    async def _response(self, head: str) -> bytes:
        request, *fields = head.split("\r\n")
        if not request.startswith("GET "):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, "allow: GET", b"")
        content_type = _content_type(fields)
        try:
            async with asyncio.timeout(self._step_seconds):
                body = await self._exposed(content_type)
        except TimeoutError:
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, "cache-control: no-store", b"")
        if body is None:
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR, "cache-control: no-store", b"")
        return _response(HTTPStatus.OK, f"content-type: {content_type}", body)

    async def _exposed(self, content_type: str) -> bytes | None:
        """Join the running exposition, or start one. A client that disconnects does not end it for the others."""
        task = self._expositions.get(content_type)
        if task is None:
            task = self._expositions[content_type] = asyncio.create_task(self._expose(content_type))
        return await asyncio.shield(task)

    async def _expose(self, content_type: str) -> bytes | None:
        try:
            return await asyncio.to_thread(self._exposition, content_type)
        except Exception as error:
            log.exception("metrics request failed", exc_info=error)
            return None
        finally:
            del self._expositions[content_type]


def _content_type(fields: list[str]) -> str:
    """Return OpenMetrics' content type if `Accept` names this format in its only version or none, else plain text's.

    The library's own choice raises for versions that are not numbers, and repeats others in the response.
    """
    for name, _, value in (field.partition(":") for field in fields):
        if name.strip().lower() != "accept":
            continue
        for media_type, *parameters in (each.lower().replace(" ", "").split(";") for each in value.split(",")):
            versions = [parameter for parameter in parameters if parameter.startswith("version=")]
            if media_type == "application/openmetrics-text" and versions in ([], ["version=1.0.0"]):
                return OPEN_METRICS
    return PLAIN_TEXT


def _response(status: HTTPStatus, field: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} {status.phrase}\r\n{field}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body
