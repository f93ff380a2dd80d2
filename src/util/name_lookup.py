"""Look-ups of host names that callers choose, kept apart from all others."""

import asyncio
import socket
import threading
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from src.errors import Overloaded

Address = IPv4Address | IPv6Address

MAX_LOOKUPS = 8
RETRY_SECONDS = 5.0


class NameLookup:
    """Looks names up in threads of its own, so many at a time and no more.

    A look-up can't be cancelled: it takes as long as the name's servers are silent. In the event loop's own threads a
    handful of them would hold up every other look-up of the process, that of the LLM's host included.

    Args:
        look_up: As `socket.getaddrinfo`.
    """

    def __init__(self, look_up: Any = socket.getaddrinfo) -> None:
        self._look_up = look_up
        self._threads = 0
        self._lock = threading.Lock()

    @property
    def is_full(self) -> bool:
        """Whether a look-up would be refused."""
        return self._threads >= MAX_LOOKUPS

    async def __call__(self, host: str, port: int) -> list[Address]:
        """All addresses of a host name, or of an address in any spelling that the system knows.

        Raises:
            OSError: there are none.
            Overloaded: too many look-ups are under way; a slot is free again when its thread has ended.
        """
        if self.is_full:
            raise Overloaded(RETRY_SECONDS)
        with self._lock:
            self._threads += 1
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Address]] = loop.create_future()

        def look_up() -> None:
            outcome: list[Address] | Exception
            try:
                outcome = [ip_address(str(entry[4][0])) for entry in self._look_up(host, port, type=socket.SOCK_STREAM)]
            except (OSError, ValueError) as error:
                outcome = error
            finally:
                with self._lock:
                    self._threads -= 1
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(_settle, found, outcome)

        threading.Thread(target=look_up, daemon=True, name="name look-up").start()
        return await found


def _settle(found: "asyncio.Future[list[Address]]", outcome: "list[Address] | Exception") -> None:
    if found.done():  # nobody waits any more
        return
    if isinstance(outcome, Exception):
        found.set_exception(outcome)
    else:
        found.set_result(outcome)
