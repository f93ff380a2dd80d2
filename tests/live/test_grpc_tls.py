"""gRPC over TLS, and with client certificates: who has the right one gets in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from testing import small_service
from testing.service import Service
from testing.small_service import pb
from tests.certificates import Authority, Issued


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"), "stranger")


@pytest.fixture(scope="module", params=["TLS", "mutual TLS"])
def service(request: pytest.FixtureRequest, authority: Authority) -> Iterator[tuple[Service, bool]]:
    server = authority.issue("server.test", addresses=("127.0.0.1",))
    env = {"GRPC_TLS_CERT": str(server.certificate), "GRPC_TLS_KEY": str(server.key)}
    mutual = request.param == "mutual TLS"
    if mutual:
        env["GRPC_TLS_CLIENT_CA"] = str(authority.root)
    with Service(**env) as running:
        yield running, mutual


def status(service: Service, root: Path, client: Issued | None = None) -> grpc.StatusCode:
    credentials = grpc.ssl_channel_credentials(
        root.read_bytes(),
        private_key=client.key.read_bytes() if client else None,
        certificate_chain=client.certificate.read_bytes() if client else None,
    )
    with grpc.secure_channel(f"127.0.0.1:{service.grpc_port}", credentials) as channel:
        stub: Any = small_service.stub(channel)
        try:
            stub.Health(pb.HealthRequest(), timeout=5)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_a_client_with_the_right_certificate_gets_in(service: tuple[Service, bool], authority: Authority) -> None:
    assert status(service[0], authority.root, authority.issue("client.test")) == grpc.StatusCode.OK


def test_without_a_certificate_only_plain_tls_lets_in(service: tuple[Service, bool], authority: Authority) -> None:
    running, mutual = service
    assert status(running, authority.root) == (grpc.StatusCode.UNAVAILABLE if mutual else grpc.StatusCode.OK)


def test_a_strangers_certificate_does_not_get_in_where_one_is_asked_for(
    service: tuple[Service, bool], authority: Authority, stranger: Authority
) -> None:
    running, mutual = service
    expected = grpc.StatusCode.UNAVAILABLE if mutual else grpc.StatusCode.OK
    assert status(running, authority.root, stranger.issue("client.test")) == expected


def test_a_client_that_trusts_another_authority_does_not_connect(
    service: tuple[Service, bool], stranger: Authority
) -> None:
    assert status(service[0], stranger.root) == grpc.StatusCode.UNAVAILABLE


def test_plain_text_does_not_get_in(service: tuple[Service, bool]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service[0].stub.Health(pb.HealthRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
