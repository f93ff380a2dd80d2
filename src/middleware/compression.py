"""Compress responses for clients that accept gzip."""

from functools import lru_cache

from starlette.middleware import gzip
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.middleware.headers import add_vary
from src.util.scope import first_header, has_header

MIN_COMPRESSED_BYTES = 500
PARTIAL_CONTENT = 206


class GZipMiddleware:
    """Starlette's compression. Clients that don't accept gzip bypass it and get the same bytes.

    Starlette would read every header of every response, only to set `Vary` on compressible ones.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._compressing = gzip.GZipMiddleware(app, MIN_COMPRESSED_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or accepts_gzip(scope):
            await self._compressing(scope, receive, send)
            return
        held: Message | None = None  # the start, until the body shows whether compression is worth it

        async def send_with_vary(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                held = message if may_be_compressed(message) else None  # replaces an earlier start after a failure
                if held is not None:
                    return
            if held is not None:
                start, held = held, None
                if message.get("more_body", False) or len(message.get("body", b"")) >= MIN_COMPRESSED_BYTES:
                    start = {**start, "headers": add_vary(start.get("headers", ()), "Accept-Encoding")}
                await send(start)
            await send(message)

        await self.app(scope, receive, send_with_vary)


def accepts_gzip(scope: Scope) -> bool:
    """Return True if the client accepts gzip. A weight of 0 forbids it (RFC 9110, 12.5.3)."""
    accepted = first_header(scope["headers"], b"accept-encoding")
    if b"gzip" not in accepted:
        return False
    return any(
        coding.strip() == b"gzip" and not _is_zero(weight)
        for coding, _, weight in (element.partition(b";") for element in accepted.split(b","))
    )


def _is_zero(weight: bytes) -> bool:
    name, _, value = weight.partition(b"=")
    value = value.strip()
    return name.strip() in (b"q", b"Q") and value != b"" and value.strip(b"0.") == b""


def may_be_compressed(start: Message) -> bool:
    """Return True if Starlette would compress this response for a client that accepts gzip."""
    if start["status"] == PARTIAL_CONTENT:
        return False
    headers = start.get("headers", ())
    return not has_header(headers, b"content-encoding") and is_compressible(first_header(headers, b"content-type"))


@lru_cache(maxsize=64)
def is_compressible(content_type: bytes) -> bool:
    """Return True unless Starlette excludes the type from compression."""
    media_type = content_type.decode("latin-1").partition(";")[0].strip().lower()
    if media_type.startswith("application/grpc+"):
        return False
    return {media_type, media_type.partition("/")[0] + "/*"}.isdisjoint(gzip.DEFAULT_EXCLUDED_CONTENT_TYPES)
