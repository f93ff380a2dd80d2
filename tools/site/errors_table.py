"""The table of failures, from `src.errors`."""

import inspect
from collections.abc import Iterator

from src.errors import ServiceError
from tools.site.docstrings import summary
from tools.site.markdown_table import code, table


def errors_table() -> str:
    """Return a table with a row per failure: its cause and the response of each protocol."""
    head = ("Failure", "REST", "gRPC", "`type` over REST")
    return table(head, (_row(kind) for kind in failures()))


def failures(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """Yield all failures that callers can tell apart, ending with the bug."""
    for narrower in kind.__subclasses__():
        yield from failures(narrower)
    if "slug" in vars(kind):
        yield kind


def _row(kind: type[ServiceError]) -> tuple[str, ...]:
    what = "Internal error" if kind is ServiceError else summary(kind)
    waits = inspect.signature(kind).parameters.get("retry_after")
    is_told_when = waits is not None and waits.default is inspect.Parameter.empty
    status, wait = (", `Retry-After`", ", RetryInfo") if is_told_when else ("", "")
    return (
        what,
        f"{kind.http_status} {kind.title}{status}",
        code(kind.grpc_code) + wait,
        code(f"urn:problem:{kind.slug}"),
    )
