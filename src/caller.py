"""The caller of a request: set where a request is counted, read by whatever has to be fair to others.

It travels beside the input, in a context variable. Tasks that a request starts inherit it.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv6Address

from src.util.client_address import UNKNOWN, parse_address
from src.util.rate import Rate

# Prefix lengths of the networks that count as one client each, and how many times the rate of a single one they have.
IPV6_NETWORKS = {64: 1, 56: 4, 48: 16}
SHARE_PREFIX = 48


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller and the limits that belong to it.

    Attributes:
        id: The client's address; of an IPv6 address its /64, which one host has to itself (RFC 6177).
        share_key: Who holds places of shared pools, and has one say about the circuit: the id, but of an IPv6 address
            its /48. Providers hand those out to single customers, so with shares by /64 four of the 65,536 that such a
            customer owns would fill any pool.
        scope: Of cached answers: callers share them within one. All who are known by their address alone have the same.
        buckets: The keys that each request takes a token from, with their rates.
    """

    id: str
    share_key: str
    scope: str = ""
    buckets: tuple[tuple[str, Rate], ...] = ()


NOBODY = Caller(UNKNOWN, UNKNOWN)

_caller: ContextVar[Caller] = ContextVar("caller", default=NOBODY)


def current_caller() -> Caller:
    """The caller of the request that this task works for; all whose request was not counted are one."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Make it the caller of this task, which serves no other: there is nothing to reset."""
    _caller.set(caller)


def caller_at(address: str, rate: Rate) -> Caller:
    """The caller who is known by this address alone, and may ask at this rate."""
    parsed = parse_address(address)
    if not isinstance(parsed, IPv6Address):
        return Caller(address, address, buckets=((address, rate),))
    buckets = tuple(
        (_network(parsed, prefix), Rate(rate.count * times, rate.seconds)) for prefix, times in IPV6_NETWORKS.items()
    )
    return Caller(buckets[0][0], share_key_at(address), buckets=buckets)


def share_key_at(address: str) -> str:
    """The share key of the caller who is known by this address alone."""
    parsed = parse_address(address)
    return _network(parsed, SHARE_PREFIX) if isinstance(parsed, IPv6Address) else address


def _network(address: IPv6Address, prefix: int) -> str:
    host_bits = 128 - prefix
    return f"{IPv6Address(int(address) >> host_bits << host_bits)}/{prefix}"
