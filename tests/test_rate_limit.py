"""The buckets: exactly a burst, then a smooth refill, and memory that is bounded."""

import asyncio
import json
from collections.abc import Iterable
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from src.callers.caller import NOBODY, Caller, current_caller
from src.middleware.rate_limit import RateLimitMiddleware
from src.rate_limit import Decision, MemoryBuckets, RateLimit
from src.util.client_address import TrustedProxies
from src.util.rate import Rate
from testing.asgi import http_scope, play


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Buckets:
    """A store in which all keys have one rate."""

    def __init__(self, rate: Rate, clock: Clock, max_buckets: int = 100) -> None:
        self.store = MemoryBuckets(clock=clock, max_buckets=max_buckets)
        self.rate = rate

    def __len__(self) -> int:
        return len(self.store)


def take(buckets: Buckets, key: str = "a", cost: int = 1) -> Decision:
    return asyncio.run(buckets.store.take([(key, buckets.rate)], cost))


@pytest.mark.parametrize(
    ("text", "rate"),
    [("60/minute", Rate(60, 60)), ("1/second", Rate(1, 1)), ("5/hour", Rate(5, 3600)), ("7/day", Rate(7, 86_400))],
)
def test_a_rate_is_read(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "60",
        "60/",
        "/minute",
        "0/minute",
        "-1/minute",
        "1.5/minute",
        "60/min",
        "60 / minute",
        "60/minute\n",
        "٦/day",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="60/minute"):
        Rate.parse(text)


@pytest.mark.parametrize("rate", [Rate(1, 1), Rate(5, 60), Rate(7, 3600), Rate(50, 1), Rate(999, 86_400)])
def test_exactly_a_burst_passes_and_then_one_at_each_interval(rate: Rate) -> None:
    clock = Clock()
    buckets = Buckets(rate, clock)
    decisions = [take(buckets) for _ in range(rate.count + 3)]
    assert [d.allowed for d in decisions] == [True] * rate.count + [False] * 3
    assert [d.remaining for d in decisions[: rate.count]] == list(range(rate.count - 1, -1, -1))
    for _ in range(3):
        wait = take(buckets).retry_after
        assert wait == pytest.approx(rate.seconds / rate.count, rel=1e-3)
        clock.now += wait * 0.999
        assert not take(buckets).allowed
        clock.now += wait * 0.001 + 1e-9
        assert take(buckets).allowed


def test_one_client_does_not_spend_anothers_tokens() -> None:
    buckets = Buckets(Rate(1, 60), Clock())
    assert [take(buckets, key).allowed for key in ("a", "b", "a", "b")] == [True, True, False, False]


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 4)), max_size=60), st.integers(1, 10))
def test_it_decides_as_a_plain_token_bucket_does(steps: list[tuple[float, int]], count: int) -> None:
    clock = Clock()
    buckets = Buckets(Rate(count, 60), clock)
    tokens = float(count)
    for pause, cost in steps:
        clock.now += pause
        tokens = min(count, tokens + pause * count / 60)
        decision = take(buckets, cost=cost)
        if abs(tokens - cost) > 1e-4:  # on the very edge either is right
            assert decision.allowed == (tokens > cost)
        if decision.allowed:
            tokens -= cost
        else:
            assert decision.retry_after == pytest.approx((cost - tokens) * 60 / count, abs=1e-3)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 20)), max_size=200))
