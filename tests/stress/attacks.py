"""Attacks by one hostile caller, from an address of its own, until it is stopped.

Each attack is a function of the service's two ports and of the image host's; it runs in a process of its own and never
returns. They hold what is shared, or make others pay; a plain flood is not among them.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import NoReturn

from src.images.fetch import MAX_BYTES
from testing.small_service import SERVICE, pb
from tests.fuzz import wire
from tests.stress.local_images import SILENT

HOSTILE = "127.0.0.2"  # the victim is 127.0.0.1
HANGING, EMPTY, CUT_OFF, ENDLESS = "HOSTILE-HANG", "HOSTILE-EMPTY", "HOSTILE-CUT", "HOSTILE-ENDLESS"
WORKERS = 100
PAUSE_SECONDS = 0.2
ANSWER_SECONDS = 15.0


@dataclass(frozen=True)
class Target:
    """The ports of the service, and of a host of images."""

    rest: int
    grpc: int
    images: int


Attack = Callable[[Target], None]


def connected(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """A connection from the hostile address."""
    client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(ANSWER_SECONDS)
    client.bind((HOSTILE, 0))
    client.connect(("127.0.0.1", port))
    return client


def post(port: int, path: str, body: dict[str, str]) -> None:
    """One request and its answer."""
    headers = [(b"host", b"a"), (b"content-type", b"application/json")]
    with connected(port) as client:
        client.sendall(wire.post(path, json.dumps(body).encode(), headers))
        wire.read_answer(client)


def again_and_again(step: Callable[[int], None], workers: int = WORKERS) -> NoReturn:
    """Run the step, with numbers that never repeat, in so many threads."""

    def work(first: int) -> None:
        for number in range(first, 1_000_000_000, workers):
            with suppress(OSError):
                step(number)
            time.sleep(PAUSE_SECONDS)

    for first in range(workers):
        Thread(target=work, args=(first,), daemon=True).start()
    while True:
        time.sleep(1)


def slow_model(target: Target) -> None:
    """Questions that the model never answers."""
    again_and_again(lambda number: post(target.rest, "/chat", {"question": f"{HANGING} {number}"}))


def slow_model_over_grpc(target: Target) -> None:
    """The same, as RPCs."""

    def step(number: int) -> None:
        message = pb.ChatRequest(question=f"{HANGING} {number}").SerializeToString()
        with connected(target.grpc) as client:
            client.sendall(wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0) + rpc(1, "PirateChat", message))
            time.sleep(ANSWER_SECONDS)

    again_and_again(step)


def empty_answers(target: Target) -> None:
    """Questions that the model answers with nothing."""
    again_and_again(lambda number: post(target.rest, "/chat", {"question": f"{EMPTY} {number}"}), 4)


def cut_off_answers(target: Target) -> None:
    """Texts whose structured answer is cut off."""
    again_and_again(lambda number: post(target.rest, "/translate", {"text": f"{CUT_OFF} {number}"}), 4)


def image_host_of_interim_answers(target: Target) -> None:
    """Images from a host that never gets past 1xx responses."""
    _images(target, "interim")


def image_host_of_tiny_chunks(target: Target) -> None:
    """Images that come byte by byte."""
    _images(target, "tiny")


def _images(target: Target, kind: str) -> None:
    def step(number: int) -> None:
        url = f"http://127.0.0.1:{target.images}/{kind}/{number}"
        post(target.rest, "/describe-image", {"image_url": url})

    again_and_again(step, 32)


def silent_name_server(target: Target) -> None:
    """Images on hosts whose names nobody answers for."""

    def step(number: int) -> None:
        url = f"http://a{number}{SILENT}:{target.images}/"
        post(target.rest, "/describe-image", {"image_url": url})

    again_and_again(step, 32)


def tiny_chunks(target: Target) -> None:
    """Bodies of a mebibyte, one byte a chunk."""
    head = wire.request(
        b"POST",
        b"/chat",
        [(b"host", b"a"), (b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")],
    )
    body = b"1\r\n \r\n" * (1 << 20)

    def step(_: int) -> None:
        with connected(target.rest) as client:
            client.sendall(head + body)
            wire.read_answer(client)

    again_and_again(step, 4)


def unread_events(target: Target) -> None:
    """Event streams that nobody reads."""

    def step(number: int) -> None:
        body = json.dumps({"topic": f"{ENDLESS} {number}"}).encode()
        with connected(target.rest, receive_buffer=2304) as client:
            client.sendall(
                wire.post("/tell-story/stream", body, [(b"host", b"a"), (b"content-type", b"application/json")])
            )
            time.sleep(ANSWER_SECONDS)

    again_and_again(step)


def unread_rpcs(target: Target) -> None:
    """Streams over HTTP/2 whose client never opens its window."""
    no_window = wire.frame(wire.SETTINGS, 0, 0, b"\x00\x04\x00\x00\x00\x00")

    def step(number: int) -> None:
        message = pb.StoryRequest(topic=f"{ENDLESS} {number}").SerializeToString()
        calls = b"".join(rpc(stream, "TellStory", message) for stream in range(1, 41, 2))
        with connected(target.grpc) as client:
            client.sendall(wire.PREFACE + no_window + calls)
            time.sleep(ANSWER_SECONDS)

    again_and_again(step, 5)


def long_lines(target: Target) -> None:
    """Paths of 60 KB that look like the beginning of a secret, again and again."""
    line = wire.request(b"GET", b"/" + b"eyJ-" * 15_000, [(b"host", b"a")])

    def step(_: int) -> None:
        with connected(target.rest) as client:
            client.sendall(line)
            wire.read_answer(client)

    again_and_again(step, 8)


def health_watches(target: Target) -> None:
    """A hundred health watches a connection, of names that take much memory."""

    def watch(stream: int) -> bytes:
        name = b"a" * 15_000
        message = b"\x0a" + bytes((len(name) & 127 | 128, len(name) >> 7)) + name
        return rpc(stream, "/grpc.health.v1.Health/Watch", message)

    def step(_: int) -> None:
        with connected(target.grpc) as client:
            client.sendall(wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0))
            for stream in range(1, 201, 2):
                client.sendall(watch(stream))
            time.sleep(ANSWER_SECONDS)

    again_and_again(step, 5)


def rpc(stream: int, method: str, message: bytes) -> bytes:
    """The frames of an RPC's request; a method without a slash is of the service itself."""
    path = method if method.startswith("/") else f"/{SERVICE.full_name}/{method}"
    fields = [
        *((b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"a")),
        *((b"content-type", b"application/grpc"), (b"te", b"trailers")),
    ]
    headers = wire.frame(wire.HEADERS, wire.END_HEADERS, stream, wire.field_block(fields))
    data = b"\x00" + len(message).to_bytes(4, "big") + message
    return headers + wire.frame(wire.DATA, wire.END_STREAM, stream, data)


