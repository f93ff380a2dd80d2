"""Plays an ASGI app as a server would, without one."""

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Scope

LEFT: Message = {"type": "http.disconnect"}
SECONDS = 30


def http_scope(path: str = "/", **fields: Any) -> Scope:
    """Return the scope of a GET request, or of the one that the fields make of it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("192.0.2.7", 1),
        "server": ("api.test", 80),
        **fields,
    }


def body_of(*pieces: bytes) -> list[Message]:
    """Return the messages of a body in these pieces."""
    last = len(pieces) - 1
    return [{"type": "http.request", "body": piece, "more_body": n < last} for n, piece in enumerate(pieces)]


@dataclass
class Response:
    """Reads the messages that an app has sent."""

    messages: list[Message]

    @property
    def starts(self) -> list[Message]:
        """The messages that begin a response. There should be one."""
        return [message for message in self.messages if message["type"] == "http.response.start"]

    @property
    def status(self) -> int:
        """The status code."""
        status: int = self.starts[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        """The body, as far as it was sent."""
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def ended(self) -> bool:
        """True if the last message said that no more follow."""
        last = self.messages[-1]
        return last["type"] == "http.response.body" and not last.get("more_body", False)

    def header(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value.decode() for key, value in self.starts[0]["headers"] if key == name.encode()]


def play(app: ASGIApp, scope: Scope, received: Iterable[Message] | None = None, *, read: float = math.inf) -> Response:
    """Make one request.

    Args:
        received: The messages for the app, an empty body unless given; then the client waits, or stays away.
        read: Number of messages that the client reads. It never takes the next one.
    """
    waiting = deque(body_of(b"") if received is None else received)
    sent: list[Message] = []

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return LEFT if waiting[0] == LEFT else waiting.popleft()

    async def send(message: Message) -> None:
        if len(sent) >= read:
            await asyncio.Event().wait()
        sent.append(message)

    async def main() -> None:
        async with asyncio.timeout(SECONDS):
            await app(scope, receive, send)

    asyncio.run(main())
    return Response(sent)
