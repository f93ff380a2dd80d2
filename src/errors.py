"""The one table of failures, with the response of each protocol.

Every failure that a caller can get is a `ServiceError`. Adapters never choose a status themselves: the class has the
`http_status` (RFC 9110) and the `grpc_code` (a name from `google.rpc.Code`).
"""

import math
from typing import Any, ClassVar

from pydantic_core import ErrorDetails


class ServiceError(Exception):
    """A failure with a fixed, public message. The base class itself stands for a bug: 500 / INTERNAL.

    `detail` is sent to the caller. It never contains a class name, a path, an address or a provider's message.
    """

    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"
    default_detail: ClassVar[str] = "The service failed to answer this request."
    is_refusal: ClassVar[bool] = False  # refused before any work was done
    concerns_one_caller: ClassVar[bool] = False  # an equal request of another caller would not fail
    hint: ClassVar[str] = ""  # for the operator, logged

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None) -> None:
        self.detail = detail or self.default_detail
        self.retry_after = retry_after  # seconds
        super().__init__(self.detail)

    def headers(self) -> dict[str, str]:
        """Return the response's headers: `Retry-After` in whole seconds, rounded up, never 0 (RFC 9110, 10.2.3)."""
        if self.retry_after is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after)))}

    @property
    def is_bug(self) -> bool:
        """True for an unexpected failure, which is logged with a traceback and reported."""
        return type(self) is ServiceError

    def problem(self, request_id: str) -> dict[str, Any]:
        """Return the body of an `application/problem+json` response (RFC 9457)."""
        return {
            "type": f"urn:problem:{self.slug}",
            "title": self.title,
            "status": self.http_status,
            "detail": self.detail,
            "request_id": request_id,
        }


class InvalidInput(ServiceError):
    """One field of the input exceeds a limit that only the flow can check."""

    slug = "invalid-input"
    title = "Invalid input"
    http_status = 422
    grpc_code = "INVALID_ARGUMENT"
    is_refusal = True

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def as_validation_errors(self) -> list[dict[str, Any]]:
        """Return the failure in the format of FastAPI's 422."""
        return [{"type": "value_error", "loc": ["body", self.field], "msg": self.message}]


class PayloadTooLarge(ServiceError):
    """The body or the message exceeds the limit."""

    slug = "payload-too-large"
    title = "Payload too large"
    http_status = 413
    grpc_code = "RESOURCE_EXHAUSTED"
    default_detail = "The request is larger than allowed."
    is_refusal = True


class RateLimited(ServiceError):
    """The client exceeds its rate limit."""

    slug = "rate-limited"
    title = "Too many requests"
    http_status = 429
    grpc_code = "RESOURCE_EXHAUSTED"
    default_detail = "Rate limit exceeded."
    is_refusal = True

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after=retry_after)


class ModelFailed(ServiceError):
    """The LLM could not be reached, returned an error, or violated the output schema."""

    slug = "model-failed"
    title = "Model failed"
    http_status = 502
    grpc_code = "UNAVAILABLE"
    default_detail = "The language model failed to give a usable answer."
    by_content: ClassVar[bool] = False  # True if a caller's content can cause it while the LLM works for others

    def __init__(self, *, upstream_wait: float = 0.0) -> None:
        """`upstream_wait`: seconds that the provider asks to wait."""
        super().__init__()
        self.upstream_wait = upstream_wait


class AnswerUnusable(ModelFailed):
    """The LLM's response is empty, cut off, unreadable, or violates the schema."""

    by_content = True


class RequestRejected(ModelFailed):
    """The provider rejected this request as invalid. The LLM itself works."""

    by_content = True


class CircuitOpen(ServiceError):
    """The LLM failed too often, so calls to it are suspended."""

    slug = "circuit-open"
    title = "Model unavailable"
    http_status = 503
    grpc_code = "UNAVAILABLE"
    default_detail = "The language model is failing; calls to it are suspended."

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after=retry_after)


class Overloaded(ServiceError):
    """The maximum of concurrent calls runs, and the queue is full."""

    slug = "overloaded"
    title = "Overloaded"
    http_status = 503
    grpc_code = "UNAVAILABLE"
    default_detail = "Too many concurrent calls."

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after=retry_after)


class ShareExceeded(Overloaded):
    """The client has its maximum share of a pool."""

    default_detail = "Too many concurrent calls of this client."
    concerns_one_caller = True
    hint = "if one proxy or one backend sends all requests, raise LLM_MAX_PER_CLIENT"


class ContentBlocked(ServiceError):
    """The LLM refused the content, or a safety filter blocked it."""

    slug = "content-blocked"
    title = "Content blocked"
    http_status = 422
    grpc_code = "FAILED_PRECONDITION"
    default_detail = "The language model refused to answer this content."


class TimedOut(ServiceError):
    """The LLM or the whole request exceeded its time limit."""

    slug = "timeout"
    title = "Timed out"
    http_status = 504
    grpc_code = "DEADLINE_EXCEEDED"
    default_detail = "The answer took longer than allowed."
    by_content: ClassVar[bool] = True


class UpstreamTimedOut(TimedOut):
    """The provider waited too long for the request (408). Content can't cause that, unlike the provider's 504."""

    by_content = False


class ShuttingDown(ServiceError):
    """The process is shutting down; another instance can answer."""

    slug = "shutting-down"
    title = "Shutting down"
    http_status = 503
    grpc_code = "UNAVAILABLE"
    default_detail = "The service is shutting down."


def as_service_error(error: BaseException) -> ServiceError:
    """Map an exception to a failure of the table. An unknown exception is a bug.

    Genkit wraps the exceptions of flows in `GenkitError`, so the chain of causes is searched.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ServiceError):
            return cause
        cause = cause.__cause__
    bug = ServiceError()
    bug.__cause__ = error
    return bug


def public_validation_errors(errors: list[ErrorDetails]) -> list[dict[str, Any]]:
    """Return pydantic's errors without the input itself, URLs and exception objects."""
    return [{"type": e["type"], "loc": list(e["loc"]), "msg": e["msg"]} for e in errors]
