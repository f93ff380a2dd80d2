"""Check that the service can listen at its ports, before servers report it in their own words."""

import errno
import socket


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
