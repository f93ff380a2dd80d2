"""The bulkhead: so many at once, as many waiting, a share for each client, and no place is ever lost."""

import asyncio
import random
from collections import Counter

import pytest

from src.bulkhead import Bulkhead, places_of_share
from src.callers.caller import Caller, caller_at, set_caller
from src.errors import Overloaded, ShareExceeded
from src.util.rate import Rate


def become(client: int | str) -> None:
    """Make the rest of this task the work of that client."""
    set_caller(Caller(str(client), str(client)))


def test_as_many_as_have_places_are_under_way_and_the_others_follow_in_order() -> None:
    async def scenario() -> None:
        bulkhead, entered, leave = Bulkhead(2), [], [asyncio.Event() for _ in range(4)]

        async def guest(number: int) -> None:
            become(number)
            async with bulkhead.slot():
                entered.append(number)
                await leave[number].wait()

        tasks = [asyncio.create_task(guest(number)) for number in range(4)]
        for number, expected in enumerate(([0, 1], [0, 1, 2], [0, 1, 2, 3])):
            for _ in range(5):
                await asyncio.sleep(0)
            assert entered == expected
            leave[number].set()
        for event in leave:
            event.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_beyond_places_and_queue_one_is_refused_at_once() -> None:
    async def scenario() -> None:
        bulkhead, leave = Bulkhead(2), asyncio.Event()

        async def guest(number: int) -> None:
            become(number)
            async with bulkhead.slot():
                await leave.wait()

        tasks = [asyncio.create_task(guest(number)) for number in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await guest(4)
        assert refused.type is Overloaded
        assert refused.value.headers() == {"retry-after": "2"}
        leave.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_who_has_waited_long_enough_is_refused_and_leaves_the_queue() -> None:
    async def scenario() -> None:
        bulkhead = Bulkhead(1, per_client=2, queue_seconds=0.001)
        async with bulkhead.slot():
            for _ in range(3):
                with pytest.raises(Overloaded):
                    async with bulkhead.slot():
                        pass
        async with bulkhead.slot():
            pass

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_whoever_leaves_however_no_place_is_lost(seed: int) -> None:
    async def scenario() -> None:
        chance, bulkhead, inside = random.Random(seed), Bulkhead(3), 0

        async def guest(steps: int, fails: bool) -> None:
            nonlocal inside
            become(steps)
            async with bulkhead.slot():
                inside += 1
                assert inside <= 3
                try:
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    if fails:
                        raise ValueError
                finally:
                    inside -= 1

        tasks = []
        for _ in range(200):
            tasks.append(asyncio.create_task(guest(chance.randrange(6), chance.random() < 0.2)))
            await asyncio.sleep(0)
            if chance.random() < 0.5:
                chance.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not bulkhead._clients, "nothing is remembered of those who have left"
        guests = [asyncio.create_task(guest(steps, False)) for steps in (3, 4, 5)]
        await asyncio.sleep(0)
        assert inside == 3
        await asyncio.gather(*guests)

    asyncio.run(scenario())


@pytest.mark.parametrize(("size", "share", "places"), [(64, 0.25, 16), (2, 0.25, 1), (16, 1.5, 16), (8, 1 / 3, 2)])
def test_a_share_is_at_least_one_place_and_at_most_all(size: int, share: float, places: int) -> None:
    assert places_of_share(size, share) == places


def test_one_client_gets_its_share_of_places_and_queue_and_no_more() -> None:
    async def scenario() -> None:
        bulkhead, leave, inside = Bulkhead(4, per_client=2), asyncio.Event(), Counter[str]()

        async def guest(client: str) -> None:
            become(client)
            async with bulkhead.slot():
                inside[client] += 1
                await leave.wait()

        greedy = [asyncio.create_task(guest("greedy")) for _ in range(50)]
        await asyncio.sleep(0)
        others = [asyncio.create_task(guest(client)) for client in "abcdef"]
        for _ in range(3):
            await asyncio.sleep(0)
        assert inside == {"greedy": 2, "a": 1, "b": 1}
        with pytest.raises(ShareExceeded) as refused:
            await guest("greedy")
        assert refused.value.headers() == {"retry-after": "2"}
        leave.set()
        await asyncio.gather(*others)
        outcomes = await asyncio.gather(*greedy, return_exceptions=True)
        assert sum(isinstance(outcome, ShareExceeded) for outcome in outcomes) == 48
        assert not bulkhead._clients

    asyncio.run(scenario())


def test_what_waits_counts_for_the_share_until_it_leaves() -> None:
    async def scenario() -> None:
        bulkhead, leave = Bulkhead(1, per_client=1), asyncio.Event()

        async def guest(client: str) -> None:
            become(client)
            async with bulkhead.slot():
                await leave.wait()

        first = asyncio.create_task(guest("first"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(guest("second"))
        await asyncio.sleep(0)
        with pytest.raises(ShareExceeded):
            await guest("second")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        again = asyncio.create_task(guest("second"))
        leave.set()
        await asyncio.gather(first, again)

    asyncio.run(scenario())


def test_the_addresses_of_a_48_hold_one_share() -> None:
    async def scenario() -> None:
        bulkhead = Bulkhead(4, per_client=1)
        set_caller(caller_at("2001:db8:0:1::1", Rate(1, 1)))
        async with bulkhead.slot():
            set_caller(caller_at("2001:db8:0:2::1", Rate(1, 1)))
            with pytest.raises(ShareExceeded):
                async with bulkhead.slot():
                    pass
            set_caller(caller_at("2001:db8:1:2::1", Rate(1, 1)))
            async with bulkhead.slot():
                pass

    asyncio.run(scenario())
