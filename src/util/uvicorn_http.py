"""uvicorn's HTTP/1 protocol with the bounds on a request head that uvicorn itself lacks.

`uvicorn --http src.util.uvicorn_http:HeadTimeoutProtocol`; `gunicorn.conf.py` and `python -m src` use it too.
"""

import asyncio
from http import HTTPStatus

import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from src.util.request_id import new_request_id
from src.util.stop_signals import BEGIN_STOP

_BUSY = object()
MAX_PIPELINED = 16  # requests that wait on one connection for the response to an earlier one
MAX_HEAD_BYTES = 32_768

log = structlog.get_logger(__name__)


class HeadTimeoutProtocol(HttpToolsProtocol):
    """Closes connections that send nothing, half a request head, or a head byte by byte.

    Every `timeout_keep_alive` seconds it looks at the connection, and closes it if no request has begun since the last
    look. So a silent connection lasts that long, and a head that never ends less than twice as long. A request costs
    nothing extra.

    It also closes connections that send a head, a chunk's extension or trailers without end, and those that send
    request after request without reading: uvicorn would keep it all. What it refuses is hardened as by the chain.

    It begins the drain when uvicorn stops at its limit of requests, of which no signal tells the app.
    """

    _bytes_in_vain = 0  # since the parser last came to an end of a head or to bytes of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch(None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._next_look.cancel()

    def shutdown(self) -> None:
        """Called for each open connection when the server stops. Without one the lifespan ends at once."""
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
        """Called when the parser gives up."""
        self._refuse(HTTPStatus.BAD_REQUEST)

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer and close. A response that has begun ends incomplete: no second one may follow it."""
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
    """Make the response to what is no request: there is no ASGI scope for it, so no layer of the chain sees it."""
    # Rarely needed, and the parents of workers load this module too.
    from src.config import Settings
    from src.responses import PROBLEM, status_problem
    from src.security import HeaderPolicy

    body = orjson.dumps(status_problem(status, request_id))
    fields = HeaderPolicy(Settings.model_construct()).apply({"scheme": scheme}, ())
    fields += [
        (b"content-type", PROBLEM),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        (b"x-request-id", request_id.encode()),
    ]
    start = f"HTTP/1.1 {status} {status.phrase}\r\n".encode()
    return start + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n" + body
