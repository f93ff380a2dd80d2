"""Failures as gRPC statuses with `google.rpc` details (AIP-193)."""

from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from pydantic import ValidationError

from src.errors import InvalidInput, TimedOut, as_service_error, public_validation_errors
from src.observability.failures import log_failure
from src.util.deadlines import Deadlines

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(slots=True)
class Rpc:
    """What is known of an RPC while it runs: its id, its client, and the bytes of the messages sent to it."""

    request_id: str = ""
    client: str = ""
    sent_bytes: int = 0


_current_rpc: ContextVar[Rpc] = ContextVar("current_rpc")


def begin_rpc(rpc: Rpc) -> None:
    """Make it the RPC of this task, which handles no other: there is nothing to reset."""
    _current_rpc.set(rpc)


def current_rpc() -> Rpc:
    """The RPC that this task handles; without the logging interceptor it has no id."""
    return _current_rpc.get(None) or Rpc()


class FailuresAsStatus(AbstractAsyncContextManager[None]):
    """Ends the RPC with the table's status for whatever its handler raises, and when its time is up.

    grpc.aio tells the client the text of any exception, so none may get past this. The client's own deadline, where
    it is sooner, cancels the handler.
    """

    def __init__(self, operation: str, context: Context, deadlines: Deadlines) -> None:
        self._operation = operation
        self._context = context
        self._deadline = deadlines.begin()

    async def __aenter__(self) -> None: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._deadline.__exit__(kind, error, traceback)
        except TimeoutError:
            await abort(self._context, status_of(TimedOut(), self._operation))
        if isinstance(error, Exception):
            await abort(self._context, status_of(error, self._operation))


def status_of(error: Exception, operation: str) -> status_pb2.Status:
    """The `google.rpc.Status`, details included, that tells a client of `error`. Logs what is not its fault."""
    if isinstance(error, DecodeError):
        return _status("INVALID_ARGUMENT", "Malformed message", [])
    if isinstance(error, ValidationError):
        violations = [
            (".".join(str(part) for part in e["loc"]), e["msg"])
            for e in public_validation_errors(error.errors(include_url=False))
        ]
        return _status("INVALID_ARGUMENT", "Invalid input", violations)
    failure = as_service_error(error)
    log_failure(failure, operation)
    if isinstance(failure, InvalidInput):
        return _status(failure.grpc_code, failure.title, [(failure.field, failure.message)])
    return _status(failure.grpc_code, failure.detail, [], failure.retry_after)


def _status(
    code: str, message: str, violations: list[tuple[str, str]], retry_after: float | None = None
) -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.Code.Value(code), message=message)
    status.details.add().Pack(error_details_pb2.RequestInfo(request_id=current_rpc().request_id))
    if retry_after is not None:
        retry_info = error_details_pb2.RetryInfo()
        retry_info.retry_delay.FromTimedelta(timedelta(seconds=retry_after))
        status.details.add().Pack(retry_info)
    if violations:
        bad_request = error_details_pb2.BadRequest()
        for field, description in violations:
            bad_request.field_violations.add(field=field, description=description)
        status.details.add().Pack(bad_request)
    return status


async def abort(context: Context, status: status_pb2.Status) -> NoReturn:
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    code = grpc.StatusCode[code_pb2.Code.Name(status.code)]
    await context.abort(code, status.message, details)
    raise AssertionError("abort raises")
