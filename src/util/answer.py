"""Failures as HTTP answers, at any point of a response."""

import asyncio
from contextlib import suppress

import orjson
from starlette.types import Message, Scope, Send

from src.errors import ServiceError
from src.util.request_id import request_id_of
from src.util.scope import first_header, forget_marks

LAST_WORDS_SECONDS = 1.0  # for a client that reads; one that does not must not hold the request


class Answer:
    """What has left of one response, and how to end it when something fails on the way.

    A response's start waits for its first body, so that a failure between them can still be told; that of server-sent
    events leaves at once.
    """

    __slots__ = ("_ended", "_held", "_is_event_stream", "_send", "_started")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: Message | None = None
        self._started = self._ended = self._is_event_stream = False

    async def send(self, message: Message) -> None:
        """Pass a message on, and remember it."""
        if message["type"] == "http.response.start":
            content_type = first_header(message.get("headers", ()), b"content-type")
            self._is_event_stream = content_type.startswith(b"text/event-stream")
            if not self._is_event_stream:
                self._held = message
                return
            self._started = True
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
            if self._held is not None:
                start, self._held = self._held, None
                self._started = True
                await self._send(start)
        await self._send(message)

    async def fail(self, scope: Scope, failure: ServiceError) -> None:
        """Answer with the failure; in mid-stream end the stream: server-sent events with an `error` event first.

        Any other body is left incomplete, so that its reader can't take it for whole.
        """
        problem = orjson.dumps(failure.problem(request_id_of(scope)))
        if not self._started:
            self._held = None
            forget_marks(scope)  # this answer has passed none of the layers that the one held back has
            headers = [
                (b"content-type", b"application/problem+json"),
                (b"content-length", str(len(problem)).encode()),
                *((name.encode(), value.encode()) for name, value in failure.headers().items()),
            ]
            await self._send({"type": "http.response.start", "status": failure.http_status, "headers": headers})
            await self._send({"type": "http.response.body", "body": problem})
        elif self._is_event_stream and not self._ended:
            event = b"event: error\ndata: " + problem + b"\n\n"
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_SECONDS):
                    await self._send({"type": "http.response.body", "body": event})
