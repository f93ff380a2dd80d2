"""Checks of values that libraries and servers use themselves. Their own errors come late and do not name the setting.

Each raises ValueError with the complete message: variable, value and reason.
"""

import errno
import socket
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
    """Check that Sentry's SDK can read the DSN. It holds a key: not shown."""
    from sentry_sdk.utils import Dsn  # not for those who have none: it takes a while

    try:
        Dsn(dsn)
    except ValueError:
        raise ValueError("SENTRY_DSN='***': is not a DSN; Sentry shows it under Client Keys") from None


def check_port_free(host_variable: str, host: str, port_variable: str, port: int) -> None:
    """Check that this process could listen there. SO_REUSEPORT would let two services share a port unnoticed."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except UnicodeError:
        raise ValueError(
            f"{host_variable}={host!r} ({_flag(host_variable)}): is neither an address nor a name"
        ) from None
    except OSError as error:
        raise ValueError(describe_listen_error(host_variable, host, port_variable, port, error)) from None


def describe_listen_error(host_variable: str, host: str, port_variable: str, port: int, error: OSError) -> str:
    """Return the line for an address that can't be bound: it names the port if that is taken, else the host."""
    if error.errno == errno.EADDRINUSE:
        return f"{port_variable}={port} ({_flag(port_variable)}): the port is taken on {host}; choose another"
    return f"{host_variable}={host!r} ({_flag(host_variable)}): can't listen on {host} port {port}: {error.strerror}"


def _flag(variable: str) -> str:
    return "--" + variable.lower().replace("_", "-")
