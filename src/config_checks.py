"""Checks of settings whose errors would otherwise come late, or not name the setting.

Those for one setting take and return its value. Those for several raise ValueError with the complete message: variable,
value and reason.
"""

import re
import ssl
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from src.util.client_address import UNIX, TrustedProxies
from src.util.rate import Rate

# Shortest prefixes that TRUSTED_PROXIES takes, by IP version. 10.0.0.0/8 is the largest private network (RFC 1918). In
# IPv6 a regional registry holds a /12 and a large operator a /19, so anything shorter than /16 spans several operators.
MIN_PROXY_PREFIX = {4: 8, 6: 16}
_ORIGIN = re.compile(r"(?i:https?)://[A-Za-z0-9.-]+(:[0-9]{1,5})?|(?i:https?)://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")
_HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]")
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})

_Url = TypeVar("_Url", str, str | None)


def split_commas(value: str) -> list[str]:
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def check_base_url(value: _Url) -> _Url:
    """Check that a URL, if given, has a host that DNS can have, and a valid port."""
    if value is None or _has_host(value):
        return value
    raise ValueError("should have a host and a valid port, such as https://api.example.com:8443/v1")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError:  # half an IPv6 address, a name that DNS can't have, or an invalid port
        return False


def canonical_origins(value: str) -> str:
    """Return comma-separated origins as browsers send them."""
    origins = split_commas(value)
    if all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
        return ",".join(_as_browsers_send(origin) for origin in origins)
    raise ValueError("should be origins without a path, such as https://example.com or https://example.com:8443, or *")


def _as_browsers_send(origin: str) -> str:
    """Return the origin as it stands in `Origin` (WHATWG URL): lower case, shortest address, no default port.

    Raises ValueError for an invalid address or port.
    """
    if origin == "*":
        return origin
    url = urlsplit(origin.lower())
    host = f"[{ip_address(url.hostname or '')}]" if "[" in origin else url.hostname
    port = "" if url.port in (None, {"https": 443, "http": 80}[url.scheme]) else f":{url.port}"
    return f"{url.scheme}://{host}{port}"


def check_host_patterns(value: str) -> str:
    """Check comma-separated host names, addresses and patterns such as `*.example.com`."""
    if all(_HOST_PATTERN.fullmatch(host) for host in split_commas(value)):
        return value
    raise ValueError(
        "should be host names or addresses without scheme and port, such as api.example.com or *.example.com"
    )


def check_networks(value: str) -> str:
    for entry in split_commas(value):
        if entry == UNIX:
            continue
        network = ip_network(entry)  # its ValueError names what is wrong
        shortest = MIN_PROXY_PREFIX[network.version]
        if network.prefixlen < shortest:
            raise ValueError(
                f"{entry} is too wide: anyone in it can forge the client's address; "
                f"use your proxies' own networks, /{shortest} or narrower for IPv{network.version}"
            )
    return value


@lru_cache(maxsize=8)
def parse_proxies(networks: str) -> TrustedProxies:
    """Return the proxies of TRUSTED_PROXIES. Parsed once: all parts of the service share them."""
    return TrustedProxies(split_commas(networks))


def check_rate(value: str) -> str:
    Rate.parse(value)  # its ValueError says how to write it
    return value


def check_server_certificate(certificate: Path, key: Path) -> None:
    """Check that the files hold a certificate and its private key, in PEM."""
    _check_readable("GRPC_TLS_CERT", certificate)
    _check_readable("GRPC_TLS_KEY", key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"GRPC_TLS_KEY={str(key)!r}: does not belong to the certificate {certificate}") from None
        raise ValueError(
            f"GRPC_TLS_CERT={str(certificate)!r}: should contain a certificate, and GRPC_TLS_KEY={str(key)!r} its "
            "private key, both in PEM and without a passphrase"
        ) from None


def _no_password() -> str:
    return ""  # OpenSSL would ask for it at the terminal


def check_client_authority(authority: Path) -> None:
    """Check that the file has at least one PEM certificate. With an empty file every client would be refused."""
    _check_readable("GRPC_TLS_CLIENT_CA", authority)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(authority)
    except ssl.SSLError:
        raise ValueError(f"GRPC_TLS_CLIENT_CA={str(authority)!r}: contains no PEM certificate") from None


def _check_readable(variable: str, file: Path) -> None:
    try:
        file.read_bytes()
    except OSError as error:
        raise ValueError(f"{variable}={str(file)!r}: can't be read: {error.strerror}") from None


def check_proxies(environment: Mapping[str, str]) -> None:
    """Check the proxy variables, which httpx reads for each new client.

    They may contain passwords, so their values are not shown.
    """
    names = sorted(name for name, value in environment.items() if name.lower() in _PROXIES and value)
    if not names:
        return
    import httpx  # slow to import, and only needed with a proxy

    try:
        httpx.Client(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)).close()
    except Exception:
        raise ValueError(
            f"{', '.join(names)}: should be http://HOST:PORT for a proxy, and host names or addresses in NO_PROXY, "
            "without IPv6 networks"
        ) from None


def check_sentry_dsn(dsn: str) -> None:
    """Check that Sentry's SDK can read the DSN. The message hides the DSN, because it contains a key."""
    from sentry_sdk.utils import Dsn  # slow to import, and only needed with a DSN

    try:
        Dsn(dsn)
    except ValueError:
        raise ValueError("SENTRY_DSN='***': is not a DSN; copy it from Client Keys in Sentry") from None


def is_cloud_run(environment: Mapping[str, str]) -> bool:
    """Return True if this is the environment of a container of Google Cloud Run."""
    return bool(environment.get("K_SERVICE"))
