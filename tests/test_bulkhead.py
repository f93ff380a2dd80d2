"""The bulkhead: so many at once, as many waiting, and no place is ever lost."""

import asyncio
import random

import pytest

from src.bulkhead import Bulkhead
from src.errors import Overloaded


def test_as_many_as_have_places_are_under_way_and_the_others_follow_in_order() -> None:
    async def scenario() -> None:
        bulkhead, entered, leave = Bulkhead(2), [], [asyncio.Event() for _ in range(4)]

        async def guest(number: int) -> None:
            async with bulkhead.place():
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

        async def guest() -> None:
            async with bulkhead.place():
                await leave.wait()

        tasks = [asyncio.create_task(guest()) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await guest()
        assert refused.value.headers() == {"retry-after": "2"}
        leave.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_who_has_waited_long_enough_is_refused_and_leaves_the_queue() -> None:
    async def scenario() -> None:
        bulkhead = Bulkhead(1, queue_seconds=0.001)
        async with bulkhead.place():
            for _ in range(3):
                with pytest.raises(Overloaded):
                    async with bulkhead.place():
                        pass
        async with bulkhead.place():
            pass

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_whoever_leaves_however_no_place_is_lost(seed: int) -> None:
    async def scenario() -> None:
        chance, bulkhead, inside = random.Random(seed), Bulkhead(3), 0

        async def guest(steps: int, fails: bool) -> None:
            nonlocal inside
            async with bulkhead.place():
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
        guests = [asyncio.create_task(guest(3, False)) for _ in range(3)]
        await asyncio.sleep(0)
        assert inside == 3
        await asyncio.gather(*guests)

    asyncio.run(scenario())
