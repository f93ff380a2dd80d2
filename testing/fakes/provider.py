"""A stand-in for any provider on loopback: it plays the bytes that a test gives it, and closes the connection.

It runs in the event loop of its clients, which makes thousands of calls cheap.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Self

Framing = Literal["length", "chunked", "close"]


@dataclass(frozen=True)
class Played:
    """One response.

    Attributes:
        media_type: None leaves the header out.
        framing: How HTTP tells where the body ends (RFC 9112, 6.3).
        chunks: Where the body is split, if it is chunked.
        cut: Bytes of the body that are sent; None: all, with the end that the framing asks for.
    """

    body: bytes
    media_type: str | None
    status: int = 200
    framing: Framing = "length"
    chunks: tuple[int, ...] = ()
    cut: int | None = None

    def encoded(self) -> bytes:
        """All bytes of the response, up to the cut."""
        framing = {
            "length": f"content-length: {len(self.body)}\r\n",
            "chunked": "transfer-encoding: chunked\r\n",
            "close": "",
        }[self.framing]
        media_type = f"content-type: {self.media_type}\r\n" if self.media_type else ""
        head = f"HTTP/1.1 {self.status} X\r\n{media_type}{framing}connection: close\r\n\r\n"
        body = self.body[: self.cut]
        if self.framing == "chunked":
            body = self._in_chunks(body)
        return head.encode() + body

    def _in_chunks(self, body: bytes) -> bytes:
        places = sorted({0, *(place for place in self.chunks if place < len(body)), len(body)})
        chunks = (body[start:end] for start, end in pairwise(places))
        end = b"0\r\n\r\n" if self.cut is None else b""
        return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


class ProviderStandIn:
    """The server; an async context manager.

    Attributes:
        play: Makes the response to the JSON body of a request.
        calls: How many requests came.
    """

    def __init__(self) -> None:
        self.play: Callable[[dict[str, Any]], Played] = lambda _: Played(b"", None, status=503)
        self.calls = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            request = json.loads(await reader.readexactly(length))
            self.calls += 1
            writer.write(self.play(request).encoded())
            await writer.drain()
        finally:
            writer.close()
