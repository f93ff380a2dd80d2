"""Find the client's address and scheme, by one rule for both protocols.

By default the client is the TCP peer. If the peer is a trusted proxy, the client is the right-most address of
`X-Forwarded-For` that is not a trusted proxy. Entries further left come from the client and can be forged.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import Scope

from src.util.scope import headers_of

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNKNOWN = "unknown"
UNIX = "unix"  # any peer of the server's Unix socket
MAX_ADDRESS = 128  # characters; parsed addresses are cached, so longer ones would fill memory
MAX_HOPS = 32  # elements of X-Forwarded-For, from the right; the nearest proxy wrote the last one


class TrustedProxies:
    """The networks of the proxies whose forwarding headers count.

    Args:
        networks: CIDRs, single addresses, or "unix" for the peers of a Unix socket.

    Raises:
        ValueError: An entry is none of these.
    """

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._trusts_unix = UNIX in networks
        self._networks: tuple[Network, ...] = tuple(ip_network(network) for network in networks if network != UNIX)

    def __bool__(self) -> bool:
        return self._trusts_unix or bool(self._networks)

    def __contains__(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def trusts(self, peer: str) -> bool:
        if peer == UNIX:
            return self._trusts_unix
        address = parse_address(peer) if self._networks else None
        return address is not None and address in self

    def client(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Return the client's address.

        Args:
            peer: Address of the TCP peer, or "unix". If it is anything else the client is unknown.
            forwarded_for: The values of `X-Forwarded-For`, in the order of the headers. Only the last 32 elements
                are read; of these, empty ones don't count (RFC 9110, 5.6.1).

        Returns:
            The address in canonical form, IPv4-mapped IPv6 as IPv4, or "unknown".
        """
        if not forwarded_for or not self.trusts(peer):
            return _canonical(peer)
        address = parse_address(peer)
        for hop in _last_hops(forwarded_for):
            forwarded = parse_address(hop)
            if forwarded is None:
                break
            address = forwarded
            if address not in self:
                break
        return UNKNOWN if address is None else str(address)

    def scheme(self, peer: str, scheme: str, forwarded_proto: Sequence[str]) -> str:
        """Return `http` or `https`: from the nearest trusted proxy, otherwise from the connection."""
        if forwarded_proto and self.trusts(peer):
            said = forwarded_proto[-1].rpartition(",")[2].strip().lower()
            if said in ("http", "https"):
                return said
        return scheme


def _last_hops(forwarded_for: Sequence[str]) -> list[str]:
    """Return the last non-empty elements, from right to left, at a cost that does not depend on their number."""
    hops: list[str] = []
    for value in reversed(forwarded_for[-MAX_HOPS:]):
        hops += reversed(value.rsplit(",", MAX_HOPS)[-MAX_HOPS:])
        if len(hops) >= MAX_HOPS:
            break
    return [hop for hop in hops[:MAX_HOPS] if hop.strip()]


def parse_address(text: str) -> Address | None:
    """Parse an address from a peer name or a forwarding header. It may have a port, brackets or a zone.

    IPv4-mapped IPv6 becomes IPv4. Returns None if it is not an address.
    """
    text = text.strip()
    return _parse_short(text) if len(text) <= MAX_ADDRESS else None


@lru_cache(maxsize=4096)
def _parse_short(text: str) -> Address | None:
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(f":{port}"):
            return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # without its zone
    return address


@lru_cache(maxsize=4096)
def _canonical(peer: str) -> str:
    address = parse_address(peer)
    return UNKNOWN if address is None else str(address)


def _is_port(text: str) -> bool:
    return text[:1] == ":" and text[1:].isascii() and text[1:].isdigit()


def client_of(scope: Scope, proxies: TrustedProxies) -> str:
    return proxies.client(peer_of(scope), headers_of(scope, b"x-forwarded-for") if proxies else ())


def peer_of(scope: Scope) -> str:
    """Return the address of an HTTP request's TCP peer, or "unix".

    The server's side of the connection decides. The client's side can't: a TCP client that has just left has no address
    either, and granian gives the path to which a Unix client has bound its socket, which may look like an address. A
    Unix socket has no port: granian gives "0" for it, uvicorn and gunicorn None, and hypercorn no server at all.
    """
    client, (_, port) = scope.get("client"), scope.get("server") or ("", None)
    if port == "0" or (port is None and client is None):
        return UNIX
    return client[0] if client and client[0] != UNIX else ""
