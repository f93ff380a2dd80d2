"""The record of an ended request or RPC, and the access log: one line for each.

Access lines skip the processors of other lines, which would cost as much as all layers of the chain together. The log's
thread renders them. On the event loop, that would cost a tenth of a cached request.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeAlias

import orjson
import structlog

from src.config import Settings
from src.errors import as_service_error
from src.logs.failures import log_failure
from src.logs.redaction import Redactor, client_text
from src.logs.writer import stderr_writer

LOGGER = "access"
RECORD_BYTES = 1024  # of memory per record, beside the texts of its client
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE

Protocol: TypeAlias = Literal["http", "grpc"]


@dataclass(slots=True)
class EndedCall:
    """A request or an RPC that has ended. The client's texts in it are raw: use `client_text` to show them.

    Attributes:
        method: The request's method, or the RPC's full name.
        path: The request's path; empty for an RPC.
        route: The path below the app's mount point; the RPC's full name.
        status: The response's status, 499 if the client left before it; the name of the RPC's status code.
        seconds: How long it took.
        bytes: Size of the response's body or of the RPC's messages.
        client: Address.
        is_quiet: Logged at debug level: a health check, or a request of the status page.
    """

    protocol: Protocol
    method: str
    path: str
    route: str
    status: int | str
    seconds: float
    bytes: int
    client: str
    request_id: str
    is_quiet: bool


CallListener: TypeAlias = Callable[[EndedCall], None]


def report_call(call: EndedCall, listeners: Iterable[CallListener]) -> None:
    """Call all listeners. The failure of one affects neither the call nor the other listeners."""
    for listener in listeners:
        try:
            listener(call)
        except Exception as error:
            log_failure(as_service_error(error), "")


class AccessLines:
    """Writes access lines, without secrets, in the configured format and from the configured level."""

    def __init__(self, settings: Settings) -> None:
        self._console = structlog.get_logger(LOGGER) if settings.log_format == "console" else None
        self._levels = {level for level in ("debug", "info") if settings.log_level in (level, "debug")}
        self._redactor = Redactor(settings.secrets)
        self._writer = stderr_writer()
        self._is_google_cloud = settings.on_cloud_run

    def write(self, call: EndedCall) -> None:
        level = "debug" if call.is_quiet else "info"
        if level not in self._levels:
            return
        event, fields = _line(call)  # not in the thread: texts must be cut before they wait in the queue
        if self._console is not None:
            getattr(self._console, level)(event, **fields)
            return
        bound = structlog.contextvars.get_contextvars()
        size = RECORD_BYTES + len(fields["method"]) + len(fields.get("path", ""))
        self._writer.write_later(partial(self._render, event, {**bound, **fields}, level, time.time()), size)

    def _render(self, event: str, fields: dict[str, Any], level: str, seconds: float) -> bytes:
        line = {**fields, "logger": LOGGER}
        moment = datetime.fromtimestamp(seconds, UTC)
        if self._is_google_cloud:
            line.update(message=event, severity=level.upper(), time=moment)
        else:
            line.update(event=event, level=level, timestamp=moment)
        return self._redactor.text(orjson.dumps(line, option=_OPTIONS).decode()).encode()


def _line(call: EndedCall) -> tuple[str, dict[str, Any]]:
    """Return the event and the fields of a call's line."""
    if call.protocol == "http":
        path = client_text(call.path)
        event, names = "request", {"method": client_text(call.method), "path": path, "status": call.status}
    else:
        event, names = "rpc", {"method": client_text(call.method), "code": call.status}
    return event, {
        **names,
        "duration_ms": round(call.seconds * 1000, 2),
        "client": call.client,
        "request_id": call.request_id,
        "bytes": call.bytes,
    }
