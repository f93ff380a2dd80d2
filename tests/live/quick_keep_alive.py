"""The service with event streams whose comments come after a fifth of a second of silence."""

from starlette.types import ASGIApp

from src import asgi
from src.rest import endpoints as rest_endpoints


def create_app() -> ASGIApp:
    """As the real one."""
    rest_endpoints.KEEP_ALIVE_SECONDS = 0.2
    return asgi.create_app()
