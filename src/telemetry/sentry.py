"""Report bugs, but no expected failures, to Sentry, without personal data."""

import random
from collections.abc import Callable
from typing import Any, cast

import sentry_sdk
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.integrations.starlette import StarletteIntegration
from sentry_sdk.types import Event, Hint
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import EventDict, WrappedLogger

from src.config import Settings
from src.logs.redaction import HIDDEN, Redactor
from src.logs.setup import configure_structlog
from src.rpc.hooks import UNKNOWN_OPERATION

# Fields of an event that are sent. All others come from a request or the environment of the process.
KEPT = frozenset(
    {
        *("event_id", "timestamp", "start_timestamp", "platform", "level", "type", "transaction", "transaction_info"),
        *("environment", "release", "exception", "tags", "contexts", "spans", "measurements", "sdk", "logger"),
    }
)
MARK = "reported_by"
CONTEXTS_KEPT = frozenset({"trace", "runtime", "os"})
FRAME_KEPT = frozenset({"filename", "abs_path", "function", "module", "lineno", "in_app"})


def start_reporting(settings: Settings, dsn: str) -> None:
    """Start Sentry's SDK, and send it the bugs that are logged."""
    configure_sentry(settings, dsn)
    configure_structlog(report_bug)


def report_bug(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Send a logged bug to Sentry, as a processor of structlog."""
    error = event.get("exc_info")
    if event["level"] in ("error", "critical") and isinstance(error, BaseException):
        names = ("request_id", "operation", "trace_id")
        report(error, **{name: str(event[name]) for name in names if name in event})
    return event


def configure_sentry(settings: Settings, dsn: str) -> None:
    """Start Sentry's SDK, which finds frameworks and gRPC by itself. Does not use the network."""
    redactor = Redactor(settings.secrets)

    def strip(event: Event, _hint: Hint) -> Event:
        return cast(Event, stripped(cast(dict[str, Any], event), redactor))

    def strip_ours(event: Event, hint: Hint) -> Event | None:
        # The other integrations, such as those of LLM SDKs, report expected failures.
        is_ours = cast(dict[str, Any], event).get("tags", {}).get(MARK) == "log"
        return strip(event, hint) if is_ours else None

    sentry_sdk.init(
        dsn=dsn,
        environment=settings.sentry_environment or None,
        traces_sampler=sampler(settings.sentry_traces_sample_rate),
        trace_propagation_targets=[],  # don't send trace ids to the LLM's provider and image hosts
        send_default_pii=False,
        include_local_variables=False,
        include_source_context=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        server_name="",
        before_send=strip_ours,
        before_send_transaction=strip,
        integrations=[
            # Bugs are reported explicitly, where they are logged.
            LoggingIntegration(level=None, event_level=None),
            StarletteIntegration(failed_request_status_codes=set()),
        ],
    )


class StripBaggageMiddleware:
    """Hides the `baggage` header from the SDK, which would report a caller's release as this service's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "headers" in scope:
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"baggage"]
        await self.app(scope, receive, send)


def sampler(rate: float) -> Callable[[object], float]:
    """Sample at random. The SDK would let callers decide, by `sentry-trace` or by a number in `baggage`."""
    return lambda _context: float(random.random() < rate)  # noqa: S311 - no secret


def report(error: BaseException, **tags: str) -> None:
    with sentry_sdk.new_scope() as scope:
        scope.set_tags({**tags, MARK: "log"})
        scope.capture_exception(error)


def stripped(event: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Return the event without headers, body, query, variables, exception messages and known secrets."""
    kept: dict[str, Any] = {name: value for name, value in event.items() if name in KEPT}
    if kept.get("transaction_info", {}).get("source") == "url":  # no route's: the client has chosen it
        kept["transaction"] = UNKNOWN_OPERATION
    contexts = {name: value for name, value in event.get("contexts", {}).items() if name in CONTEXTS_KEPT}
    kept["contexts"] = {**contexts, "trace": _without_data(contexts.get("trace", {}))}
    if "spans" in kept:
        kept["spans"] = [_without_data(span) for span in kept["spans"]]
    for error in kept.get("exception", {}).get("values", []):
        error["value"] = HIDDEN
        frames = (error.get("stacktrace") or {}).get("frames", [])
        frames[:] = [{name: value for name, value in frame.items() if name in FRAME_KEPT} for frame in frames]
        error.get("mechanism", {}).pop("data", None)
    return cast(dict[str, Any], _redacted(kept, redactor))


def _without_data(span: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in span.items() if name not in ("data", "description", "tags")}


def _redacted(value: Any, redactor: Redactor) -> Any:
    if isinstance(value, str):
        return redactor.text(value)
    if isinstance(value, dict):
        return {name: _redacted(item, redactor) for name, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item, redactor) for item in value]
    return value
