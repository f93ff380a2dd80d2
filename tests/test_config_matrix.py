"""Whatever is wrong with a setting, one line says so. Every setting is tried, also one that is added tomorrow."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from src.config import ConfigError, Settings, is_secret
from src.settings_loader import load_settings
from tests.certificates import Authority

OFFLINE = {"MODEL": "offline/demo"}
# What somebody may write by mistake, in a variable or an env file.
MISTAKES = {
    "blank": "  \t ",
    "null byte": "a\x00b",
    "line feed inside": "a\nb",
    "escape": "\x1b[31mred",
    "delete": "a\x7f",
    "mark of direction": "a\u202eb",
    "lone surrogate": "a\udcffb",
    "huge number": "9" * 400,
    "negative": "-1",
    "not a number": "nan",
    "infinite": "inf",
    "very long": "x" * 100_000,
    "quotes": "\"'",
    "path of nothing": "/no/such/file",
    "folder": "/",
}


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting but the test's own."""
    monkeypatch.chdir(tmp_path)
    for name in (*Settings.model_fields, "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_mistake_is_harmless_or_told_in_one_line(name: str, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = MISTAKES[mistake]
    try:
        monkeypatch.setenv(name.upper(), value)
    except ValueError:  # no variable can hold a null byte, a flag can
        overrides = {name: value}
    else:
        overrides = {}
    try:
        settings = load_settings(overrides)
    except ConfigError as error:
        message = str(error)
        assert "\n" not in message
        assert message.isprintable()
        assert message.partition("=")[0].isupper()
        assert name.upper() in message
        assert not is_secret(Settings.model_fields[name]) or value.strip() not in message
    else:
        taken = getattr(settings, name)
        assert "\x00" not in str(taken)
        text = taken.get_secret_value() if is_secret(Settings.model_fields[name]) and taken is not None else str(taken)
        assert text == text.strip()
        assert text.isprintable()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_blank_value_counts_as_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUG", "true")  # for a default of MODEL
    monkeypatch.delenv("MODEL")
    if name == "debug":
        monkeypatch.setenv("MODEL", "offline/demo")
        monkeypatch.delenv("DEBUG")
    unset = load_settings()
    monkeypatch.setenv(name.upper(), "   ")
    assert load_settings() == unset


def test_text_is_taken_without_blanks_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", "googleai/gemini-flash-latest\r")
    monkeypatch.setenv("GEMINI_API_KEY", "key\n")
    settings = load_settings()
    assert settings.model == "googleai/gemini-flash-latest"
    assert settings.gemini_api_key is not None
    assert settings.gemini_api_key.get_secret_value() == "key"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def garbage(certificate: Path, _key: Path) -> None:
    certificate.write_text("no certificate")


def empty(certificate: Path, _key: Path) -> None:
    certificate.write_text("")


def swapped(certificate: Path, key: Path) -> None:
    certificate.write_bytes(key.read_bytes())


def no_key(_certificate: Path, key: Path) -> None:
    key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")


@pytest.mark.parametrize("spoil", [garbage, empty, swapped, no_key])
def test_files_that_hold_no_certificate_or_key(
    authority: Authority, tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    issued = authority.issue("localhost")
    spoil(issued.certificate, issued.key)
    with pytest.raises(
        ConfigError, match=r"^GRPC_TLS_CERT='.*': should contain a certificate, and GRPC_TLS_KEY='.*' its private key"
    ) as caught:
        load_settings({"grpc_tls_cert": str(issued.certificate), "grpc_tls_key": str(issued.key)})
    assert "\n" not in str(caught.value)


def test_the_key_of_another_certificate(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(ConfigError, match=r"^GRPC_TLS_KEY='.*other.key': does not belong to the certificate"):
        load_settings({"grpc_tls_cert": str(one.certificate), "grpc_tls_key": str(other.key)})


@pytest.mark.parametrize(
    "content", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_an_authority_without_a_certificate(authority: Authority, tmp_path: Path, content: str) -> None:
    issued = authority.issue("localhost")
    file = tmp_path / "authority.pem"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"^GRPC_TLS_CLIENT_CA='.*authority.pem': contains no PEM certificate$"):
        load_settings(
            {
                "grpc_tls_cert": str(issued.certificate),
                "grpc_tls_key": str(issued.key),
                "grpc_tls_client_ca": str(file),
            }
        )


def test_right_files_are_taken(authority: Authority) -> None:
    issued = authority.issue("localhost")
    settings = load_settings(
        {
            "grpc_tls_cert": str(issued.certificate),
            "grpc_tls_key": str(issued.key),
            "grpc_tls_client_ca": str(authority.root),
        }
    )
    assert settings.grpc_tls_client_ca == authority.root


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:9"),
        ("HTTPS_PROXY", "ftp://user:hidden-password@127.0.0.1:9"),
        ("https_proxy", "http://[::1"),
        ("HTTP_PROXY", "http://127.0.0.1:port"),
        ("NO_PROXY", "127.0.0.1,fe80::/10"),
        ("no_proxy", "[::1]:80"),
    ],
)
def test_a_proxy_that_no_client_can_use(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=rf"^{variable}: should be http://HOST:PORT") as caught:
        load_settings()
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_usable_proxies_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost,10.0.0.0/8,::1,.internal")
    assert load_settings().model == os.environ["MODEL"]
