"""Fetch the images that callers name, without access to the network behind the service.

Protects against server-side request forgery (OWASP SSRF Prevention Cheat Sheet):

- http(s) on default ports only
- every address of the host must be public
- the connection goes to a checked address, so a second DNS response has no effect
- each redirect is checked again
- time, size and type are limited

The event loop parses the responses, so its work is limited too: the bytes of all response heads together (a host may
send any number of 1xx responses), the bytes per read, and the number of pieces of a body, whose cost does not depend on
their size.
"""

import asyncio
import base64
import binascii
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any, NewType, NoReturn

import httpcore
import httpx

from src.bulkhead import CLIENT_SHARE, Bulkhead, places_of_share
from src.errors import InvalidInput
from src.images.name_lookup import Address, NameLookup

Resolve = Callable[[str, int], Awaitable[list[Address]]]
FetchedImage = NewType("FetchedImage", str)  # a `data:` URL whose bytes were fetched and checked here

MAX_BYTES = 4 * 1024 * 1024  # encoding it blocks the event loop, and a provider's SDK makes eight copies
MAX_REDIRECTS = 3
TIMEOUT = 10.0
MAX_FETCHES = 8  # at once
MAX_IMAGES = 16  # in memory at once; the largest take about 34 MiB each while a provider's SDK encodes them
MAX_HEAD_BYTES = 16_384  # twice what nginx takes from an upstream
HEAD_READ_BYTES = 4096  # between reads the event loop serves others
MAX_SMALL_PIECES = 256
MIN_PIECE_BYTES = 512  # average beyond MAX_SMALL_PIECES; smaller than a network packet
REDIRECTS = frozenset({301, 302, 303, 307, 308})
HEADERS = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "hardened-genkit-service"}
DEFAULT_PORTS = {"http": 80, "https": 443}
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif", "image/gif"})

# ASCII: otherwise two non-ASCII letters would match s and k, because case is ignored.
_DATA_URL = re.compile(
    r"data:(?P<type>image/[a-z0-9.+-]+);base64,(?P<data>[A-Za-z0-9+/]+={0,2})", re.IGNORECASE | re.ASCII
)

