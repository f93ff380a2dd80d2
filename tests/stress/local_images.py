"""The service with images that may come from this machine, and names that no server ever answers for.

`IMAGE_PORT` names the port of the image host.
"""

import os
import socket
import time
from ipaddress import ip_address
from typing import Any

from starlette.types import ASGIApp

from src import asgi, service
from src.images.fetch import ImageFetcher
from src.images.name_lookup import NameLookup

SILENT = ".silent.test"
SILENT_SECONDS = 30.0


def create_app() -> ASGIApp:
    """As the real one, but for the addresses that are allowed."""
    port = int(os.environ["IMAGE_PORT"])

    def fetcher(*arguments: Any, **options: Any) -> ImageFetcher:
        return ImageFetcher(
            *arguments,
            **options,
            resolve=NameLookup(_look_up),
            is_allowed=lambda address: address == ip_address("127.0.0.1"),
            ports={"http": port},
        )

    service.ImageFetcher = fetcher  # type: ignore[assignment,attr-defined]
    return asgi.create_app()


def _look_up(host: str, port: int, **options: Any) -> Any:
    if host.endswith(SILENT):
        time.sleep(SILENT_SECONDS)
        raise OSError
    return socket.getaddrinfo(host, port, **options)
