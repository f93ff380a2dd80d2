"""Helpers to read ASGI scopes and headers. Layers call them for each request, so they are plain loops."""

from collections.abc import Iterable

from starlette.types import Scope

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # clients may write others
# Keys under which layers mark the response in the scope's state.
HARDENED, IDENTIFIED = "hardened", "identified"
CLIENT_LEFT = "client_left"  # the client disconnected before its response
CLIENT_GONE = 499  # status in the log, as in nginx; no client receives it


def route_path(scope: Scope) -> str:
    """Return the path below the mount point. Servers include the mount point in both `root_path` and the path."""
    path: str = scope["path"]
    root: str | None = scope.get("root_path")
    if not root:
        return path
    if path.startswith(root) and path[len(root) : len(root) + 1] == "/":
        return path[len(root) :]
    return path


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """Return the values of a header, in order. Never fails to decode."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def first_header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """Return the first value of a header, or an empty string."""
    for header in headers:
        if header[0] == name:
            return header[1]
    return b""


def has_header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bool:
    for header in headers:  # noqa: SIM110 - `any` takes three times as long
        if header[0] == name:
            return True
    return False


def forget_marks(scope: Scope) -> None:
    """Remove the layers' marks, because another response is sent that has not passed them."""
    state = scope.get("state", {})
    for mark in (HARDENED, IDENTIFIED):
        state.pop(mark, None)
