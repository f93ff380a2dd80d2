"""An early answer reads what is left of a short body, and lets a long or a slow one be."""

import asyncio
from collections.abc import Iterable

import pytest
from starlette.types import Message

from src.middleware import unread_body
from src.middleware.unread_body import MAX_BYTES, MAX_PIECES, UnreadBody, may_be_unread


class Client:
    """Sends these chunks, and then nothing more."""

    def __init__(self, *chunks: bytes, ends: bool = True) -> None:
        self.messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        if ends:
            self.messages[-1]["more_body"] = False
        self.read = 0

    async def receive(self) -> Message:
        if self.read == len(self.messages):
            await asyncio.Event().wait()
        self.read += 1
        return self.messages[self.read - 1]


def test_a_short_body_is_read_to_its_end() -> None:
    client = Client(b"a", b"b", b"c")
    asyncio.run(UnreadBody(client.receive).discard())
    assert client.read == 3


def test_a_client_that_leaves_ends_it() -> None:
    client = Client(b"a", ends=False)
    client.messages += [{"type": "http.disconnect"}] * 2
    asyncio.run(UnreadBody(client.receive).discard())
    assert client.read == 2


def test_a_long_body_is_left() -> None:
    client = Client(*[b"x" * 4096] * 1000)
    asyncio.run(UnreadBody(client.receive).discard())
    assert client.read == MAX_BYTES / 4096


@pytest.mark.parametrize("piece", [b"", b"x"])
def test_a_body_in_many_pieces_is_left(piece: bytes) -> None:
    client = Client(*[piece] * 1000)
    asyncio.run(UnreadBody(client.receive).discard())
    assert client.read == MAX_PIECES


def test_a_slow_body_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread_body, "MAX_SECONDS", 0.01)
    client = Client(b"a", ends=False)
    asyncio.run(UnreadBody(client.receive).discard())
    assert client.read == 1


def test_what_the_app_has_begun_to_read_is_its_own() -> None:
    async def scenario() -> None:
        client = Client(b"a", b"b")
        body = UnreadBody(client.receive)
        await body.receive()
        await body.discard()
        assert client.read == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("headers", "version", "may_be"),
    [
        pytest.param([], "1.1", False, id="no body"),
        pytest.param([(b"content-length", b"0")], "1.1", False, id="empty"),
        pytest.param([(b"content-length", b"2")], "1.1", True, id="short"),
        pytest.param([(b"content-length", b"65537")], "1.1", False, id="long"),
        pytest.param([(b"content-length", b"9" * 5000)], "1.1", False, id="absurd"),
        pytest.param([(b"content-length", b"-1")], "1.1", False, id="negative"),
        pytest.param([(b"content-length", b"\xb2")], "1.1", False, id="no number"),
        pytest.param([(b"transfer-encoding", b"chunked")], "1.1", True, id="chunked"),
        pytest.param([(b"content-length", b"2")], "2", False, id="HTTP/2"),
    ],
)
def test_only_a_short_body_of_http_1_may_be_left_over(
    headers: Iterable[tuple[bytes, bytes]], version: str, may_be: bool
) -> None:
    assert may_be_unread({"type": "http", "http_version": version, "headers": headers}) is may_be
