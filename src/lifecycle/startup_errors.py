"""Report an invalid setting in one line, whichever command starts the service."""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NoReturn

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.config import ConfigError, Settings
from src.config_checks import is_cloud_run
from src.logs.redaction import hide_looks
from src.logs.writer import is_terminal, stderr_writer
from src.settings_loader import env_name, load_settings, missing_env_file


def load_settings_or_exit(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Load the settings. Invalid ones end the process with a line each on stderr and exit status 2.

    If the named env file is missing, another line reports it, because that may be the cause.
    """
    try:
        return load_settings(overrides)
    except ConfigError as error:
        missing = missing_env_file(env_name(overrides or {}))
        exit_with(str(error) if missing is None else f"{error}\n{missing}: the env file does not exist")


def exit_with(message: str) -> NoReturn:
    """End the process with the message on stderr, exit status 2, and no traceback.

    At a terminal each line begins with `error:`, otherwise each is a line of the JSON log. Secrets are hidden, because
    a value in the message may be a URL with a password, or a key that was pasted into the wrong setting.
    """
    for line in hide_looks(message).splitlines():
        text = f"error: {line}" if is_terminal() else _log_line(line)
        stderr_writer().write(text.encode(errors="backslashreplace") + b"\n")
    sys.exit(2)


def _log_line(text: str) -> str:
    """Return the text as a line of the JSON log, which can't be configured with invalid settings."""
    line = {"event": text, "level": "critical", "logger": __name__, "timestamp": datetime.now(UTC).isoformat()}
    if is_cloud_run(os.environ):
        line |= {"message": text, "severity": "CRITICAL"}
    return json.dumps(line)


def brief_startup_errors(app: ASGIApp) -> ASGIApp:
    """Wrap `app`, outermost, so that a ConfigError at start-up reaches the server as its message only.

    Otherwise Starlette sends the server the whole traceback, and raises, so that the server logs it once more. Some
    servers (hypercorn) raise an exception at this message, which would print a traceback without the reason. In this
    case the process exits as for any invalid setting.
    """

    async def with_short_failures(scope: Scope, receive: Receive, send: Send) -> None:
        await (start if scope["type"] == "lifespan" else app)(scope, receive, send)

    async def start(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_short(message: Message) -> None:
            error = sys.exception()
            if message["type"] != "lifespan.startup.failed" or not isinstance(error, ConfigError):
                await send(message)
                return
            try:
                await send({**message, "message": str(error)})
            except Exception:
                exit_with(str(error))

        with suppress(ConfigError):  # the server has the message
            await app(scope, receive, send_short)

    return with_short_failures
