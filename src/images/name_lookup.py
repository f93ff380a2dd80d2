"""DNS lookups of hosts that callers name, in threads of their own."""

import asyncio
import socket
import threading
from collections import Counter
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from src.bulkhead import CLIENT_SHARE, places_of_share
from src.callers.caller import current_caller
from src.errors import Overloaded, ShareExceeded

Address = IPv4Address | IPv6Address

MAX_LOOKUPS = 8
RETRY_SECONDS = 5.0


class NameLookup:
    """Resolves host names in its own threads, with a maximum number at a time.

    A lookup can't be cancelled: it takes as long as the DNS servers are silent. In the event loop's default threads, a
    few slow ones would block every other lookup of the process, also that of the LLM's host.

    Args:
        look_up: Like `socket.getaddrinfo`.
        client_share: Maximum share of the lookups for one client.
    """

    def __init__(self, look_up: Any = socket.getaddrinfo, *, client_share: float = CLIENT_SHARE) -> None:
        self._look_up = look_up
        self._per_client = places_of_share(MAX_LOOKUPS, client_share)
        self._threads = 0
        self._clients: Counter[str] = Counter()  # running threads per client
        self._lock = threading.Lock()

    @property
    def is_full(self) -> bool:
        return self._threads >= MAX_LOOKUPS

    async def __call__(self, host: str, port: int) -> list[Address]:
        """Return all addresses of a host name, or of an address in any form that the system accepts.

        Raises:
            OSError: The host has no address.
            ShareExceeded: The current caller has its maximum of lookups.
            Overloaded: Too many lookups are in progress. A place is free again when its thread ends.
        """
        client = current_caller().share_key
        with self._lock:
            if self.is_full:
                raise Overloaded(RETRY_SECONDS)
            if self._clients[client] >= self._per_client:
                raise ShareExceeded(RETRY_SECONDS)
            self._threads += 1
            self._clients[client] += 1
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Address]] = loop.create_future()

        def look_up() -> None:
            outcome: list[Address] | Exception
            try:
                outcome = [ip_address(str(entry[4][0])) for entry in self._look_up(host, port, type=socket.SOCK_STREAM)]
            except (OSError, ValueError) as error:
                outcome = error
            finally:
                self._end(client)
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(_settle, found, outcome)

        try:
            threading.Thread(target=look_up, daemon=True, name="name look-up").start()
        except RuntimeError:  # the system refuses more threads
            self._end(client)
            raise Overloaded(RETRY_SECONDS) from None
        return await found

    def _end(self, client: str) -> None:
        with self._lock:
            self._threads -= 1
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]


def _settle(found: "asyncio.Future[list[Address]]", outcome: "list[Address] | Exception") -> None:
    if found.done():  # nobody waits any more
        return
    if isinstance(outcome, Exception):
        found.set_exception(outcome)
    else:
        found.set_result(outcome)