ATTACKS: dict[str, Attack] = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        *(slow_model, slow_model_over_grpc, empty_answers, cut_off_answers, image_host_of_interim_answers),
        *(image_host_of_tiny_chunks, silent_name_server, tiny_chunks, unread_events, unread_rpcs, long_lines),
        health_watches,
    )
}


def serve_images(port: int) -> None:
    """A host of images: good ones at /ok and, as large as allowed, at /large; else what never ends. Runs for ever."""
    with socket.create_server(("127.0.0.1", port), backlog=500) as listening:
        while True:
            client, _ = listening.accept()
            Thread(target=_serve_image, args=(client,), daemon=True).start()


def _serve_image(client: socket.socket) -> None:
    with client, suppress(OSError):
        path = client.recv(65_536).split(b" ")[1]
        for part in _answer(path):
            client.sendall(part)


PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f8ff1f00"
    "030301014b7a3a200000000049454e44ae426082"
)


def _answer(path: bytes) -> Iterator[bytes]:
    if path.startswith(b"/interim"):
        while True:
            yield b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3000
    yield b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n"
    if path.startswith(b"/tiny"):
        yield b"transfer-encoding: chunked\r\n\r\n"
        while True:
            yield b"1\r\na\r\n" * 10_000
    image = PIXEL.ljust(MAX_BYTES) if path.startswith(b"/large") else PIXEL
    yield b"content-length: %d\r\n\r\n" % len(image) + image
