"""Every RPC that the server answers has bounds: those of the rate limit and REQUEST_TIMEOUT, or ones of its own."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from src.rate_limit import MemoryBuckets, RateLimit
from src.rpc.hooks import PROBE_METHODS
from src.rpc.interceptors import RpcInterceptor
from src.rpc.server import GrpcServer
from src.settings_loader import load_settings
from src.util.client_address import TrustedProxies
from testing.ports import free_port
from testing.service import Service
from testing.small_service import in_this_process, pb
from tests.live.raw_h2 import RawRpcs, frame

OK, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE = 0, 4, 5, 8, 12, 14
CHECK, WATCH = b"/grpc.health.v1.Health/Check", b"/grpc.health.v1.Health/Watch"
HEALTH, LIST = b"/genkit.sample.v1.GenkitService/Health", b"/grpc.health.v1.Health/List"
CHAT = b"/genkit.sample.v1.GenkitService/PirateChat"
UNKNOWN = b"/no.Such/Thing"
SECONDS = 0.5
NO_REQUEST: Any = pb.HealthRequest()  # an empty message; that of List has no type stub


def served_methods() -> list[str]:
    """The methods of the server in debug, where it has most."""
    settings = load_settings({"debug": True, "model": "offline/demo", "grpc_port": str(free_port())})
    runner: Any = None

    async def methods() -> frozenset[str]:
        server = GrpcServer(settings, runner, RateLimit(MemoryBuckets(), settings.rate_limit))
        await server.start()  # grpc's core may crash when a server goes that was never started and stopped
        await server.stop(0)
        return server.methods

    with in_this_process():
        return sorted(asyncio.run(methods()))


METHODS = served_methods()
LIMITED = [method.encode() for method in METHODS if method not in PROBE_METHODS] + [UNKNOWN]


@pytest.fixture(scope="module")
def spent() -> Iterator[Service]:
    """A service whose rate limit is used up."""
    with Service(RATE_LIMIT_DEFAULT="1/day", DEBUG="true", LOG_FORMAT="json", LOG_LEVEL="debug") as service:
        service.http.post("/chat", json={})
        yield service


@pytest.fixture(scope="module")
def hasty() -> Iterator[Service]:
    """A service that gives an RPC half a second."""
    with Service(REQUEST_TIMEOUT=str(SECONDS), DEBUG="true", LOG_FORMAT="json", LOG_LEVEL="debug") as service:
        yield service


def logged(service: Service, name: str) -> tuple[bytes, bytes]:
    """Metadata by which the RPC's line is found."""
    return b"x-request-id", name.encode()


def test_exactly_the_health_checks_are_exempt_from_the_rate_limit() -> None:
    assert set(METHODS) >= PROBE_METHODS
    assert {HEALTH.decode(), CHECK.decode(), LIST.decode(), WATCH.decode()} == PROBE_METHODS


@pytest.mark.parametrize("method", LIMITED, ids=bytes.decode)
def test_an_rpc_that_is_not_exempt_is_limited_without_a_message(spent: Service, method: bytes) -> None:
    name = f"limited-{method.decode().replace('/', ':')}"
    with RawRpcs(spent.grpc_port) as rpcs:
        assert rpcs.status(rpcs.begin(method, logged(spent, name))) == RESOURCE_EXHAUSTED
    assert spent.access_line(name)["code"] == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("method", [method.encode() for method in METHODS], ids=str)
