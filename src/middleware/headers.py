"""Change the headers of a response."""

from collections.abc import Iterable
from typing import TypeAlias

from starlette.datastructures import MutableHeaders

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]


def add_vary(headers: Iterable[tuple[bytes, bytes]], name: str) -> RawHeaders:
    """Return the headers with this one in `Vary`."""
    varied = MutableHeaders(raw=list(headers))
    varied.add_vary_header(name)
    return varied.raw


def with_request_id(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> RawHeaders:
    """Return the headers with the id, once."""
    kept = [header for header in headers if header[0] != b"x-request-id"]
    kept.append((b"x-request-id", request_id.encode()))
    return kept
