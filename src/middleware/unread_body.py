"""Read the rest of a request's body when the response is ready before it.

If the app has not read the body, servers close the connection after the response. A next request on it would be lost.
So a short body is read to its end first (RFC 9112, 9.3).
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

from starlette.types import Message, Receive, Scope

MAX_BYTES = 65_536
MAX_PIECES = 64
MAX_SECONDS = 1.0


class UnreadBody:
    """The body of one request, as far as the app has not read it.

    Attributes:
        is_untouched: True if the app has not started to read it.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_untouched = True

    def receive(self) -> Awaitable[Message]:
        """Receive a message for the app."""
        self.is_untouched = False
        return self._receive()

    async def discard(self) -> None:
        """Read an untouched body to its end, unless it is long, slow, or in many pieces."""
        if not self.is_untouched:
            return
        self.is_untouched = False
        left = MAX_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(MAX_SECONDS):
                for _ in range(MAX_PIECES):
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    if left <= 0 or not message.get("more_body", False):
                        return


def may_be_unread(scope: Scope) -> bool:
    """Return True for a request with a body, not declared as long, on an HTTP/1 connection."""
    if scope.get("http_version", "1.1") > "1.1":
        return False
    for name, value in scope["headers"]:
        if name == b"content-length":
            return bool(value.isdigit() and value != b"0" and int(value[:18]) <= MAX_BYTES)
        if name == b"transfer-encoding":
            return True
    return False
