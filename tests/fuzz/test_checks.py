"""The fuzzer sees what it is there to see."""

import http.server
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

import grpc
import pytest

from tests.fuzz import checks
from tests.fuzz.checks import CANARY, HARDENING, STATUSES, check_answer, check_rpc
from tests.fuzz.probe import StallProbe
from tests.fuzz.wire import Answer

GOOD = [*((name, "x") for name in HARDENING), ("x-request-id", "1")]


@pytest.fixture(autouse=True)
def _uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "seen", Counter())


def test_a_good_answer_passes() -> None:
    check_answer(Answer(200, GOOD, b"{}"))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(500, GOOD, b"{}"), id="a bug"),
        pytest.param(Answer(502, GOOD, b"{}"), id="a failure of a model that does not fail"),
        pytest.param(Answer(499, GOOD, b"{}"), id="a status of no table"),
        pytest.param(Answer(200, GOOD[1:], b"{}"), id="a header is missing"),
        pytest.param(Answer(200, [*GOOD, GOOD[0]], b"{}"), id="a header twice"),
        pytest.param(Answer(200, GOOD[:-1], b"{}"), id="no id"),
        pytest.param(Answer(200, [*GOOD, ("server", "granian")], b"{}"), id="the server's name"),
        pytest.param(Answer(422, GOOD, CANARY.encode()), id="an echo of the input"),
        pytest.param(Answer(422, GOOD, b"Traceback"), id="a traceback"),
    ],
)
def test_an_answer_that_is_wrong_in_one_way_fails(answer: Answer) -> None:
    with pytest.raises(AssertionError):
        check_answer(answer)


def test_what_a_server_refuses_by_itself_needs_no_headers_but_a_status_of_that_kind() -> None:
    check_answer(Answer(400, [], b""), is_request=False)
    with pytest.raises(AssertionError):
        check_answer(Answer(499, [], b""), is_request=False)


@pytest.mark.parametrize(
    ("code", "details", "ids"),
    [
        pytest.param(grpc.StatusCode.INTERNAL, "", ["1"], id="a bug"),
        pytest.param(grpc.StatusCode.UNKNOWN, "", ["1"], id="an exception"),
        pytest.param(grpc.StatusCode.OK, "", [], id="no id"),
        pytest.param(grpc.StatusCode.OK, "", ["1", "2"], id="two ids"),
        pytest.param(grpc.StatusCode.INVALID_ARGUMENT, CANARY, ["1"], id="an echo of the input"),
    ],
)
def test_an_rpc_that_ends_wrong_in_one_way_fails(code: grpc.StatusCode, details: str, ids: list[str]) -> None:
    check_rpc(grpc.StatusCode.OK, "", ["1"])
    with pytest.raises(AssertionError):
        check_rpc(code, details, ids)


def test_every_status_of_the_table_but_those_of_faults_may_come() -> None:
    assert {200, 404, 413, 415, 422, 429, 503, 504} <= STATUSES
    assert STATUSES.isdisjoint({499, 500, 502})


class _Server(http.server.BaseHTTPRequestHandler):
    held_up: ClassVar[threading.Event] = threading.Event()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.held_up.is_set():
            self.held_up.clear()
            time.sleep(0.5)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_the_probe_sees_an_event_loop_that_is_held_up(port: int) -> None:
    with StallProbe(port, os.getpid()) as probe:
        probe.worst()
        probe.settle()
        assert probe.worst() < 0.25
        _Server.held_up.set()
        probe.settle()
        assert 0.4 < probe.worst() < 5
