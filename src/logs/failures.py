"""The log line of a failed request, the same for every protocol."""

import logging

import structlog

from src.errors import ServiceError
from src.logs.redaction import client_text

log = structlog.get_logger(__name__)
_stdlib_log = logging.getLogger(__name__)  # knows its level, which structlog's asks for each line


def log_failure(failure: ServiceError, operation: str) -> None:
    """Log a bug with its traceback, and an expected failure as one line.

    A refusal is logged at debug level: the access log already has its status, and a flood of refusals must not fill the
    log twice.

    Args:
        operation: The flow's name, or the RPC's name as the client sent it; empty if no flow was called.
    """
    if failure.is_refusal and not _stdlib_log.isEnabledFor(logging.DEBUG):
        return  # before its text is searched, which takes a millisecond if it is long
    fields = {"operation": client_text(operation)} if operation else {}
    if failure.is_bug:
        log.error("internal error", **fields, exc_info=failure)
    elif failure.is_refusal:
        log.debug("request failed", **fields, problem=failure.slug)
    else:
        hint = {"hint": failure.hint} if failure.hint else {}
        log.warning("request failed", **fields, problem=failure.slug, **hint)
