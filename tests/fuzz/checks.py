"""Properties of every answer, whatever was sent."""

from collections import Counter
from collections.abc import Iterator, Sequence
from http import HTTPStatus

import grpc

from src.errors import ServiceError
from src.security import HeaderPolicy
from src.util.client_address import TrustedProxies
from tests.fuzz.wire import Answer

# Part of what callers send: it has no place in the log, or in an answer that refuses. The tilde keeps it out of request
# ids, which are logged.
CANARY = "CANARY~BIRD"

# What frameworks answer to requests that reach no operation.
ROUTING = {400, 404, 405, 415}
# What servers answer by themselves to bytes that are no request they can hand on.
NO_REQUEST = {400, 408, 414, 417, 431, 501, 505}
# The model never fails here, so neither may a call of it.
NEVER = {500, 502}
REVEALING = (b"Traceback", b'File "', b".py", b"Exception", CANARY.encode())


# How often each status has come, by protocol.
seen: Counter[str] = Counter()


def failures(base: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """The table's rows."""
    yield base
    for kind in base.__subclasses__():
        yield from failures(kind)


STATUSES = ({200} | ROUTING | {kind.http_status for kind in failures()}) - NEVER
CODES = ({"OK", "UNIMPLEMENTED"} | {kind.grpc_code for kind in failures()}) - {"INTERNAL"}
HARDENING = frozenset(
    name.decode() for name, _ in HeaderPolicy(TrustedProxies(), debug=False).apply({"type": "http"}, ())
) - {"server"}


def check_answer(answer: Answer, *, is_request: bool = True) -> None:
    """Raises AssertionError where the answer is none that the service may give.

    Args:
        is_request: Whether what was sent is a request; else the server may have refused it by itself.
    """
    seen[f"REST {answer.status}"] += 1
    if not is_request and answer.status in NO_REQUEST and not answer.all("x-request-id"):
        assert not answer.body.strip() or len(answer.body) < 100
        return
    assert answer.status in STATUSES, f"{answer.status} is no status of the table: {answer}"
    for name in sorted(HARDENING | {"x-request-id"}):
        assert len(answer.all(name)) == 1, f"{name}: {answer.all(name)} in {answer}"
    assert answer.all("server") in ([], ["-"])
    if answer.status != HTTPStatus.OK:
        assert not [word for word in REVEALING if word in answer.body], f"reveals too much: {answer}"


def check_rpc(code: grpc.StatusCode, details: str, request_ids: Sequence[str]) -> None:
    """The same for an RPC's end.

    Args:
        request_ids: All values of x-request-id in initial and trailing metadata.
    """
    seen[f"gRPC {code.name}"] += 1
    assert code.name in CODES, f"{code.name} is no status of the table: {details!r}"
    assert len(set(request_ids)) == 1, f"{code.name} {details!r}: request ids {request_ids}"
    assert not [word for word in REVEALING if word in details.encode()], f"reveals too much: {details!r}"
