"""Check the ports before a server uses them, so that the error names the setting."""

import errno
import socket


def check_port_free(host_variable: str, host: str, port_variable: str, port: int) -> None:
    """Raise ValueError if this process can't listen there, with a message that names the setting.

    Servers that listen with SO_REUSEPORT would share a taken port unnoticed.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except UnicodeError:
        raise ValueError(
            f"{host_variable}={host!r} ({_flag(host_variable)}): is neither an IP address nor a host name"
        ) from None
    except OSError as error:
        raise ValueError(describe_listen_error(host_variable, host, port_variable, port, error)) from None


def describe_listen_error(host_variable: str, host: str, port_variable: str, port: int, error: OSError) -> str:
    """Return the error message for a failed bind. It names the port setting if the port is taken, else the host's."""
    if error.errno == errno.EADDRINUSE:
        return f"{port_variable}={port} ({_flag(port_variable)}): the port is taken on {host}; choose another"
    return f"{host_variable}={host!r} ({_flag(host_variable)}): can't listen on {host} port {port}: {error.strerror}"


def _flag(variable: str) -> str:
    return "--" + variable.lower().replace("_", "-")
