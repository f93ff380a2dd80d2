"""Detect other services on a port that worker processes share.

With SO_REUSEPORT the kernel spreads the connections over all processes of the same user that listen on the port. A
second service, started on the same port by mistake, would answer clients of the first, and nobody would notice.
"""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_LISTENING = "0A"

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_ANY_IPV4 = ipaddress.IPv4Address("0.0.0.0")  # noqa: S104 - compared, not bound
_ANY_IPV6 = ipaddress.IPv6Address("::")
_OTHER_LOOPBACK = "127.255.255.254"  # nobody listens at this one alone


def is_shared_with_strangers(host: str, port: int, main_processes: Collection[int]) -> bool:
    """Return True if a process other than the main processes' descendants listens at this address.

    Returns False if the system does not show who listens: without Linux's /proc, or if it hides a worker's files.
    Also returns False if the host has no address, because binding it fails anyway.
    """
    try:
        strange = _listening(host, port)
        if not strange:
            return False
        for pid in _descendants(main_processes) | {os.getpid()}:
            strange -= _sockets_of(pid)
        # A process that no longer listens may have been a worker that has ended meanwhile.
        return bool(strange & _listening(host, port)) and _shows_own_socket()
    except (PermissionError, socket.gaierror, UnicodeError):
        return False


def _shows_own_socket() -> bool:
    """Check the tables against a socket of this process: sandboxes imitate /proc, and may leave out who owns what."""
    with socket.create_server(("127.0.0.1", 0)) as own:
        found = _listening(*own.getsockname())
        return bool(found) and found <= _sockets_of(os.getpid())


def _listening(host: str, port: int) -> set[int]:
    """Return the inodes of the sockets that would share connections with gRPC at this address."""
    wanted = {ipaddress.ip_address(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    return {
        inode for address, at, inode in _listeners() if at == port and any(_meet(own, address, port) for own in wanted)
    }


def _meet(own: _Address, other: _Address, port: int) -> bool:
    """Return True if a connection to an address of gRPC's could reach a socket that listens at the other one."""
    if own == _ANY_IPV6 or (own == _ANY_IPV4 and _can_bind(str(_ANY_IPV6), port, socket.SO_REUSEPORT)):
        return True  # gRPC takes 0.0.0.0 as :: too, unless that is taken
    if own.version == other.version:
        return own == other or own.is_unspecified or other.is_unspecified
    # The tables don't show if :: is for IPv6 alone (IPV6_V6ONLY). If it isn't, no IPv4 address can be bound beside it.
    # If gRPC can't bind :: itself, it can't bind 0.0.0.0 beside one for both either.
    return other == _ANY_IPV6 and not own.is_unspecified and not _can_bind(_OTHER_LOOPBACK, port, socket.SO_REUSEADDR)


def _can_bind(host: str, port: int, option: int) -> bool:
    """Return False if the address is taken: with SO_REUSEADDR by any socket that listens, else by one that won't share.

    Does not listen, so it takes no connection.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, option, 1)
            if ":" in host:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind((host, port))
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def _listeners() -> Iterator[tuple[_Address, int, int]]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING:
                address, _, port = fields[1].partition(":")
                yield _parse(address), int(port, 16), int(fields[9])


def _parse(address: str) -> _Address:
    """Parse an address of the kernel's tables: words of four bytes, each in the machine's order."""
    count = len(address) // 8
    words = struct.unpack(f"={count}I", bytes.fromhex(address))
    parsed = ipaddress.ip_address(struct.pack(f"!{count}I", *words))
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _descendants(ancestors: Collection[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for directory in _PROC.glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            _name, _, fields = (directory / "stat").read_text(errors="replace").rpartition(")")
            children.setdefault(int(fields.split()[1]), []).append(int(directory.name))
    found: set[int] = set()
    waiting = list(ancestors)
    while waiting:
        new = children.pop(waiting.pop(), [])
        found.update(new)
        waiting += new
    return found


def _sockets_of(pid: int) -> set[int]:
    inodes: set[int] = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for file in (_PROC / str(pid) / "fd").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it was closed
                kind, _, inode = str(file.readlink()).partition(":")
                if kind == "socket":
                    inodes.add(int(inode.strip("[]")))
    return inodes
