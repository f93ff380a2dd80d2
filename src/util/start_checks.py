"""Checks of files and variables that libraries read themselves. Their own errors come late and do not name the setting.

Each raises ValueError with the whole line: variable, value and reason.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path

_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})


def check_server_certificate(certificate: Path, key: Path) -> None:
    """Check that the files hold a certificate and its private key, in PEM."""
    _check_readable("GRPC_TLS_CERT", certificate)
    _check_readable("GRPC_TLS_KEY", key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"GRPC_TLS_KEY={str(key)!r}: is not the key of the certificate {certificate}") from None
        raise ValueError(
            f"GRPC_TLS_CERT={str(certificate)!r}: this and GRPC_TLS_KEY={str(key)!r} have to hold a certificate and "
            "its private key, in PEM and without a password"
        ) from None


def _no_password() -> str:
    return ""  # OpenSSL would ask for it at the terminal


def check_client_authority(authority: Path) -> None:
    """Check that the file holds a certificate at least, in PEM: with an empty one every client would be refused."""
    _check_readable("GRPC_TLS_CLIENT_CA", authority)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(authority)
    except ssl.SSLError:
        raise ValueError(f"GRPC_TLS_CLIENT_CA={str(authority)!r}: holds no certificate in PEM") from None


def _check_readable(variable: str, file: Path) -> None:
    try:
        file.read_bytes()
    except OSError as error:
        raise ValueError(f"{variable}={str(file)!r}: can't be read: {error.strerror}") from None


def check_proxies(environment: Mapping[str, str]) -> None:
    """Check the proxy variables, which httpx reads whenever a client is made. They may hold passwords: not shown."""
    names = sorted(name for name, value in environment.items() if name.lower() in _PROXIES and value)
    if not names:
        return
    import httpx  # not for those who have no proxy: it takes a while

    try:
        httpx.Client(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)).close()
    except Exception:
        raise ValueError(
            f"{', '.join(names)}: can't be used; name proxies as http://HOST:PORT, hosts and addresses in NO_PROXY, "
            "but no IPv6 network"
        ) from None
