"""Look-ups of callers' names: silent servers hold up nobody else, and no more threads than allowed."""

import asyncio
import socket
import threading
from ipaddress import ip_address
from typing import Any

import pytest

from src.callers.caller import Caller, set_caller
from src.errors import Overloaded, ShareExceeded
from src.images.name_lookup import MAX_LOOKUPS, NameLookup


class Silent:
    """Servers that answer when the test says so."""

    def __init__(self) -> None:
        self.answer = threading.Event()

    def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        self.answer.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]


def test_silent_servers_take_their_places_and_no_more() -> None:
    async def scenario() -> None:
        servers = Silent()
        look_up = NameLookup(servers)

        async def ask(client: int) -> list[Any]:
            set_caller(Caller(str(client), str(client)))
            return await look_up("slow.test", 80)

        waiting = [asyncio.create_task(ask(client)) for client in range(MAX_LOOKUPS)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await look_up("another.test", 80)
        for task in waiting[1:]:
            task.cancel()
        await asyncio.gather(*waiting[1:], return_exceptions=True)
        with pytest.raises(Overloaded):  # their threads are still at it
            await look_up("another.test", 80)
        assert await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80), "the loop's own look-ups go on"
        servers.answer.set()
        assert await waiting[0] == [ip_address("192.0.2.1")]
        while look_up.is_full:  # a place is free once its thread has ended
            await asyncio.sleep(0)
        assert await look_up("another.test", 80)

    asyncio.run(scenario())


@pytest.mark.parametrize("host", ["nowhere.invalid", "", "a" * 300])
def test_a_name_without_addresses_is_an_os_error(host: str) -> None:
    def unknown(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(OSError, match="not known"):
        asyncio.run(NameLookup(unknown)(host, 80))


def test_an_address_in_any_spelling_is_found() -> None:
    assert asyncio.run(NameLookup()("0x7f.1", 80)) == [ip_address("127.0.0.1")]


def test_one_client_holds_a_quarter_of_the_look_ups_until_their_threads_end() -> None:
    async def scenario() -> None:
        servers = Silent()
        look_up = NameLookup(servers)

        async def ask(client: str) -> list[Any]:
            set_caller(Caller(client, client))
            return await look_up("slow.test", 80)

        share = MAX_LOOKUPS // 4
        hostile = [asyncio.create_task(ask("hostile")) for _ in range(share)]
        await asyncio.sleep(0)
        for task in hostile:
            task.cancel()
        await asyncio.gather(*hostile, return_exceptions=True)
        with pytest.raises(ShareExceeded):
            await ask("hostile")
        honest = asyncio.create_task(ask("honest"))
        await asyncio.sleep(0)
        servers.answer.set()
        assert await honest
        while look_up._clients:  # nothing is remembered of those whose threads have ended
            await asyncio.sleep(0)
        assert await ask("hostile")

    asyncio.run(scenario())


def test_a_system_without_threads_costs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    look_up = NameLookup()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(2 * MAX_LOOKUPS):
            with pytest.raises(Overloaded):
                asyncio.run(look_up("127.0.0.1", 80))
    assert asyncio.run(look_up("127.0.0.1", 80))
