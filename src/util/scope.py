"""Reading an ASGI scope."""

from starlette.types import Scope


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """The values of a header, in order; none of them fails to decode."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
