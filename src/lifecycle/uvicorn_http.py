"""uvicorn's HTTP/1 protocol with the limits on request heads that uvicorn lacks.

`uvicorn --http src.lifecycle.uvicorn_http:HeadTimeoutProtocol`. `gunicorn.conf.py` and `python -m src` use it too.
"""

import asyncio
from http import HTTPStatus

import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from src.lifecycle.stop_signals import BEGIN_STOP
from src.util.request_id import new_request_id

_BUSY = object()
MAX_PIPELINED = 16  # requests that wait on one connection
MAX_HEAD_BYTES = 32_768

log = structlog.get_logger(__name__)


class HeadTimeoutProtocol(HttpToolsProtocol):
    """Closes connections that send nothing, half a request head, or a head byte by byte.

    Every `timeout_keep_alive` seconds it closes the connection if no request has begun since the last check. So a
    silent connection lasts that long, and an endless head less than twice as long. A request costs nothing extra.

    It also closes connections that send an endless head, chunk extension or trailer, and those that pipeline requests
    without reading the responses: uvicorn would buffer them all. Its refusals have the security headers of the chain.

    When uvicorn stops at its limit of requests, no signal arrives, so this class begins the drain.
    """

    _bytes_in_vain = 0  # since the parser last completed a head or got bytes of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch(None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._next_look.cancel()

    def shutdown(self) -> None:
        """Begin the drain when the server stops. uvicorn calls it for each open connection."""
        if BEGIN_STOP in self.app_state:
            self.app_state[BEGIN_STOP]()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        self._bytes_in_vain += len(data)
        super().data_received(data)
        if self._bytes_in_vain > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._bytes_in_vain = 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise ConnectionAbortedError
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.abort()
            raise ConnectionAbortedError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bytes_in_vain = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's
        self._refuse(HTTPStatus.BAD_REQUEST)

    def _refuse(self, status: HTTPStatus) -> None:
        """Send a refusal and close. If a response has already started, only close: no second one may follow it."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            request_id = new_request_id()
            log.warning("request refused", status=status, request_id=request_id, client=(self.client or ("",))[0])
            self.transport.write(_refusal(status, self.scheme, request_id))
        self.transport.close()

    def _watch(self, last_request: object) -> None:
        self._next_look = self.loop.call_later(self.timeout_keep_alive, self._look, last_request)

    def _look(self, last_request: object) -> None:
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is last_request:
            self.transport.close()
        else:
            self._watch(self.cycle if is_idle else _BUSY)


def _refusal(status: HTTPStatus, scheme: str | None, request_id: str) -> bytes:
    """Build the response to a malformed request. It has no ASGI scope, so it can't pass through the chain."""
    # Imported late: rarely needed, and the parent of workers loads this module too.
    from src.middleware.responses import PROBLEM, status_problem
    from src.security import HeaderPolicy
    from src.util.client_address import TrustedProxies

    body = orjson.dumps(status_problem(status, request_id))
    fields = HeaderPolicy(TrustedProxies(), debug=False).apply({"scheme": scheme}, ())
    fields += [
        (b"content-type", PROBLEM),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        (b"x-request-id", request_id.encode()),
    ]
    start = f"HTTP/1.1 {status} {status.phrase}\r\n".encode()
    return start + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n" + body
