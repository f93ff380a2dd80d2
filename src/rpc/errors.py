"""Map failures to gRPC statuses with `google.rpc` details (AIP-193)."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from pydantic import ValidationError

from src.errors import InvalidInput, as_service_error, public_validation_errors
from src.logs.failures import log_failure

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class RpcRefused(Exception):
    """A refusal specific to gRPC: an unknown RPC or health service.

    Args:
        code: A name from `google.rpc.Code`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def to_grpc_status(error: Exception, operation: str, request_id: str) -> status_pb2.Status:
    """Return the `google.rpc.Status`, with details, of a failed RPC. Logs it if it is not the client's fault."""
    if isinstance(error, RpcRefused):
        return _status(error.code, error.message, request_id)
    if isinstance(error, DecodeError):
        return _status("INVALID_ARGUMENT", "Malformed message", request_id)
    if isinstance(error, ValidationError):
        violations = [
            (".".join(str(part) for part in e["loc"]), e["msg"])
            for e in public_validation_errors(error.errors(include_url=False))
        ]
        return _status("INVALID_ARGUMENT", "Invalid input", request_id, violations)
    failure = as_service_error(error)
    log_failure(failure, operation)
    if isinstance(failure, InvalidInput):
        return _status(failure.grpc_code, failure.title, request_id, [(failure.field, failure.message)])
    return _status(failure.grpc_code, failure.detail, request_id, retry_after=failure.retry_after)


def _status(
    code: str,
    message: str,
    request_id: str,
    violations: list[tuple[str, str]] | None = None,
    retry_after: float | None = None,
) -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.Code.Value(code), message=message)
    status.details.add().Pack(error_details_pb2.RequestInfo(request_id=request_id))
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


async def abort(context: Context, status: status_pb2.Status, trailers: Sequence[tuple[str, str | bytes]]) -> NoReturn:
    """End the RPC with this status. Raises grpc.aio.AbortError, which must reach grpc."""
    details = ("grpc-status-details-bin", status.SerializeToString())
    code = grpc.StatusCode[code_pb2.Code.Name(status.code)]
    await context.abort(code, status.message, (*trailers, details))
    raise AssertionError("abort raises")
