"""The record of an RPC."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from src.rpc.hooks import Rpc, begin_rpc, caller_key, current_rpc


def rpc(**values: Any) -> Rpc:
    return Rpc("/s.S/M", "m", [], "r-1", **values)


def test_an_rpc_is_known_in_its_own_task_alone() -> None:
    async def serve(own: Rpc) -> bool:
        begin_rpc(own)
        await asyncio.sleep(0)
        return current_rpc() is own

    async def main() -> list[bool]:
        return list(await asyncio.gather(serve(rpc()), serve(rpc())))

    assert asyncio.run(main()) == [True, True]
    with pytest.raises(LookupError):
        current_rpc()


@pytest.mark.parametrize(
    ("one", "another", "is_same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1::2", True),
        ("2001:db8:0:1::1", "2001:db9:0:1::1", False),
        ("unknown", "unknown", True),
    ],
)
def test_a_client_is_an_address_or_a_network_of_ipv6(one: str, another: str, is_same: bool) -> None:
    assert (caller_key(rpc(client=one)) == caller_key(rpc(client=another))) is is_same


def test_the_time_limit_is_lifted_where_there_is_one() -> None:
    lifted: list[bool] = []
    deadline: Any = SimpleNamespace(lift=lambda: lifted.append(True))
    rpc(deadline=deadline).lift_deadline()
    rpc().lift_deadline()
    assert lifted == [True]
