"""The access log: one line a request and one an RPC.

A line is rendered in one go, in the thread of the log. Through the processors of the other lines, which have to be
ready for anything, it would cost as much as all layers of the chain together; rendered by the event loop, a tenth of a
request from the cache.
"""

import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import structlog

from src.config import Settings
from src.observability.log_writer import stderr_writer
from src.observability.redaction import Redactor, client_text

LOGGER = "access"
_BY_CLIENTS = ("method", "path")  # as they were sent, so they can hold anything
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE


class AccessLines:
    """Writes the lines, in the format and from the level on that the settings say, without secrets."""

    def __init__(self, settings: Settings) -> None:
        self._console = structlog.get_logger(LOGGER) if settings.log_format == "console" else None
        self._levels = {level for level in ("debug", "info") if settings.log_level in (level, "debug")}
        self._redactor = Redactor(settings.secrets)
        self._writer = stderr_writer()
        self._is_google_cloud = settings.on_cloud_run

    def write(self, event: str, level: str, fields: dict[str, Any]) -> None:
        """Write a line.

        Args:
            event: What has ended: request or rpc.
            level: info, or debug for what is to go unnoticed.
            fields: What is told of it; its method and its path as the client sent them.
        """
        if level not in self._levels:
            return
        for name in _BY_CLIENTS:
            if name in fields:
                fields[name] = client_text(fields[name])
        if self._console is not None:
            getattr(self._console, level)(event, **fields)
            return
        bound = structlog.contextvars.get_contextvars()
        self._writer.write_later(partial(self._render, event, level, time.time(), bound, fields))

    def _render(self, event: str, level: str, seconds: float, bound: dict[str, Any], fields: dict[str, Any]) -> bytes:
        line = {**bound, **fields, "logger": LOGGER}
        moment = datetime.fromtimestamp(seconds, UTC)
        if self._is_google_cloud:
            line.update(message=event, severity=level.upper(), time=moment)
        else:
            line.update(event=event, level=level, timestamp=moment)
        return self._redactor.text(orjson.dumps(line, option=_OPTIONS).decode()).encode()
