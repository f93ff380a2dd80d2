"""Reading an ASGI scope, and headers. Layers do it all the time: plain loops are quickest."""

from collections.abc import Iterable

from starlette.types import Scope

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # clients may write others
# What layers note in a scope's state of the response that is on its way.
HARDENED, IDENTIFIED = "hardened", "identified"
CLIENT_LEFT = "client_left"  # the client left before its answer
CLIENT_GONE = 499  # logged for it, as nginx does; no client ever gets it


def route_path(scope: Scope) -> str:
    """The path below the one that the app is mounted under, which servers give as `root_path` and in the path too."""
    path: str = scope["path"]
    root: str | None = scope.get("root_path")
    if not root:
        return path
    if path.startswith(root) and path[len(root) : len(root) + 1] == "/":
        return path[len(root) :]
    return path


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """The values of a header, in order; none of them fails to decode."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def first_header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """The first value of a header; empty if there is none."""
    for header in headers:
        if header[0] == name:
            return header[1]
    return b""


def has_header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bool:
    """Return True if the header is present."""
    for header in headers:  # noqa: SIM110 - `any` takes three times as long
        if header[0] == name:
            return True
    return False


def forget_marks(scope: Scope) -> None:
    """Another response goes out, which has not been through those layers."""
    state = scope.get("state", {})
    for mark in (HARDENED, IDENTIFIED):
        state.pop(mark, None)
