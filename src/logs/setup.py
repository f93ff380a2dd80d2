"""One logging configuration for the whole process: every line has the same format and goes to stderr."""

import json
import logging
import logging.config
import os
import sys
import threading
import warnings
from types import TracebackType
from typing import Any

import orjson
import structlog
from structlog.dev import RichTracebackFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from src.config import ConfigError, Settings
from src.logs.redaction import Redactor, only_colours, quiet_traceback
from src.logs.writer import MAX_LINE_BYTES, stderr_writer
from src.settings_loader import load_settings

# Loggers that would otherwise use their own handlers and formats.
SERVERS = ("_granian", "gunicorn.error", "hypercorn.error", "uvicorn", "uvicorn.asgi", "uvicorn.error")
# The service writes the access log itself.
ACCESS_LOGS = ("granian.access", "gunicorn.access", "hypercorn.access", "uvicorn.access")
# At info level they log each of their calls, which the service logs itself.
CHATTY = ("google_genai", "httpcore", "httpx", "httpx2", "openai", "ollama")
# They quote clients' headers and model responses. The service logs the same events itself.
QUOTING = ("genkit_google_genai", "opentelemetry.baggage.propagation", "opentelemetry.trace.span")

# Loggers that quote input, and the text where the quotation begins: asyncio prints whole objects.
QUOTES = {"asyncio": "\n"}

# Maximum bytes of a field in a line that is too long.
MAX_FIELD_BYTES = 1024
MAX_TRACEBACK_BYTES = 8 * 1024
TRACEBACKS = ("exception", "stack_trace")

# It logs non-UTF-8 metadata in full, and a traceback for each client that disconnects before its response.
GRPC = "grpc._cython.cygrpc"
_CAUSED_BY_CLIENTS = ("Invalid encoding on", "ExecuteBatchError raised")

# Processors for every line, also those of libraries.
_COMMON: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

log = structlog.get_logger(__name__)


def configure_logging(settings: Settings) -> None:
    """Send all logs of this process, and uncaught exceptions, to stderr: a JSON object a line, or coloured text."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core writes lines of its own past Python's logging
    logging.config.dictConfig(logging_config(settings))
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_formatter(settings))
    configure_structlog()
    logging.getLogger(GRPC).addFilter(_is_about_the_server)
    warnings.showwarning = _log_warning
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def configure_structlog(*reporters: Processor) -> None:
    """Configure the service's own loggers; the reporters see each event first."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_COMMON,
            *reporters,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def logging_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration for `logging.config.dictConfig` and the servers: one handler, at the root.

    It is plain data, so that servers can pass it to their workers. `logging.json` holds it for the servers' own
    commands.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"service": {"()": f"{__name__}.formatter_from_environment"}},
        "handlers": {"stderr": {"class": f"{__name__}.LogHandler", "formatter": "service"}},
        "root": {"handlers": ["stderr"], "level": settings.log_level.upper()},
        "loggers": {name: {"handlers": [], "propagate": True} for name in SERVERS}
        | {name: {"handlers": [], "propagate": False} for name in ACCESS_LOGS}
        | {name: {"level": "ERROR" if settings.log_level == "error" else "WARNING"} for name in CHATTY}
        | {name: {"level": "CRITICAL"} for name in QUOTING},
    }


class LogHandler(logging.Handler):
    """Formats each record and passes it to the log writer of the process."""

    def __init__(self) -> None:
        super().__init__()
        self._writer = stderr_writer()
        self._writer.describe_dropped = self._describe_dropped

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # logging itself would print the record's arguments
            line = self.format(_record("log line could not be formatted", by=record.name, error=type(error).__name__))
        self._writer.write(line.encode(errors="backslashreplace") + b"\n")

    def _describe_dropped(self, lines: int) -> str:
        return self.format(_record("log lines dropped: nothing read them in time", lines=lines))


def _record(event: str, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, event, (), None)
    vars(record).update(fields)
    return record


def formatter_from_environment() -> logging.Formatter:
    """Return the formatter for lines that a server logs before it loads the app, or in a parent of workers."""
    try:
        return _formatter(load_settings())
    except ConfigError:  # the app itself will report it
        return _formatter(Settings.model_construct())


def _formatter(settings: Settings) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_COMMON, structlog.stdlib.ExtraAdder(), _foreign],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(settings)],
    )


def _renderers(settings: Settings) -> list[Processor]:
    redactor = Redactor(settings.secrets)
    if settings.log_format == "console":
        colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"  # no-color.org
        renderer = structlog.dev.ConsoleRenderer(
            colors=colours,
            sort_keys=False,  # method, path and status first
            # Local variables would show prompts and keys.
            exception_formatter=RichTracebackFormatter(
                show_locals=False, color_system="truecolor" if colours else None
            ),
        )
        return [redactor.by_name, renderer, only_colours, redactor.by_value]
    said = structlog.processors.format_exc_info if settings.log_level == "debug" else _add_quiet_traceback
    names = [_as_google_cloud_has_it] if settings.on_cloud_run else []
    to_json = structlog.processors.JSONRenderer(serializer=_to_json)
    return [said, redactor.by_name, *names, to_json, redactor.by_value, _bounded]


def _add_quiet_traceback(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by a traceback without exception messages, except at debug level."""
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if isinstance(error, BaseException):
        event["exception"] = quiet_traceback(error)
    return event


def _is_about_the_server(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_CAUSED_BY_CLIENTS)


def _foreign(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Remove quotations of clients, and uvicorn's colours, from the lines of libraries."""
    event.pop("color_message", None)
    quote = QUOTES.get(event.get("logger", ""))
    if quote is not None:
        event["event"] = event["event"].partition(quote)[0]
    return event


def _as_google_cloud_has_it(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Rename fields for Cloud Logging and Error Reporting (cloud.google.com/logging/docs/structured-logging)."""
    event["severity"] = event.pop("level").upper()
    event["message"] = event.pop("event")
    event["time"] = event.pop("timestamp")
    if "exception" in event:
        event["stack_trace"] = event.pop("exception")
    return event


def _bounded(_logger: WrappedLogger, _method: str, line: Any) -> str:
    """Cut the fields of a line over 16 KiB. A traceback keeps its end, all others their beginning."""
    if len(line) * 4 <= MAX_LINE_BYTES or len(line.encode(errors="replace")) < MAX_LINE_BYTES:
        return str(line)
    fields = {name: _cut(name, value) for name, value in json.loads(line).items()}
    return _to_json({**fields, "cut": True})


def _cut(name: str, value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = (value if isinstance(value, str) else _to_json(value)).encode(errors="replace")
    if name in TRACEBACKS:
        return text[-MAX_TRACEBACK_BYTES:].decode(errors="ignore")
    return text[:MAX_FIELD_BYTES].decode(errors="ignore")


def _to_json(event: Any, **_: Any) -> str:
    try:
        return orjson.dumps(event, default=repr).decode()
    except TypeError:  # a lone surrogate, which UTF-8 can't encode
        return json.dumps(event, default=repr)


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_file_and_line: object, **_: object
) -> None:
    """Log the category and place of a Python warning. Its text may quote a provider: SDKs warn of unknown values."""
    log.warning("Python warning", category=category.__name__, place=f"{filename}:{lineno}")
    log.debug("text of the Python warning", message=str(message))


def _log_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    """Log an exception that nothing caught, in a thread or in the main program."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error or kind(), traceback)
        return
    log.critical("uncaught exception", exc_info=error or kind())
