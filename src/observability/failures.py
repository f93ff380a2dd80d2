"""How a failed request appears in the log, whichever protocol it came by."""

import structlog

from src.errors import ServiceError

log = structlog.get_logger(__name__)


def log_failure(failure: ServiceError, operation: str) -> None:
    """Log a bug of ours with its traceback, an expected failure as one line."""
    if failure.is_bug:
        log.error("bug", operation=operation, exc_info=failure)
    else:
        log.warning("request failed", operation=operation, problem=failure.slug)
