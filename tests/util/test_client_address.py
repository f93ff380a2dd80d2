"""Nobody can choose their own address: only a trusted proxy's word counts, and of it the right-most entry."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from src.util.client_address import (
    MAX_ADDRESS,
    MAX_HOPS,
    UNIX,
    UNKNOWN,
    TrustedProxies,
    _parse_short,
    client_of,
    parse_address,
    peer_of,
)

PROXY, INNER_PROXY, CLIENT, SPOOFED = "10.0.0.1", "10.0.0.2", "203.0.113.9", "198.51.100.1"
TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8"])

addresses = st.ip_addresses().map(str)
junk = st.text(max_size=40)
headers = st.lists(st.lists(st.one_of(addresses, junk), max_size=6).map(",".join), max_size=3)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        pytest.param(CLIENT, [], CLIENT, id="direct"),
        pytest.param(CLIENT, [SPOOFED], CLIENT, id="an untrusted peer is not believed"),
        pytest.param(PROXY, [], PROXY, id="a proxy that says nothing"),
        pytest.param(PROXY, [CLIENT], CLIENT, id="one hop"),
        pytest.param(PROXY, [f"{SPOOFED}, {CLIENT}"], CLIENT, id="the right-most counts"),
        pytest.param(PROXY, [SPOOFED, CLIENT], CLIENT, id="of several headers the last"),
        pytest.param(PROXY, [f"{SPOOFED},{CLIENT},{INNER_PROXY}"], CLIENT, id="trusted hops are passed over"),
        pytest.param(PROXY, [INNER_PROXY], INNER_PROXY, id="nothing but trusted hops"),
        pytest.param(PROXY, [f"{SPOOFED}, nonsense"], PROXY, id="junk at the right hides what is left of it"),
        pytest.param(PROXY, [f"{SPOOFED}, {CLIENT}, "], CLIENT, id="an empty last entry does not count"),
        pytest.param(PROXY, [f"{CLIENT},,", ""], CLIENT, id="nor do several"),
        pytest.param(PROXY, ["", " , "], PROXY, id="nothing but empty entries"),
        pytest.param(PROXY, [f"{CLIENT}:8443"], CLIENT, id="with a port"),
        pytest.param(PROXY, ["[2001:db8::1]:8443"], "2001:db8::1", id="IPv6 with a port"),
        pytest.param(PROXY, [f"::ffff:{CLIENT}"], CLIENT, id="IPv4-mapped"),
        pytest.param(f"::ffff:{PROXY}", [CLIENT], CLIENT, id="a proxy by its IPv4-mapped address"),
        pytest.param("fd00::1", ["2001:DB8:0::1"], "2001:db8::1", id="canonical spelling"),
        pytest.param("fe80::1%eth0", [], "fe80::1", id="zone"),
        pytest.param("", [CLIENT], UNKNOWN, id="no peer"),
        pytest.param("unix", [CLIENT], UNKNOWN, id="unix socket"),
    ],
)
def test_who_the_client_is(peer: str, forwarded_for: list[str], client: str) -> None:
    assert TRUSTED.client(peer, forwarded_for) == client


@pytest.mark.parametrize(
    ("scope", "client"),
    [
        pytest.param({"client": None, "server": ("/run/app.sock", None)}, CLIENT, id="uvicorn"),
        pytest.param({"client": ("", "0"), "server": ("app.sock", "0")}, CLIENT, id="granian"),
        pytest.param({"client": (PROXY, "0"), "server": ("app.sock", "0")}, CLIENT, id="bound to a path"),
        pytest.param({"client": None, "server": None}, CLIENT, id="hypercorn"),
        pytest.param({"client": (PROXY, 1234), "server": (PROXY, 8080)}, PROXY, id="TCP"),
        pytest.param({"client": (PROXY, 1234), "server": None}, PROXY, id="no word of the server"),
        pytest.param({"client": (UNIX, 0), "server": (PROXY, 8080)}, UNKNOWN, id="TCP, named so by a header"),
        pytest.param({"client": None, "server": (PROXY, 8080)}, UNKNOWN, id="TCP, already gone"),
    ],
)
def test_peers_of_a_unix_socket_are_trusted_by_name_alone(scope: Scope, client: str) -> None:
    scope["headers"] = [(b"x-forwarded-for", f"{SPOOFED}, {CLIENT}".encode())]
    assert client_of(scope, TrustedProxies([UNIX])) == client
    assert client_of(scope, TrustedProxies(["192.0.2.1"])) == (client if client != CLIENT else UNKNOWN)
    assert TrustedProxies([UNIX]).scheme(peer_of(scope), "http", ["https"]) == ("https" if client == CLIENT else "http")


@given(peer=st.one_of(addresses, junk), forwarded_for=headers)
def test_without_trusted_proxies_headers_change_nothing(peer: str, forwarded_for: list[str]) -> None:
    nobody = TrustedProxies()
    assert nobody.client(peer, forwarded_for) == nobody.client(peer, [])
    assert nobody.scheme(peer, "http", ["https"]) == "http"


@given(spoofed=headers, real=st.ip_addresses(v=4).filter(lambda a: a not in TRUSTED))
def test_what_a_client_puts_before_the_proxys_entry_changes_nothing(spoofed: list[str], real: IPv4Address) -> None:
    assert TRUSTED.client(PROXY, [*spoofed, str(real)]) == str(real)
    assert TRUSTED.client(PROXY, [",".join([*spoofed, str(real)])]) == str(real)


@given(
    hops=st.lists(st.one_of(st.sampled_from([CLIENT, PROXY, INNER_PROXY, "", " "]), junk), max_size=3 * MAX_HOPS),
    cut=st.integers(0, 3 * MAX_HOPS),
    ahead=headers,
)
def test_only_the_last_32_elements_count_however_they_are_spread_over_headers(
    hops: list[str], cut: int, ahead: list[str]
) -> None:
    elements = ",".join(hops).split(",")
    expected = TRUSTED.client(PROXY, [",".join(elements[-MAX_HOPS:])])
    assert TRUSTED.client(PROXY, [",".join(part) for part in (elements[:cut], elements[cut:]) if part]) == expected
    if len(elements) >= MAX_HOPS:
        assert TRUSTED.client(PROXY, [*ahead, ",".join(elements)]) == expected


def test_a_header_of_trusted_proxies_without_end_is_not_read_to_its_end() -> None:
    before = _parse_short.cache_info()
    hops = [f"10.9.{number // 250}.{number % 250}" for number in range(5000)]
    assert TRUSTED.client(PROXY, [CLIENT, ",".join(hops)]) == hops[-MAX_HOPS]
    after = _parse_short.cache_info()
    assert after.misses - before.misses <= MAX_HOPS + 1


@given(peer=st.one_of(addresses, junk), forwarded_for=headers)
def test_the_result_is_an_address_in_canonical_spelling_or_unknown(peer: str, forwarded_for: list[str]) -> None:
    client = TRUSTED.client(peer, forwarded_for)
    assert client == UNKNOWN or str(ip_address(client)) == client
    assert "%" not in client


@given(st.ip_addresses(), st.integers(0, 65535))
def test_an_address_is_read_with_and_without_its_port(address: IPv4Address | IPv6Address, port: int) -> None:
    expected = address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
    with_port = f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"
    assert parse_address(str(address)) == parse_address(with_port) == parse_address(f" {address} ") == expected


@pytest.mark.parametrize("text", ["", " ", "1.2.3", "1.2.3.4:", "1.2.3.4:x", "[::1", "[::1]x", "::1]", "localhost"])
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None


@pytest.mark.parametrize(
    ("peer", "said", "scheme"),
    [
        pytest.param(PROXY, ["https"], "https", id="a proxy's word"),
        pytest.param(CLIENT, ["https"], "http", id="not just anybody's"),
        pytest.param(PROXY, ["https, http"], "http", id="the nearest proxy's entry"),
        pytest.param(PROXY, ["gopher"], "http", id="junk"),
        pytest.param(PROXY, [], "http", id="nothing"),
    ],
)
def test_the_scheme_is_as_the_nearest_trusted_proxy_says(peer: str, said: list[str], scheme: str) -> None:
    assert TRUSTED.scheme(peer, "http", said) == scheme


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        TrustedProxies(["everyone"])


def test_a_very_long_address_is_none_and_not_remembered() -> None:
    before = _parse_short.cache_info()
    assert parse_address("1" * (MAX_ADDRESS + 1)) is None
    assert _parse_short.cache_info() == before
