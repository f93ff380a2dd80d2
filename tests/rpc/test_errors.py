"""Every failure has one gRPC status, with the request's id and without an exception's words."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from pydantic import BaseModel, Field, ValidationError

from src.errors import InvalidInput, RateLimited, ServiceError
from src.rpc.errors import RpcRefused, to_grpc_status

WORDS = "what-a-caller-wrote"


def failures(base: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield base
    for child in base.__subclasses__():
        yield from failures(child)


def detail(status: status_pb2.Status, kind: Any) -> Any:
    """Return the status' one detail of this kind, or None."""
    found = [kind() for _ in status.details]
    unpacked = [message for message, any_ in zip(found, status.details, strict=True) if any_.Unpack(message)]
    assert len(unpacked) <= 1
    return unpacked[0] if unpacked else None


def made(failure: type[ServiceError]) -> ServiceError:
    """Return the failure without its constructor, which wants other values in each class."""
    error = failure.__new__(failure)
    ServiceError.__init__(error, retry_after=2.5)
    if isinstance(error, InvalidInput):
        error.field, error.message = "name", "is wrong"
    return error


@pytest.mark.parametrize("failure", list(failures(ServiceError)))
def test_a_failure_of_the_table_has_its_code_and_names_the_request(failure: type[ServiceError]) -> None:
    status = to_grpc_status(made(failure), "chat", "r-1")
    assert code_pb2.Code.Name(status.code) == failure.grpc_code
    assert detail(status, error_details_pb2.RequestInfo).request_id == "r-1"


def test_a_failure_that_passes_says_when_to_come_again() -> None:
    retry = detail(to_grpc_status(RateLimited(2.5), "chat", "r-1"), error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 2.5
    assert detail(to_grpc_status(LookupError(), "chat", "r-1"), error_details_pb2.RetryInfo) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [(LookupError(WORDS), "INTERNAL"), (DecodeError(WORDS), "INVALID_ARGUMENT")],
    ids=["bug", "message"],
)
def test_an_exceptions_words_stay_here(error: Exception, code: str) -> None:
    status = to_grpc_status(error, "chat", "r-1")
    assert code_pb2.Code.Name(status.code) == code
    assert WORDS.encode() not in status.SerializeToString()


def test_a_refusal_of_grpc_alone_keeps_its_code_and_message() -> None:
    status = to_grpc_status(RpcRefused("NOT_FOUND", "Unknown service"), "unknown", "r-1")
    assert (code_pb2.Code.Name(status.code), status.message) == ("NOT_FOUND", "Unknown service")


def test_each_broken_limit_is_named_without_the_input() -> None:
    class Input(BaseModel):
        name: str = Field(max_length=3)
        count: int

    with pytest.raises(ValidationError) as caught:
        Input.model_validate({"name": WORDS, "count": WORDS})
    status = to_grpc_status(caught.value, "chat", "r-1")
    violations = detail(status, error_details_pb2.BadRequest).field_violations
    assert [violation.field for violation in violations] == ["name", "count"]
    assert WORDS.encode() not in status.SerializeToString()


def test_a_limit_that_only_the_flow_can_check_names_its_field() -> None:
    status = to_grpc_status(InvalidInput("image_url", "is not a valid URL"), "chat", "r-1")
    [violation] = detail(status, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == ("image_url", "is not a valid URL")
