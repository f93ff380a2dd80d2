"""The service with some of the limits of its gRPC connections replaced by `GRPC_LIMITS`, a JSON object."""

import json
import os

from starlette.types import ASGIApp

from src import asgi


def create_app() -> ASGIApp:
    """As the real one."""
    from src.rpc import server as grpc_server  # after the fork

    replaced = json.loads(os.environ["GRPC_LIMITS"])
    assert replaced.keys() <= dict(grpc_server.LIMITS).keys()
    grpc_server.LIMITS = tuple((name, replaced.get(name, value)) for name, value in grpc_server.LIMITS)
    return asgi.create_app()
