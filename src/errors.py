"""The one table of failures: what happened, and what each protocol says of it.

Every failure a caller may meet is a `ServiceError`. Adapters never choose a status themselves, they ask the
class: `http_status` (RFC 9110) and `grpc_code` (a name from `google.rpc.Code`).
"""

import math
from typing import Any, ClassVar

from pydantic_core import ErrorDetails


class ServiceError(Exception):
    """A failure with a fixed, public wording. As such it stands for a bug of ours: 500 / INTERNAL.

    `detail` is sent to the caller: it never names a class, a path, an address or an upstream's own words.
    """

    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"
    default_detail: ClassVar[str] = "The service failed to answer this request."
    is_refusal: ClassVar[bool] = False  # before any work was done for it
    concerns_one_caller: ClassVar[bool] = False  # others who ask the same would not have met it
    hint: ClassVar[str] = ""  # for the operator, in the log

    def __init__(self, detail: str | None = None, *, retry_after: float | None = None) -> None:
        self.detail = detail or self.default_detail
        self.retry_after = retry_after  # seconds
        super().__init__(self.detail)

    def headers(self) -> dict[str, str]:
        """The HTTP headers that go with it: `Retry-After` in whole seconds, rounded up, never 0 (RFC 9110, 10.2.3)."""
        if self.retry_after is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after)))}

    @property
    def is_bug(self) -> bool:
        """True for a failure that is not expected: it is logged with a traceback and reported."""
        return type(self) is ServiceError

    def problem(self, request_id: str) -> dict[str, Any]:
        """The body of an `application/problem+json` answer (RFC 9457)."""
        return {
            "type": f"urn:problem:{self.slug}",
            "title": self.title,
            "status": self.http_status,
            "detail": self.detail,
            "request_id": request_id,
        }


class InvalidInput(ServiceError):
    """One field of the caller's input breaks a limit that only the flow can check."""

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
        """The same in the shape of FastAPI's own 422."""
        return [{"type": "value_error", "loc": ["body", self.field], "msg": self.message}]


class PayloadTooLarge(ServiceError):
    """The body, or the message, is over the limit."""

    slug = "payload-too-large"
    title = "Payload too large"
    http_status = 413
    grpc_code = "RESOURCE_EXHAUSTED"
    default_detail = "The request is larger than allowed."
    is_refusal = True


class RateLimited(ServiceError):
    """The client asks more often than its limit allows."""

    slug = "rate-limited"
    title = "Too many requests"
    http_status = 429
    grpc_code = "RESOURCE_EXHAUSTED"
    default_detail = "Rate limit exceeded."
    is_refusal = True

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after=retry_after)


class ModelFailed(ServiceError):
    """The LLM could not be reached, answered with an error, or broke the answer's schema."""

    slug = "model-failed"
    title = "Model failed"
    http_status = 502
    grpc_code = "UNAVAILABLE"
    default_detail = "The language model failed to give a usable answer."
    by_content: ClassVar[bool] = False  # whether what a caller sends can cause it, while the LLM works for others

    def __init__(self, *, upstream_wait: float = 0.0) -> None:
        """`upstream_wait`: seconds that the provider asked to be left alone."""
        super().__init__()
        self.upstream_wait = upstream_wait


class AnswerUnusable(ModelFailed):
    """The LLM's answer is empty, cut off, unreadable, or breaks its schema."""

    by_content = True


class RequestRejected(ModelFailed):
    """The provider refused this one request as invalid: nothing is wrong with the LLM itself."""

    by_content = True


class CircuitOpen(ServiceError):
    """The LLM failed too often: it is left alone for a while."""

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
    """This client already has its share of a shared pool."""

    default_detail = "Too many concurrent calls of this client."
    concerns_one_caller = True
    hint = "behind one proxy, or for one backend, set LLM_MAX_PER_CLIENT"


class ContentBlocked(ServiceError):
    """The LLM refused the content, or a safety filter blocked it."""

    slug = "content-blocked"
    title = "Content blocked"
    http_status = 422
    grpc_code = "FAILED_PRECONDITION"
    default_detail = "The language model refused to answer this content."


class TimedOut(ServiceError):
    """The LLM, or the request as a whole, took longer than its limit."""

    slug = "timeout"
    title = "Timed out"
    http_status = 504
    grpc_code = "DEADLINE_EXCEEDED"
    default_detail = "The answer took longer than allowed."
    by_content: ClassVar[bool] = True


class UpstreamTimedOut(TimedOut):
    """The provider waited too long for the request (408), which no content causes; its own timeout is TimedOut."""

    by_content = False


class ShuttingDown(ServiceError):
    """The process is going away: another instance will answer."""

    slug = "shutting-down"
    title = "Shutting down"
    http_status = 503
    grpc_code = "UNAVAILABLE"
    default_detail = "The service is shutting down."


def as_service_error(error: BaseException) -> ServiceError:
    """The table's entry for any exception; anything unknown is a bug of ours.

    Genkit wraps what a flow raises (`GenkitError` with the original as its cause), so the chain of causes is
    searched.
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
    """Pydantic's findings without what must not be echoed: the input itself, URLs and exception objects."""
    return [{"type": e["type"], "loc": list(e["loc"]), "msg": e["msg"]} for e in errors]
