"""The service whose gRPC server crashes on an RPC of an unknown method."""

from typing import Any

from starlette.types import ASGIApp

from src import asgi


def create_app() -> ASGIApp:
    """As the real one."""
    from grpc._cython import cygrpc  # after the fork

    def crash(*_: Any) -> None:
        raise LookupError

    cygrpc._handle_rpc = crash
    return asgi.create_app()


def create_app_without_private_names() -> ASGIApp:
    """As the real one, with a grpcio that lacks what the gRPC server is built on."""
    from grpc._cython import cygrpc

    del cygrpc._handle_rpc
    return asgi.create_app()
