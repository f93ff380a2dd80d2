"""The guarded fetch: only public hosts, only images, only so much, only so long."""

import asyncio
import base64
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from src.callers.caller import Caller, set_caller
from src.errors import InvalidInput, ShareExceeded
from src.images.fetch import MIN_PIECE_BYTES, ImageFetcher, _parse, is_public
from src.images.name_lookup import Address
from testing.small_service import DOT

PNG = b"\x89PNG\r\n"
PNG_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
LOOPBACK = ip_address("127.0.0.1")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A web server on loopback that answers scripted bytes, and remembers who came."""

    def __init__(self, answers: dict[str, bytes], *, tls: ssl.SSLContext | None = None) -> None:
        self.answers = answers
        self.requests: list[str] = []
        self.connections = 0
        self.reached = asyncio.Event()
        self.closed_early = asyncio.Event()
        self._tls = tls

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            first = await reader.readexactly(1)
            self.reached.set()
            request = (first + await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(request)
            answer = self.answers.get(request.split(" ")[1], b"")
            writer.write(answer)
            await writer.drain()
            if not answer:
                await reader.read()
                self.closed_early.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed_early.set()
        finally:
            writer.close()


def answer(body: bytes = PNG, *, status: str = "200 OK", **headers: str) -> bytes:
    headers = {"content-type": "image/png", "content-length": str(len(body)), "connection": "close"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def moved(location: str) -> bytes:
    return answer(b"", status="302 Found", location=location)


def chunked(chunks: list[bytes]) -> bytes:
    """An answer whose body is still open after these chunks."""
    head = answer(b"", content_length="", transfer_encoding="chunked")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


def fetcher(port: int, **options: Any) -> ImageFetcher:
    """One that may use loopback, under the name `site.test`, and this port for both schemes."""

    async def resolve(host: str, _port: int) -> list[Address]:
        return [LOOPBACK] if host == "site.test" else [ip_address("10.0.0.1")]

    defaults: dict[str, Any] = {
        "resolve": resolve,
        "is_allowed": lambda address: address == LOOPBACK,
        "ports": {"http": port, "https": port},
        "timeout": 5.0,
    }
    return ImageFetcher(**(defaults | options))


def fetch_from(answers: dict[str, bytes], path: str = "/", **options: Any) -> str:
    async def scenario() -> str:
        async with Site(answers).running() as port:
            return await fetcher(port, **options).fetch(f"http://site.test:{port}{path}")

    return asyncio.run(scenario())


def refusal_of(url: str, **options: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        asyncio.run(ImageFetcher(**options).fetch(url))
    assert caught.value.field == "image_url"
    return caught.value.message


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
        *("169.254.169.254", "169.254.170.2", "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1"),
        *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
        *("255.255.255.255", "192.88.99.1", "100.100.100.200", "168.63.129.16"),
        *("::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "3fff::1"),
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "2002:7f00:1::1", "2002:a00:1::", "64:ff9b::a00:1"),
        *("64:ff9b::7f00:1", "64:ff9b:1::1", "2001::1", "2001:0:a00:1::", "100::1", "5f00::1", "::ffff:0:127.0.0.1"),
    ],
)
def test_an_address_that_is_not_public_is_closed(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::1"])
def test_a_public_address_is_open(address: str) -> None:
    assert is_public(ip_address(address))


@given(st.ip_addresses(v=4))
def test_no_form_of_an_ipv4_address_is_open_in_ipv6(v4: IPv4Address) -> None:
    number = int(v4)
    forms = (number, (0xFFFF << 32) | number, (0x64FF9B << 96) | number, (0x2002 << 112) | (number << 80))
    assert not any(is_public(IPv6Address(form)) for form in forms)


def is_special(v4: IPv4Address | IPv6Address) -> bool:
    return v4.is_private or v4.is_loopback or v4.is_link_local or v4.is_multicast or v4.is_reserved or v4.is_unspecified


@given(st.ip_addresses(v=4).filter(is_special))
def test_what_python_calls_private_is_closed(v4: IPv4Address) -> None:
    assert not is_public(v4)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/x.png", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/"),
        *("http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[fe80::1%25eth0]/", "http://localhost/"),
        *("http://LOCALHOST/", "http://localhost./", "http://169.254.169.254/computeMetadata/v1/", "http://0/"),
        *("http://①②⑦.0.0.1/", "https://10.0.0.1/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/"),
        *("http://127%2e0.0.1/", "http://127.0.0.1./", "http://.localhost/", "http://local host/"),
        *("http://xn--/", "http://xn--ls8h.invalid/"),
    ],
)
def test_a_host_that_is_not_public_is_refused_however_it_is_spelled(url: str) -> None:
    assert refusal_of(url) in ("must name a public host", "is not a valid URL")


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://8.8.8.8/x.png", "gopher://8.8.8.8/", "//8.8.8.8/x.png", "x.png", "", " "),
        *("http://", "http:///x.png", "https://user:pass@8.8.8.8/", "https://8.8.8.8:22/", "http://8.8.8.8:443/"),
        *("javascript:alert(1)", "http:8.8.8.8", "http://8.8.8.8\\@127.0.0.1/", "http://[::1/"),
        *("http://8.8.8.8:0/", "https://8.8.8.8:0/", "http://8.8.8.8:99999/", "http://\x00/", "http://a\r\nhost: b/"),
    ],
)
def test_what_is_no_plain_web_address_is_refused_before_its_host_is_looked_up(url: str) -> None:
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> list[Address]:
        asked.append(host)
        return []

    assert refusal_of(url, resolve=resolve)
    assert asked == []


@given(st.one_of(st.text(max_size=60), st.text(max_size=40).map("http://".__add__), st.text().map("data:".__add__)))
@example("http://xn--/")
@example("data:image/png;base64,\u017f\u017f\u017f\u017f")
@example("data:image/png;base64,\u212a\u212a\u212a\u212a")
def test_any_text_is_an_image_or_invalid_input(url: str) -> None:
    async def nowhere(_host: str, _port: int) -> list[Address]:
        return []

    try:
        assert asyncio.run(ImageFetcher(resolve=nowhere).fetch(url)).startswith("data:image/")
    except InvalidInput as refused:
        assert refused.field == "image_url"


def test_a_refused_host_gets_no_connection() -> None:
    async def scenario() -> int:
        site = Site({"/": answer()})
        async with site.running() as port:
            with pytest.raises(InvalidInput):
                await ImageFetcher(ports={"http": port}).fetch(f"http://127.0.0.1:{port}/")
        return site.connections

    assert asyncio.run(scenario()) == 0


def test_one_closed_address_among_many_refuses_the_host() -> None:
    async def resolve(_host: str, _port: int) -> list[Address]:
        return [ip_address("8.8.8.8"), ip_address("10.0.0.1")]

    assert refusal_of("http://mixed.test/", resolve=resolve) == "must name a public host"


def test_a_name_is_resolved_once_so_a_second_answer_gains_nothing() -> None:
    answers = [[LOOPBACK], [ip_address("10.0.0.1")]]

    async def rebinding(_host: str, _port: int) -> list[Address]:
        return answers.pop(0)

    assert fetch_from({"/": answer()}, resolve=rebinding) == PNG_URL
    assert len(answers) == 1


def test_the_image_is_returned_as_a_data_url() -> None:
    assert fetch_from({"/": answer()}) == PNG_URL


def test_the_server_sees_the_host_and_nothing_about_the_caller() -> None:
    async def scenario() -> str:
        site = Site({"/a?b=c": answer()})
        async with site.running() as port:
            await fetcher(port).fetch(f"http://site.test:{port}/a?b=c#d")
            assert f"\r\nhost: site.test:{port}\r\n" in site.requests[0].lower()
            assert "\r\naccept-encoding: identity\r\n" in site.requests[0].lower()
        return site.requests[0].lower()

    request = asyncio.run(scenario())
    assert not any(name in request for name in ("cookie:", "authorization:", "referer:", "x-forwarded"))


def test_a_proxy_named_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch_from({"/": answer()}) == PNG_URL


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        pytest.param({"/": answer(status="404 Not Found")}, "could not be fetched", id="not found"),
        pytest.param({"/": answer(status="500 Oops")}, "could not be fetched", id="server error"),
        pytest.param({"/": answer(content_type="text/html")}, "not lead to an image", id="a page"),
        pytest.param({"/": answer(content_type="image/svg+xml")}, "not lead to an image", id="a script in disguise"),
        pytest.param({"/": answer(content_type="")}, "not lead to an image", id="no type"),
        pytest.param({"/": answer(content_encoding="gzip")}, "not lead to an image", id="encoded"),
        pytest.param({"/": answer(content_length="101")}, "larger than 100 bytes", id="declared too large, never sent"),
        pytest.param(
            {"/": answer(b"x" * 101, content_length="")}, "larger than 100 bytes", id="too large, not declared"
        ),
        pytest.param({"/": answer(b"x", content_length="50")}, "could not be fetched", id="shorter than declared"),
        pytest.param({"/": b"garbage\r\n\r\n"}, "could not be fetched", id="no HTTP"),
        pytest.param({"/": moved("file:///etc/passwd")}, "must be a plain http", id="redirect to a file"),
        pytest.param({"/": moved("http://[")}, "must be a plain http", id="redirect to nonsense"),
        pytest.param({"/": moved("http:////[")}, "is not a valid URL", id="redirect to worse nonsense"),
        pytest.param({"/": moved("http://xn--/")}, "must be a plain http", id="redirect to no domain name"),
        pytest.param({"/": moved("/")}, "more than 3 redirects", id="redirect loop"),
        pytest.param({"/": moved(PNG_URL)}, "must be a plain http", id="redirect to a data URL"),
        pytest.param({"/": moved("http://u:p@site.test/")}, "must be a plain http", id="redirect with a password"),
        pytest.param({"/": chunked([b"x" * 60, b"x" * 60])}, "larger than 100 bytes", id="too large, in chunks"),
    ],
)
def test_what_is_no_usable_image_is_invalid_input(answers: dict[str, bytes], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        fetch_from(answers, max_bytes=100)


def test_a_redirect_to_a_closed_host_is_refused() -> None:
    async def scenario() -> None:
        site = Site({})
        async with site.running() as port:
            site.answers["/"] = moved(f"http://inner.test:{port}/secret")
            with pytest.raises(InvalidInput, match="must name a public host"):
                await fetcher(port).fetch(f"http://site.test:{port}/")
        assert len(site.requests) == 1

    asyncio.run(scenario())


@given(st.text("[]:/\\@?#%.-xn0afhtp\u2100\u24d0", max_size=20), st.sampled_from(["", "//", "http://", "http://xn--"]))
@example("[", "http:////")
def test_any_redirect_target_is_a_url_or_invalid_input(target: str, prefix: str) -> None:
    try:
        assert _parse(prefix + target, base=httpx.URL("http://site.test/x")).raw_host.isascii()
    except InvalidInput as refused:
        assert refused.field == "image_url"


@pytest.mark.parametrize(("hops", "allowed"), [(3, True), (4, False)])
def test_three_redirects_are_followed(hops: int, allowed: bool) -> None:
    answers = {f"/{hop}": moved(f"/{hop + 1}") for hop in range(hops)} | {f"/{hops}": answer()}
    if allowed:
        assert fetch_from(answers, "/0") == PNG_URL
    else:
        with pytest.raises(InvalidInput):
            fetch_from(answers, "/0")


def test_a_name_server_that_never_answers_ends_with_the_limit() -> None:
    async def never(_host: str, _port: int) -> list[Address]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    assert "longer than 0.05 seconds" in refusal_of("http://slow.test/", resolve=never, timeout=0.05)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cancelling_closes_the_connection(scheme: str) -> None:
    """The site answers nothing: under https the handshake is what hangs."""

    async def scenario() -> None:
        site = Site({})
        async with site.running() as port, asyncio.timeout(5):
            work = asyncio.create_task(fetcher(port).fetch(f"{scheme}://site.test:{port}/"))
            await site.reached.wait()
            work.cancel()
            await site.closed_early.wait()
            assert work.cancelled()

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_never_answers_ends_with_the_limit_and_loses_its_connection(scheme: str) -> None:
    async def scenario() -> None:
        site = Site({})
        async with site.running() as port, asyncio.timeout(5):
            with pytest.raises(InvalidInput, match=r"longer than 0\.2 seconds"):
                await fetcher(port, timeout=0.2).fetch(f"{scheme}://site.test:{port}/")
            await site.closed_early.wait()

    asyncio.run(scenario())


def test_a_server_that_drips_ends_with_the_limit() -> None:
    """Each byte comes well within the limit, all of them don't."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"", content_length="1000"))
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"x")
                await writer.drain()
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.02)
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(InvalidInput, match=r"longer than 0\.2 seconds"):
                await fetcher(port, timeout=0.2).fetch(f"http://site.test:{port}/")

    asyncio.run(scenario())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of its own authority for `site.test`: (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("site.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize(
    ("host", "trusted", "works"),
    [
        pytest.param("site.test", True, True, id="right name, known authority"),
        pytest.param("other.test", True, False, id="wrong name"),
        pytest.param("site.test", False, False, id="unknown authority"),
    ],
)
def test_tls_is_verified_for_the_name_not_the_address(
    authority: tuple[Path, Path], host: str, trusted: bool, works: bool
) -> None:
    certificate, key = authority
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    verifying = ssl.create_default_context(cafile=str(certificate) if trusted else None)

    async def resolve(_host: str, _port: int) -> list[Address]:
        return [LOOPBACK]

    async def scenario() -> str:
        async with Site({"/": answer()}, tls=served).running() as port:
            return await fetcher(port, tls=verifying, resolve=resolve).fetch(f"https://{host}:{port}/")

    if works:
        assert asyncio.run(scenario()) == PNG_URL
    else:
        with pytest.raises(InvalidInput, match="could not be fetched"):
            asyncio.run(scenario())


@pytest.mark.parametrize("url", [PNG_URL, PNG_URL.replace("image/png", "IMAGE/PNG"), DOT])
def test_a_data_url_is_taken_as_it_is(url: str) -> None:
    assert asyncio.run(ImageFetcher().fetch(url)) == url.replace("IMAGE/PNG", "image/png")


@pytest.mark.parametrize(
    "url",
    [
        *("data:text/html;base64,eA==", "data:image/svg+xml;base64,eA==", "data:image/png,xyz", "data:", "data:,x"),
        *("data:image/png;base64,", "data:image/png;base64,e", "data:image/png;base64,e%3D"),
        *("data:image/png;base64,@@", "data:image/png;ba\u017fe64,eA=="),
        *("data:image/png;charset=x;base64,eA==", "data:image/png;base64,eA==\n", " data:image/png;base64,eA=="),
    ],
)
def test_any_other_data_url_is_refused(url: str) -> None:
    assert refusal_of(url)


def test_a_data_url_has_the_same_size_limit() -> None:
    assert "larger than 5 bytes" in refusal_of(PNG_URL, max_bytes=5)


def endless(head: bytes, piece: bytes) -> Handler:
    """A site that answers with a head, and then with the same bytes until its client leaves."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            while True:
                writer.write(piece)
                await writer.drain()
        writer.close()

    return serve


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
HOSTILE = {
    "1xx responses without end": endless(b"", b"HTTP/1.1 103 E\r\n\r\n" * 1000),
    "chunks of a byte": endless(CHUNKED, b"1\r\na\r\n" * 1000),
    "chunks with long extensions": endless(CHUNKED, b"1;" + b"x" * 10_000 + b"\r\na\r\n"),
    "one header without end": endless(b"HTTP/1.1 200 OK\r\nx: ", b"a" * 10_000),
    "headers without end": endless(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 1000),
    "trailers without end": endless(CHUNKED + b"1\r\na\r\n0\r\n", b"a: b\r\n" * 1000),
    "a status line without end": endless(b"HTTP/1.1 200 ", b"O" * 10_000),
    "a chunk size without end": endless(CHUNKED, b"0" * 10_000),
    "a body without end": endless(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n", b"a" * 10_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_hostile_host_sends_without_end_is_ended_by_its_amount(kind: str) -> None:
    """Long before the limit in time, of which the event loop would be busy for all."""

    async def scenario() -> None:
        async with await asyncio.start_server(HOSTILE[kind], "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(InvalidInput) as refused:
                await fetcher(port, timeout=60.0).fetch(f"http://site.test:{port}/")
        assert "longer than" not in refused.value.message

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_an_image_in_small_network_packets_or_chunks_is_read() -> None:
    body = PNG * 50_000
    pieces = [body[start : start + MIN_PIECE_BYTES] for start in range(0, len(body), MIN_PIECE_BYTES)]
    url = "data:image/png;base64," + base64.b64encode(body).decode()
    assert fetch_from({"/": chunked(pieces) + b"0\r\n\r\n"}) == url
    assert fetch_from({"/": chunked([bytes([byte]) for byte in PNG]) + b"0\r\n\r\n"}) == PNG_URL


def test_one_client_has_two_fetches_at_once() -> None:
    async def scenario() -> None:
        site = Site({})
        async with site.running() as port:
            images = fetcher(port)

            async def fetch(client: str) -> str:
                set_caller(Caller(client, client))
                return await images.fetch(f"http://site.test:{port}/")

            tasks = [asyncio.create_task(fetch("hostile")) for _ in range(2)]
            await site.reached.wait()
            with pytest.raises(ShareExceeded):
                await fetch("hostile")
            site.answers["/"] = answer()
            assert await fetch("honest") == PNG_URL
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert await fetch("hostile") == PNG_URL

    asyncio.run(scenario())
