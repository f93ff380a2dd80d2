"""uvicorn's HTTP/1 protocol with a limit on the wait for a request head, which uvicorn itself lacks.

`uvicorn --http src.util.uvicorn_http:HeadTimeoutProtocol`; `gunicorn.conf.py` and `python -m src` use it too.
"""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as AutoHTTPProtocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

_BUSY = object()
MAX_PIPELINED = 16  # requests that wait on one connection for the response to an earlier one


class HeadTimeoutProtocol(AutoHTTPProtocol):
    """Closes connections that send nothing, half a request head, or a head byte by byte.

    Every `timeout_keep_alive` seconds it looks at the connection, and closes it if no request has begun since the last
    look. So a silent connection lasts that long, and a head that never ends less than twice as long. A request costs
    nothing extra.

    It also closes connections that send request after request without reading: uvicorn would keep them all.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch(None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._next_look.cancel()

    def on_headers_complete(self) -> None:
        """Called by httptools. h11 stops reading by itself, and has no such method."""
        if len(self.pipeline) >= MAX_PIPELINED:  # type: ignore[attr-defined]
            self.transport.abort()
            raise ConnectionAbortedError
        super().on_headers_complete()  # type: ignore[misc]

    def _watch(self, last_request: object) -> None:
        self._next_look = self.loop.call_later(self.timeout_keep_alive, self._look, last_request)

    def _look(self, last_request: object) -> None:
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is last_request:
            self.transport.close()
        else:
            self._watch(self.cycle if is_idle else _BUSY)
