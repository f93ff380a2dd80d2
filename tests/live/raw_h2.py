"""An HTTP/2 client that sends what no gRPC library would."""

import socket
from collections.abc import Sequence
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.settings


class RawRpcs:
    """RPCs over one connection; a context manager.

    Args:
        window: Bytes of answers that the client takes; 0: it reads nothing.
    """

    def __init__(self, port: int, window: int = 65_535) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._h2 = h2.connection.H2Connection(config)
        # Given as initial values, or the server would get the default and this side count by another window.
        values = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        self._h2.local_settings = h2.settings.Settings(client=True, initial_values=values)
        self._h2.initiate_connection()
        self._seen: dict[int, list[h2.events.Event]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def begin(self, path: bytes, *metadata: tuple[bytes, bytes]) -> int:
        """Begin an RPC; returns its stream."""
        stream = self._h2.get_next_available_stream_id()
        head: Sequence[tuple[bytes, bytes]] = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"x"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *metadata,
        ]
        self._h2.send_headers(stream, head)
        self._flush()
        return stream

    def send(self, stream: int, data: bytes, *, is_last: bool = False) -> None:
        """Send bytes of a stream as the server gives room for them."""
        while data:
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if not room:
                self._receive()
                continue
            part, data = data[:room], data[room:]
            self._h2.send_data(stream, part, end_stream=is_last and not data)
            self._flush()

    def headers(self, stream: int) -> list[dict[bytes, bytes]]:
        """The blocks of headers that answer an RPC, once it has ended: one of Trailers-Only, two of others."""
        ends = h2.events.StreamEnded, h2.events.StreamReset
        while not any(isinstance(event, ends) for event in self._seen.get(stream, ())):
            self._receive()
        blocks = h2.events.ResponseReceived, h2.events.TrailersReceived
        return [dict(event.headers or ()) for event in self._seen[stream] if isinstance(event, blocks)]

    def status(self, stream: int) -> int:
        """The gRPC status of an RPC, once it has ended."""
        return int(self.headers(stream)[-1][b"grpc-status"])

    def wait_for_message(self, stream: int) -> None:
        """Wait until something of an RPC's first message has come."""
        while not any(isinstance(event, h2.events.DataReceived) for event in self._seen.get(stream, ())):
            self._receive()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _receive(self) -> None:
        received = self._socket.recv(65_536)
        if not received:
            raise ConnectionError("the server closed the connection")
        for event in self._h2.receive_data(received):
            if getattr(event, "stream_id", None):
                self._seen.setdefault(event.stream_id, []).append(event)  # type: ignore[attr-defined]
        self._flush()


def frame(message: bytes) -> bytes:
    """A message of gRPC, uncompressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message
