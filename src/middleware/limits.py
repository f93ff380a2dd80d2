"""Limit the time of a request, and the size of its body."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.errors import PayloadTooLarge, TimedOut
from src.middleware.responses import guarded
from src.util.deadlines import Deadlines
from src.util.scope import headers_of

MAX_LENGTH_DIGITS = 18
FREE_PIECES = 256  # pieces of a body, of any size
MIN_PIECE_BYTES = 256  # bytes that allow one more piece
TOO_MANY_PIECES = "The request's body comes in too many pieces."


class TimeoutMiddleware:
    """Limits the whole request, a stalled upload and a stream included, and cancels the work."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self._deadlines = Deadlines(seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        response, send = guarded(scope, send)
        try:
            with self._deadlines.begin() as deadline:
                await self.app(scope, receive, send)
        except TimeoutError:
            if not deadline.expired:
                raise
            await response.fail(scope, send, TimedOut("The request took longer than allowed."))


class MaxBodySizeMiddleware:
    """Refuses a body over the limit: by its declared length before it is read, otherwise while it arrives.

    A body in very many pieces is refused too, because each piece costs as much as a large one.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        response, send = guarded(scope, send)
        for length in headers_of(scope, b"content-length"):
            if self._is_too_long(length):
                await response.fail(scope, send, PayloadTooLarge())
                return
        received, pieces, refused = 0, 0, False

        async def receive_and_count() -> Message:
            nonlocal received, pieces, refused
            message = await receive()
            received += len(message.get("body", b""))
            pieces += 1
            if received <= self._max_bytes and pieces <= FREE_PIECES + received // MIN_PIECE_BYTES:
                return message
            if not refused:
                refused = True
                too_long = received > self._max_bytes
                await response.fail(scope, send, PayloadTooLarge() if too_long else PayloadTooLarge(TOO_MANY_PIECES))
            return {"type": "http.disconnect"}

        def send_unless_refused(message: Message) -> Awaitable[None]:
            return _nothing() if refused else send(message)

        try:
            await self.app(scope, receive_and_count, send_unless_refused)
        except Exception:
            if not refused:  # otherwise the app reports a disconnected client with it
                raise

    def _is_too_long(self, length: str) -> bool:
        return len(length) > MAX_LENGTH_DIGITS or (length.isdecimal() and int(length) > self._max_bytes)


async def _nothing() -> None: ...