# IANA special-purpose registries (RFC 6890). Written out: `is_global` differs between Python versions.
# And Azure's platform services (168.63.129.16), which answer only from inside although their address looks public.
_CLOSED_IPV4 = tuple(
    IPv4Network(net)
    for net in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        "168.63.129.16/32",
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
# Only global unicast is open. Loopback, local, mapped, NAT64 and multicast addresses are outside it. Closed within it:
# IETF assignments with Teredo, documentation, 6to4, AS112.
_OPEN_IPV6 = IPv6Network("2000::/3")
_CLOSED_IPV6 = tuple(
    IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


def is_public(address: Address) -> bool:
    """Return True for an address on the public internet.

    False for the IPv6 ranges that embed IPv4 addresses (mapped, NAT64, 6to4, Teredo), even if those are public.
    """
    if isinstance(address, IPv4Address):
        return not any(address in net for net in _CLOSED_IPV4)
    return address in _OPEN_IPV6 and not any(address in net for net in _CLOSED_IPV6)


class ImageFetcher:
    """Turns an image URL into a `data:` URL.

    Args:
        client_share: Maximum share of the fetches, name look-ups and images in memory for one client.
        resolve: Returns a host's addresses; `NameLookup` if not given.
        is_allowed: Returns True for an address that may be connected to.
        ports: The port allowed for each scheme.
        timeout: Seconds for everything, name resolution and redirects included.
        max_bytes: Maximum size of the image.
        tls: TLS settings to verify servers; `certifi`'s authorities if not given.
    """

    def __init__(
        self,
        *,
        client_share: float = CLIENT_SHARE,
        resolve: Resolve | None = None,
        is_allowed: Callable[[Address], bool] = is_public,
        ports: dict[str, int] = DEFAULT_PORTS,
        timeout: float = TIMEOUT,
        max_bytes: int = MAX_BYTES,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._fetches = Bulkhead(MAX_FETCHES, per_client=places_of_share(MAX_FETCHES, client_share))
        self._in_memory = Bulkhead(MAX_IMAGES, per_client=places_of_share(MAX_IMAGES, client_share))
        self._resolve = resolve or NameLookup(client_share=client_share)
        self._is_allowed = is_allowed
        self._ports = ports
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._given_tls = tls

    @asynccontextmanager
    async def fetched(self, url: str) -> AsyncIterator[FetchedImage]:
        """Fetch an image, and count it as in memory until the block ends.

        Raises:
            InvalidInput: As in `fetch`.
            Overloaded: As in `fetch`, or too many images are in memory.
        """
        async with self._in_memory.slot():
            yield await self.fetch(url)

    async def fetch(self, url: str) -> FetchedImage:
        """Return the image as `data:<type>;base64,<data>`.

        Raises:
            InvalidInput: The URL is refused, or has no usable image. A refused URL gets no request, and the message
                reveals nothing about its host.
            Overloaded: Too many images are being fetched or names resolved, in total or by the current caller.
        """
        if url[:5].lower() == "data:":
            return FetchedImage(self._checked_data_url(url))
        parsed = _parse(url)
        try:
            async with self._fetches.slot(), asyncio.timeout(self._timeout):
                return FetchedImage(await self._download(parsed))
        except TimeoutError:
            _refuse(f"the image took longer than {self._timeout:g} seconds")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpx.InvalidURL, ssl.SSLError):
            _refuse("the image could not be fetched")

    def _checked_data_url(self, url: str) -> str:
        match = _DATA_URL.fullmatch(url)
        if match is None or match["type"].lower() not in IMAGE_TYPES:
            _refuse("a data: URL must be data:image/<png|jpeg|webp|heic|heif|gif>;base64,<data>")
        try:
            data = base64.b64decode(match["data"], validate=True)
        except binascii.Error:
            _refuse("the data: URL is not valid base64")
        return self._data_url(match["type"].lower(), data)

    def _data_url(self, media_type: str, data: bytes) -> str:
        if len(data) > self._max_bytes:
            _refuse(f"the image is larger than {self._max_bytes} bytes")
        return f"data:{media_type};base64,{base64.b64encode(data).decode()}"

    async def _download(self, url: httpx.URL) -> str:
        for _ in range(MAX_REDIRECTS + 1):
            address = await self._checked_address(url)
            answer = await self._get(url, address)
            if isinstance(answer, str):
                return answer
            url = answer
        _refuse(f"the image is behind more than {MAX_REDIRECTS} redirects")

    async def _checked_address(self, url: httpx.URL) -> Address:
        port = self._ports.get(url.scheme)
        if port is None or not url.raw_host or url.userinfo or _port(url) != port:
            _refuse("must be a plain http: or https: URL on the default port, or a data: URL")
        try:
            addresses = await self._resolve(url.raw_host.decode("ascii"), port)
        except (OSError, ValueError):
            addresses = []
        if not addresses or not all(self._is_allowed(address) for address in addresses):
            _refuse("must name a public host")
        return addresses[0]

    async def _get(self, url: httpx.URL, address: Address) -> str | httpx.URL:
        """Return the image, or the location that it has moved to. Connects to `address`, with TLS for the host name.

        Each request has its own connection, so nothing is carried over to the next, such as a cookie or TLS verified
        for another name. Redirects are followed by this module only.
        """
        origin = httpcore.Origin(url.raw_scheme, str(address).encode(), self._ports[url.scheme])
        target = httpcore.URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=url.raw_path)
        headers = list((HEADERS | {"host": url.netloc.decode("ascii")}).items())
        async with self._connected(url, origin) as stream:
            head = _BoundedHead(stream)
            connection = _Connection(origin=origin, stream=head)
            response = await connection.handle_async_request(httpcore.Request("GET", target, headers=headers))
            head.end()
            fields = httpx.Headers(response.headers)
            if response.status in REDIRECTS and "location" in fields:
                return _parse(fields["location"], base=url)
            return self._data_url(_checked_type(response.status, fields), await self._body(response, fields))

    @asynccontextmanager
    async def _connected(self, url: httpx.URL, origin: httpcore.Origin) -> AsyncIterator[httpcore.AsyncNetworkStream]:
        stream = await httpcore.AnyIOBackend().connect_tcp(origin.host.decode(), origin.port)
        try:
            if url.scheme == "https":
                # Closes the TCP stream, also if the handshake is cancelled.
                yield await stream.start_tls(self._tls, server_hostname=url.raw_host.decode("ascii"))
            else:
                yield stream
        finally:
            await stream.aclose()

    async def _body(self, response: httpcore.Response, fields: httpx.Headers) -> bytes:
        if int(fields.get("content-length", 0)) > self._max_bytes:
            _refuse(f"the image is larger than {self._max_bytes} bytes")
        body, pieces = bytearray(), 0
        async for piece in response.aiter_stream():
            body += piece
            pieces += 1
            if len(body) > self._max_bytes:
                _refuse(f"the image is larger than {self._max_bytes} bytes")
            if pieces > MAX_SMALL_PIECES + len(body) // MIN_PIECE_BYTES:
                _refuse("the image comes in too many pieces")
        return bytes(body)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._given_tls or httpx.create_ssl_context(trust_env=False)


class _Connection(httpcore.AsyncHTTP11Connection):
    """A connection whose parser never gets more bytes at once than a head may have."""

    READ_NUM_BYTES = MAX_HEAD_BYTES
    MAX_INCOMPLETE_EVENT_SIZE = MAX_HEAD_BYTES


class _BoundedHead(httpcore.AsyncNetworkStream):
    """A connection that fails if the bytes before a response's body exceed the limit of a head."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left: int | None = MAX_HEAD_BYTES

    def end(self) -> None:
        """Stop counting: the head is complete."""
        self._left = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        if self._left is None:
            return await self._stream.read(max_bytes, timeout)
        if not self._left:
            raise httpcore.RemoteProtocolError("the head of the response is too long")
        data = await self._stream.read(min(max_bytes, self._left, HEAD_READ_BYTES), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - likewise
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _checked_type(status: int, fields: httpx.Headers) -> str:
    media_type = str(fields.get("content-type", "")).partition(";")[0].strip().lower()
    if status != httpx.codes.OK:
        _refuse("the image could not be fetched")
    if media_type not in IMAGE_TYPES or fields.get("content-encoding", "identity") != "identity":
        _refuse("the URL does not lead to an image of a known type")
    return media_type


def _port(url: httpx.URL) -> int | None:
    return DEFAULT_PORTS.get(url.scheme) if url.port is None else url.port


def _parse(url: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """Parse the URL with httpx, which also sends the request, so that no second parser can disagree."""
    try:
        parsed = base.join(url) if base else httpx.URL(url)
        parsed.raw_host.decode("ascii")
    except (httpx.InvalidURL, ValueError, TypeError):
        _refuse("is not a valid URL")
    return parsed


def _refuse(message: str) -> NoReturn:
    raise InvalidInput("image_url", message)
