"""Limits of a connection over HTTP/2. Those that take minutes are replaced in the table that the server is given."""

import json
import socket
import time

import h2.config
import h2.connection
import h2.events
import h2.settings

from src.main import MAX_STREAMS
from testing.service import COMMANDS, Service

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"a" * 8
PING_TYPE, GOAWAY_TYPE = 6, 7
SECONDS = 20.0  # far below the real limits, far above the replaced ones


def with_limits(limits: dict[str, int]) -> Service:
    command = [part.replace("src.asgi", "tests.live.quick_grpc_limits") for part in COMMANDS["uvicorn"]]
    return Service(command, GRPC_LIMITS=json.dumps(limits))


def goaway_after(port: int, sent: bytes) -> tuple[bytes, set[int]]:
    """Return the debug data of the GOAWAY that a client gets which answers nothing, and the types of all frames."""
    kinds = set()
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client, client.makefile("rb") as stream:
        client.sendall(sent)
        began = time.monotonic()
        while True:
            head = stream.read(9)
            payload = stream.read(int.from_bytes(head[:3], "big"))
            assert time.monotonic() - began < SECONDS
            kinds.add(head[3])
            if head[3] == GOAWAY_TYPE:
                return payload[8:], kinds


def test_a_client_that_answers_no_ping_is_disconnected() -> None:
    with with_limits({"grpc.keepalive_time_ms": 300, "grpc.http2.ping_timeout_ms": 300}) as service:
        reason, kinds = goaway_after(service.grpc_port, PREFACE)
    assert reason == b"ping_timeout"
    assert PING_TYPE in kinds


def test_a_connection_that_is_old_enough_is_told_to_go() -> None:
    with with_limits({"grpc.max_connection_age_ms": 500}) as service:
        reason, _ = goaway_after(service.grpc_port, PREFACE)
    assert reason == b"max_age"


def test_a_client_that_pings_too_often_is_disconnected() -> None:
    with Service() as service:
        reason, _ = goaway_after(service.grpc_port, PREFACE + PING * 10)
    assert reason == b"too_many_pings"


def test_the_rest_port_names_its_maximum_of_streams() -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    streams = None
    with Service(HTTP2="true") as service, socket.create_connection(("127.0.0.1", service.port), SECONDS) as client:
        client.sendall(connection.data_to_send())
        while streams is None:
            for event in connection.receive_data(client.recv(65_536)):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    streams = event.changed_settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS].new_value
    assert streams == MAX_STREAMS