def test_never_more_than_the_cap_is_kept(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    buckets = Buckets(Rate(3, 60), clock, max_buckets=8)
    for pause, client in steps:
        clock.now += pause
        take(buckets, str(client))
        assert len(buckets) <= 8


def test_buckets_that_are_full_again_are_forgotten() -> None:
    clock = Clock()
    buckets = Buckets(Rate(1, 1), clock)
    for client in range(100):
        take(buckets, str(client))
    clock.now += 2
    for _ in range(60):
        clock.now += 2
        take(buckets, "one")
    assert len(buckets) == 1


def test_a_refused_client_is_not_kept_alive_by_its_refusals() -> None:
    clock = Clock()
    buckets = Buckets(Rate(1, 60), clock)
    take(buckets)
    waits = []
    for _ in range(3):
        clock.now += 10
        waits.append(take(buckets).retry_after)
    assert waits == pytest.approx([50, 40, 30])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def request(layer: RateLimitMiddleware, path: str = "/", peer: str = "192.0.2.1") -> tuple[int, dict[str, str], bytes]:
    response = play(layer, http_scope(path, client=(peer, 1)))
    headers = {name.decode(): value.decode() for name, value in response.starts[0]["headers"]}
    return response.status, headers, response.body


def layer_over(rate: str) -> RateLimitMiddleware:
    return RateLimitMiddleware(app, RateLimit(MemoryBuckets(clock=Clock()), Rate.parse(rate)), TrustedProxies())


def test_over_the_rate_is_429_with_whole_seconds_to_wait() -> None:
    layer = layer_over("2/minute")
    results = [request(layer) for _ in range(3)]
    assert [status for status, _, _ in results] == [200, 200, 429]
    _, headers, body = results[-1]
    assert headers["retry-after"] == "30"
    assert headers["ratelimit"] == '"default";r=0;t=30'
    problem: Any = json.loads(body)
    assert (problem["title"], problem["status"]) == ("Too many requests", 429)


def test_the_wait_is_rounded_up_and_never_0() -> None:
    layer = layer_over("1000/second")
    waits = {request(layer)[1].get("retry-after") for _ in range(1001)}
    assert waits == {None, "1"}


def test_what_is_left_is_told() -> None:
    _, headers, _ = request(layer_over("60/minute"))
    assert headers == {"ratelimit-policy": '"default";q=60;w=60', "ratelimit": '"default";r=59'}


@pytest.mark.parametrize("path", ["/health", "/healthz", "/ready", "/readyz"])
def test_probes_cost_nothing(path: str) -> None:
    layer = layer_over("1/day")
    assert [request(layer, path)[0] for _ in range(3)] == [200] * 3


def test_neighbours_in_a_64_share_a_bucket() -> None:
    layer = layer_over("1/day")
    assert [request(layer, peer=f"2001:db8::{n}")[0] for n in (1, 2)] == [200, 429]


def passed(layer: RateLimitMiddleware, addresses: Iterable[int]) -> int:
    """Requests that pass, one from each address."""
    return [request(layer, peer=str(IPv6Address(address)))[0] for address in addresses].count(200)


@pytest.mark.parametrize(("prefix", "times"), [(64, 1), (56, 4), (48, 16)])
def test_an_ipv6_network_passes_no_more_than_its_multiple_however_many_addresses_it_has(
    prefix: int, times: int
) -> None:
    network = int(IPv6Address("2001:db8::"))
    layer = layer_over("3/day")
    spread = [network + (number << (128 - prefix)) // 200 for number in range(200)]
    assert passed(layer, spread) == 3 * times
    assert passed(layer, [network + (1 << 80) + 1]) == 1, "another /48 is another client"


def test_a_refused_request_takes_no_token_from_any_bucket() -> None:
    layer = layer_over("3/day")
    first = int(IPv6Address("2001:db8::1"))
    assert passed(layer, [first] * 50) == 3
    neighbours = [first + (number << 64) for number in range(1, 256)]
    assert passed(layer, neighbours) == 9, "of the 12 of the /56"


def test_the_tightest_bucket_is_the_one_that_is_told() -> None:
    layer = layer_over("2/minute")
    subnets = [f"2001:db8:0:{number:x}::1" for number in range(5)]
    told = [request(layer, peer=peer)[1] for peer in subnets for _ in range(2)]
    assert [headers["ratelimit"] for headers in told[:8]] == ['"default";r=1', '"default";r=0'] * 4
    assert told[8]["retry-after"] == "8", "of the /56, which has 8 a minute"


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 1), st.integers(0, 1)), max_size=80))
def test_several_buckets_decide_as_plain_token_buckets_do_together(steps: list[tuple[float, int, int]]) -> None:
    clock = Clock()
    store = MemoryBuckets(clock=clock)
    rates = {"a0": 2, "a1": 2, "b0": 3, "b1": 3, "c": 5}
    tokens = dict.fromkeys(rates, 0.0) | {key: float(count) for key, count in rates.items()}
    for pause, a, b in steps:
        clock.now += pause
        tokens = {key: min(rates[key], left + pause * rates[key] / 60) for key, left in tokens.items()}
        keys = [f"a{a}", f"b{b}", "c"]
        decision = asyncio.run(store.take([(key, Rate(rates[key], 60)) for key in keys]))
        tightest = min(tokens[key] for key in keys)
        if abs(tightest - 1) > 1e-4:  # on the very edge either is right
            assert decision.allowed == (tightest > 1)
        if decision.allowed:
            for key in keys:
                tokens[key] -= 1
        else:
            waits = [(1 - tokens[key]) * 60 / rates[key] for key in keys]
            assert decision.retry_after == pytest.approx(max(waits), abs=1e-3)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2**80 - 1)), max_size=100))
def test_memory_is_bounded_for_ipv6_too(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    store = MemoryBuckets(clock=clock, max_buckets=8)
    limit = RateLimit(store, Rate(3, 60))
    for pause, network in steps:
        clock.now += pause
        asyncio.run(limit.admit(str(IPv6Address(network << 48))))
        assert len(store) <= 8


@pytest.mark.parametrize(
    ("address", "id", "share_key"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("unknown", "unknown", "unknown"),
    ],
)
def test_who_was_counted_is_the_caller_from_then_on(address: str, id: str, share_key: str) -> None:
    async def scenario() -> tuple[Caller, Caller]:
        before = current_caller()
        await RateLimit(MemoryBuckets(), Rate(1, 60)).admit(address)
        return before, await asyncio.create_task(own())

    async def own() -> Caller:
        return current_caller()

    before, after = asyncio.run(scenario())
    assert before == NOBODY
    assert (after.id, after.share_key) == (id, share_key)