def test_an_rpc_whose_message_never_comes_ends_in_time_and_is_logged(hasty: Service, method: bytes) -> None:
    name = f"silent-{method.decode().replace('/', ':')}"
    with RawRpcs(hasty.grpc_port) as rpcs:
        status = rpcs.status(rpcs.begin(method, logged(hasty, name)))
    line = hasty.access_line(name)
    if method in (HEALTH, LIST):  # they need no message
        assert (status, line["code"]) == (OK, "OK")
    else:
        assert (status, line["code"]) == (DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
        assert SECONDS * 1000 <= line["duration_ms"] < SECONDS * 1000 + 1000


def test_a_probe_has_less_time_than_other_rpcs(spent: Service) -> None:
    with RawRpcs(spent.grpc_port) as rpcs:
        streams = [rpcs.begin(method, logged(spent, f"slow-{method.decode()[-5:]}")) for method in (CHECK, WATCH)]
        assert [rpcs.status(stream) for stream in streams] == [DEADLINE_EXCEEDED] * 2
    assert spent.access_line("slow-Check")["duration_ms"] < 7000


@pytest.mark.parametrize("method", [CHECK, WATCH], ids=bytes.decode)
def test_a_probe_with_a_long_name_is_refused(spent: Service, method: bytes) -> None:
    request = health_pb2.HealthCheckRequest(service="a" * 1_000_000).SerializeToString()
    with RawRpcs(spent.grpc_port) as rpcs:
        stream = rpcs.begin(method, logged(spent, f"long-{method.decode()[-5:]}"))
        rpcs.send(stream, frame(request), is_last=True)
        assert rpcs.status(stream) == RESOURCE_EXHAUSTED
    assert spent.access_line(f"long-{method.decode()[-5:]}")["code"] == "RESOURCE_EXHAUSTED"


def test_health_checks_are_answered_however_many_there_are(spent: Service) -> None:
    stub: Any = health_pb2_grpc.HealthStub(spent.channel)
    kinds: list[Callable[[], Any]] = [
        lambda: stub.Check.future(health_pb2.HealthCheckRequest()),
        lambda: stub.List.future(NO_REQUEST),
        lambda: spent.stub.Health.future(pb.HealthRequest()),
    ]
    for _ in range(10):  # a connection has a hundred RPCs at once
        calls = [begin() for begin in kinds for _ in range(25)]
        assert {call.code() for call in calls} == {grpc.StatusCode.OK}


def test_of_too_many_probes_without_a_message_the_oldest_give_way(spent: Service) -> None:
    with RawRpcs(spent.grpc_port) as one, RawRpcs(spent.grpc_port) as another:
        oldest, *_ = [one.begin(CHECK, logged(spent, f"waits-{number}")) for number in range(90)]
        last = one.begin(CHECK)
        one.send(last, frame(b""), is_last=True)
        assert one.status(last) == OK, "those before it have begun too"
        newest = [another.begin(CHECK, logged(spent, f"waits-{number}")) for number in range(90, 120)][-1]
        assert one.status(oldest) == DEADLINE_EXCEEDED
        assert '"waits-60"' not in spent.output(), "it has ended when its time was up"
        another.send(newest, frame(b""), is_last=True)
        assert another.status(newest) == OK


def test_a_list_names_the_services(spent: Service) -> None:
    stub: Any = health_pb2_grpc.HealthStub(spent.channel)
    statuses = stub.List(NO_REQUEST).statuses
    assert {name: status.status for name, status in statuses.items()} == dict.fromkeys(
        ("", "genkit.sample.v1.GenkitService"), health_pb2.HealthCheckResponse.SERVING
    )


def test_a_watch_of_an_unknown_service_learns_so_and_ends(spent: Service) -> None:
    stub: Any = health_pb2_grpc.HealthStub(spent.channel)
    answers = list(stub.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=5))
    assert [answer.status for answer in answers] == [health_pb2.HealthCheckResponse.SERVICE_UNKNOWN]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_client_has_four_watches_on_however_many_connections() -> None:
    with (
        Service(TRUSTED_PROXIES="127.0.0.1", REQUEST_TIMEOUT=str(SECONDS)) as service,
        RawRpcs(service.grpc_port) as one,
        RawRpcs(service.grpc_port) as another,
    ):

        def watch(rpcs: RawRpcs, client: str, name: str) -> int:
            stream = rpcs.begin(WATCH, (b"x-forwarded-for", client.encode()), logged(service, name))
            rpcs.send(stream, frame(b""), is_last=True)
            return stream

        for number in range(4):
            rpcs = (one, another)[number % 2]
            rpcs.wait_for_message(watch(rpcs, f"2001:db8::{number}", f"place-{number}"))
        for rpcs in (one, another):
            assert rpcs.status(watch(rpcs, "2001:db8::9", "fifth")) == UNAVAILABLE
        assert service.access_line("fifth")["code"] == "UNAVAILABLE"
        one.wait_for_message(watch(one, "198.51.100.1", "another-client"))
        time.sleep(SECONDS * 2)  # the time limit of other RPCs is none of a watch's
        assert '"place-' not in service.output(), "a watch ended"


def test_watches_and_rpcs_without_a_message_do_not_hold_up_a_stop() -> None:
    with Service(LOG_LEVEL="debug") as service, RawRpcs(service.grpc_port) as rpcs:
        stub: Any = health_pb2_grpc.HealthStub(service.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), metadata=(("x-request-id", "watch-1"),))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        rpcs.begin(CHAT, logged(service, "silent-1"))
        assert rpcs.status(rpcs.begin(HEALTH)) == OK  # by its end the server knows of the RPC before
        service.terminate()
        assert [answer.status for answer in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
        assert watch.code() == grpc.StatusCode.OK
        assert service.wait(3) == 0
        assert service.access_line("watch-1")["code"] == "OK"
        assert service.access_line("silent-1")["code"] == "UNAVAILABLE"


PATHS = [
    pytest.param(b"/\xff\xfe", id="not UTF-8"),
    pytest.param(b"/\xc3\xa9", id="not ASCII"),
    pytest.param(b"/a\x00b", id="a zero"),
    pytest.param(b"/" + b"a" * 8000, id="long"),
    pytest.param(b"", id="empty"),
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_stops_the_server(hasty: Service, path: bytes) -> None:
    with RawRpcs(hasty.grpc_port) as rpcs:
        assert rpcs.status(rpcs.begin(path)) == UNIMPLEMENTED
    assert hasty.stub.Health(pb.HealthRequest(), timeout=5).status == "ok"


def test_unknown_methods_leave_nothing_behind() -> None:
    """Neither their names nor their number make any table grow: the server's own tables are looked at."""

    async def handlers_after(names: int) -> int:
        interceptor = RpcInterceptor((), timeout=1, proxies=TrustedProxies(), operations={})

        async def find_nothing(_details: Any) -> None:
            return None

        for number in range(names):
            details: Any = type("Details", (), {"method": f"/no/{number}", "invocation_metadata": ()})()
            await interceptor.intercept_service(find_nothing, details)
        return len(interceptor._handlers)

    assert asyncio.run(handlers_after(1000)) == 0
