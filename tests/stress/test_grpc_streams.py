"""Hundreds of RPCs that cost a client nothing, of every kind: the service's memory stays flat, and they end in time."""

import json
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from grpc_health.v1 import health_pb2

from benchmarks.load import megabytes
from testing.service import COMMANDS, Service
from testing.small_service import pb
from tests.live.raw_h2 import RawRpcs, frame

CONNECTIONS, STREAMS = 3, 100
SECONDS = 3  # REQUEST_TIMEOUT
MEGABYTES = 25  # by which the memory may grow after the second flood, beside what the allocator keeps
CHECK, WATCH = b"/grpc.health.v1.Health/Check", b"/grpc.health.v1.Health/Watch"
LONG_NAME = health_pb2.HealthCheckRequest(service="a" * 1_000_000).SerializeToString()
LONG_STORY = pb.StoryRequest(topic="long " * 200).SerializeToString()


@dataclass(frozen=True)
class Kind:
    """One kind of RPC.

    Attributes:
        sent: Bytes of the request; empty: nothing is sent after the headers.
        window: Bytes of the answer that the client takes.
        codes: With which they end.
        stay: How many stay open.
        floods: How many; more where a leak has to exceed what the allocator keeps of large messages.
    """

    method: bytes
    codes: frozenset[str]
    sent: bytes = b""
    window: int = 65_535
    stay: int = 0
    floods: int = 3


def kind(method: bytes, *codes: str, **options: object) -> Kind:
    return Kind(method, frozenset(codes), **options)  # type: ignore[arg-type]


SERVICE = b"/genkit.sample.v1.GenkitService/"
KINDS = [
    pytest.param(kind(b"/no.Such/Thing", "UNIMPLEMENTED"), id="unknown"),
    pytest.param(kind(SERVICE + b"Health", "OK"), id="Health"),
    pytest.param(kind(b"/grpc.health.v1.Health/List", "OK"), id="List"),
    pytest.param(kind(CHECK, "DEADLINE_EXCEEDED"), id="Check without a message"),
    pytest.param(kind(WATCH, "DEADLINE_EXCEEDED"), id="Watch without a message"),
    pytest.param(kind(SERVICE + b"PirateChat", "DEADLINE_EXCEEDED"), id="PirateChat without a message"),
    pytest.param(kind(SERVICE + b"TellStory", "DEADLINE_EXCEEDED"), id="TellStory without a message"),
    pytest.param(kind(WATCH, "UNAVAILABLE", sent=frame(b""), stay=4), id="Watch"),
    pytest.param(kind(WATCH, "OK", sent=frame(b"\x0a\x03abc")), id="Watch of unknown services"),
    pytest.param(kind(WATCH, "RESOURCE_EXHAUSTED", sent=frame(LONG_NAME), floods=8), id="Watch of long names"),
    pytest.param(kind(CHECK, "RESOURCE_EXHAUSTED", sent=frame(LONG_NAME), floods=8), id="Check of long names"),
    pytest.param(
        kind(SERVICE + b"TellStory", "OK", "DEADLINE_EXCEEDED", "UNAVAILABLE", sent=frame(LONG_STORY), window=0),
        id="unread streams",
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_rpcs_leave_the_memory_flat_and_end(server: str, kind: Kind) -> None:
    workers = 2 if "2 workers" in server else 1
    with Service(COMMANDS[server], REQUEST_TIMEOUT=str(SECONDS), LOG_LEVEL="debug") as service, ExitStack() as open_:
        sizes = []
        for number in range(kind.floods):
            flood = f"flood-{number}"
            for connection in range(CONNECTIONS):
                rpcs = open_.enter_context(RawRpcs(service.grpc_port, kind.window))
                begin(rpcs, kind, f"{flood}-{connection}")
            codes = wait_for_ends(service, flood, CONNECTIONS * STREAMS - kind.stay * workers)
            assert codes.keys() <= kind.codes
            sizes.append(megabytes(service))
        flood_megabytes = CONNECTIONS * STREAMS * len(kind.sent) / 1e6
        assert sizes[-1] - sizes[1] < MEGABYTES + 2 * flood_megabytes, sizes
        assert service.stub.Health(pb.HealthRequest(), timeout=5).status == "ok"


def begin(rpcs: RawRpcs, kind: Kind, name: str) -> None:
    """Begin as many RPCs as a connection may have."""
    for number in range(STREAMS):
        stream = rpcs.begin(kind.method, (b"x-request-id", f"{name}-{number}".encode()))
        if kind.sent:
            rpcs.send(stream, kind.sent, is_last=True)


def wait_for_ends(service: Service, name: str, least: int) -> Counter[str]:
    """The codes of the RPCs of a flood that have ended, once these are as many as there have to be."""
    deadline = time.monotonic() + SECONDS + 15
    while True:
        lines = [json.loads(line) for line in service.output().splitlines() if f'"{name}-' in line and line[:1] == "{"]
        codes = Counter(line["code"] for line in lines if line.get("event") == "rpc")
        if codes.total() >= least:
            return codes
        assert time.monotonic() < deadline, f"only {codes} of {least} have ended"
        time.sleep(0.1)
