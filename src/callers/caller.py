"""The caller of a request, set by the rate limit and read by everything that limits per caller.

It is in a context variable, which tasks of the request inherit.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv6Address

from src.util.client_address import UNKNOWN, parse_address
from src.util.rate import Rate

# Prefix lengths of the networks that have a bucket, and the multiple of a single client's rate that each gets.
IPV6_NETWORKS = {64: 1, 56: 4, 48: 16}
SHARE_PREFIX = 48


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller and its limits.

    Attributes:
        id: The client's address; for IPv6 its /64, which one host has to itself (RFC 6177).
        share_key: The key for shares of pools and for votes on the circuit: the id, but for IPv6 the /48. One customer
            may own a whole /48, so with shares per /64 four of its 65,536 networks could fill any pool.
        scope: Callers with the same scope share cached results. Callers known by address only all have the same.
        buckets: The token buckets of each request, with their rates.
    """

    id: str
    share_key: str
    scope: str = ""
    buckets: tuple[tuple[str, Rate], ...] = ()


NOBODY = Caller(UNKNOWN, UNKNOWN)

_caller: ContextVar[Caller] = ContextVar("caller", default=NOBODY)


def current_caller() -> Caller:
    """Return the caller of the current task; `NOBODY` for a request that the rate limit did not count."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Set the caller of the current task. The task serves no other request, so there is no reset."""
    _caller.set(caller)


def caller_at(address: str, rate: Rate) -> Caller:
    """Return a caller known by address only, with this rate."""
    parsed = parse_address(address)
    if not isinstance(parsed, IPv6Address):
        return Caller(address, address, buckets=((address, rate),))
    buckets = tuple(
        (_network(parsed, prefix), Rate(rate.count * times, rate.seconds)) for prefix, times in IPV6_NETWORKS.items()
    )
    return Caller(buckets[0][0], share_key_at(address), buckets=buckets)


def share_key_at(address: str) -> str:
    """Return the share key of a caller known by address only."""
    parsed = parse_address(address)
    return _network(parsed, SHARE_PREFIX) if isinstance(parsed, IPv6Address) else address


def _network(address: IPv6Address, prefix: int) -> str:
    host_bits = 128 - prefix
    return f"{IPv6Address(int(address) >> host_bits << host_bits)}/{prefix}"
