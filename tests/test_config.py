"""Settings: closed defaults, one precedence, one line for each mistake."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from errno import EACCES
from pathlib import Path
from unittest.mock import Mock

import pytest

from src.config import ConfigError, Settings, flag_of, is_secret
from src.lifecycle.flags import HELP_GROUPS, parse_flags
from src.lifecycle.ports import check_port_free
from src.lifecycle.startup_errors import exit_with, load_settings_or_exit
from src.settings_loader import load_settings, missing_env_file


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of this machine, and no env file, reaches a test."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_production_without_a_model_does_not_start() -> None:
    with pytest.raises(ConfigError, match=r"^MODEL='' \(--model\): name a model: googleai/"):
        load_settings()


def test_production_defaults_are_closed() -> None:
    settings = load_settings({"model": "offline/demo"})
    assert not settings.debug
    assert settings.log_format == "json"
    assert settings.host == "0.0.0.0"


def test_debug_alone_opens_the_conveniences() -> None:
    settings = load_settings({"debug": True})
    assert (settings.host, settings.log_format, settings.model) == ("127.0.0.1", "console", "offline/demo")


def test_debug_does_not_override_what_is_configured() -> None:
    settings = load_settings({"debug": True, "host": "::1", "log_format": "json"})
    assert (settings.host, settings.log_format) == ("::1", "json")


def test_a_gemini_key_alone_chooses_gemini_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "k")
    assert load_settings().model == "googleai/gemini-flash-latest"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("MODEL", "offline/demo")
    assert load_settings().port == 8080


def test_precedence_is_flag_environment_named_file_env_file_default(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("MODEL=offline/demo\nPORT=1001\nGRPC_PORT=1001\nWORKERS=2\nLLM_TIMEOUT=7\n")
    Path(".stage.env").write_text("PORT=1002\nGRPC_PORT=1002\nWORKERS=3\n")
    monkeypatch.setenv("PORT", "1003")
    monkeypatch.setenv("GRPC_PORT", "1003")
    settings = load_settings({"app_env": "stage", "port": 1004})
    assert (settings.port, settings.grpc_port, settings.workers, settings.llm_timeout) == (1004, 1003, 3, 7)
    assert settings.shutdown_grace == 10.0


@pytest.mark.parametrize(
    ("values", "line"),
    [
        pytest.param({"port": "abc"}, "PORT='abc' (--port): Input should be a valid integer", id="not a number"),
        pytest.param({"port": 0}, "PORT=0 (--port): Input should be greater than or equal to 1", id="out of range"),
        pytest.param(
            {"server": "apache"},
            "SERVER='apache' (--server): Input should be 'granian', 'uvicorn' or 'hypercorn'",
            id="unknown choice",
        ),
        pytest.param({"model": "x/y"}, "MODEL='x/y' (--model): name a model", id="unknown provider"),
        pytest.param({"model": "offline/x"}, "MODEL='offline/x' (--model): name a model", id="unknown embedded model"),
        pytest.param(
            {"model": "googleai/x"}, "GEMINI_API_KEY='': MODEL=googleai/x needs a Gemini API key", id="no key"
        ),
        pytest.param(
            {"model": "openai/x"}, "OPENAI_API_KEY='': MODEL=openai/x needs an API key", id="no key, no server"
        ),
        pytest.param(
            {"port": 9, "grpc_port": 9}, "GRPC_PORT=9 (--grpc-port): is the same as PORT;", id="one port for both"
        ),
        pytest.param({"app_env": "../x"}, "APP_ENV='../x' (--env): String should match", id="path as environment"),
        pytest.param(
            {"grpc_tls_key": "a" * 300},
            f"GRPC_TLS_KEY='{'a' * 300}' (--grpc-tls-key): can't be read: File name too long",
            id="long path",
        ),
        pytest.param(
            {"app_env": "a" * 300}, f"APP_ENV='{'a' * 300}' (--env): String should match", id="long name of environment"
        ),
        pytest.param({"grpc_tls_cert": "/nowhere"}, "GRPC_TLS_CERT='/nowhere' (--grpc-tls-cert): Path", id="no file"),
        pytest.param(
            {"grpc_tls_cert": __file__}, "GRPC_TLS_KEY='': is required, because GRPC_TLS_CERT", id="no key file"
        ),
        pytest.param(
            {"grpc_tls_client_ca": __file__}, "GRPC_TLS_CERT='': is required, because GRPC_TLS_CLIENT_CA", id="half TLS"
        ),
        pytest.param({"trusted_proxies": "all"}, "TRUSTED_PROXIES='all' (--trusted-proxies): 'all' does", id="no CIDR"),
        pytest.param(
            {"trusted_hosts": "http://a"},
            "TRUSTED_HOSTS='http://a' (--trusted-hosts): should be host names",
            id="no host",
        ),
        pytest.param(
            {"cors_allowed_origins": "a.test"}, "CORS_ALLOWED_ORIGINS='a.test' (--cors-allowed-origins)", id="no origin"
        ),
        pytest.param(
            {"trusted_proxies": "10.0.0.1, 0.0.0.0/0"},
            "TRUSTED_PROXIES='10.0.0.1, 0.0.0.0/0' (--trusted-proxies): 0.0.0.0/0 is too wide",
            id="all of IPv4 as proxies",
        ),
        pytest.param(
            {"ollama_base_url": "http://a..b"},
            "OLLAMA_BASE_URL='http://a..b' (--ollama-base-url): should have a host",
            id="a host that DNS can't have",
        ),
        pytest.param(
            {"ollama_base_url": "http://["},
            "OLLAMA_BASE_URL='http://[' (--ollama-base-url): should have a host",
            id="half IPv6",
        ),
        pytest.param(
            {"openai_base_url": "http://a:99999"},
            "OPENAI_BASE_URL='http://a:99999' (--openai-base-url): should have a host and a valid port",
            id="URL with a port out of range",
        ),
        pytest.param(
            {"google_gemini_base_url": "https:///v1"},
            "GOOGLE_GEMINI_BASE_URL='https:///v1' (--google-gemini-base-url): should have a host",
            id="URL without a host",
        ),
        pytest.param(
            {"gemini_api_key": "clé"}, "GEMINI_API_KEY='***': contains a character that is not", id="no ASCII"
        ),
        pytest.param({"sentry_dsn": "canary"}, "SENTRY_DSN='***': is not a DSN", id="no DSN"),
        pytest.param({"sentry_dsn": "https://host/1"}, "SENTRY_DSN='***': is not a DSN", id="DSN without a key"),
        pytest.param({"grpc_enabled": "maybe"}, "GRPC_ENABLED='maybe' (--no-grpc): Input should be", id="no boolean"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(values: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"debug": True, **values})
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("network", ["10.0.0.0/8", "unix", "fd12::/16"])
def test_a_network_of_ones_own_may_be_a_proxys(network: str) -> None:
    assert load_settings({"debug": True, "trusted_proxies": network}).trusted_proxies == network


@pytest.mark.parametrize("network", ["10.0.0.0/7", "128.0.0.0/1", "fd00::/15", "::/0"])
def test_networks_of_strangers_are_no_proxies(network: str) -> None:
    with pytest.raises(ConfigError, match="is too wide"):
        load_settings({"debug": True, "trusted_proxies": network})


@pytest.mark.parametrize(
    ("host", "accepts"),
    [("127.0.0.1", False), ("127.9.9.9", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True)],
)
def test_only_loopback_addresses_keep_other_machines_out(host: str, accepts: bool) -> None:
    assert load_settings({"debug": True, "host": host}).accepts_other_machines is accepts


def make_folder(file: Path) -> None:
    file.mkdir()


def make_pipe(file: Path) -> None:
    os.mkfifo(file)


def make_latin_1(file: Path) -> None:
    file.write_bytes("PORT=1\n# für".encode("latin-1"))


UNREADABLE = [
    pytest.param(make_folder, "is not a regular file", id="folder"),
    pytest.param(make_pipe, "is not a regular file", id="pipe"),
    pytest.param(make_latin_1, "is not UTF-8 (byte 11)", id="not UTF-8"),
]


@pytest.mark.parametrize("name", [".env", ".stage.env"])
@pytest.mark.parametrize(("make", "complaint"), UNREADABLE)
def test_an_env_file_that_cant_be_read_is_named(name: str, make: Callable[[Path], None], complaint: str) -> None:
    make(Path(name))
    with pytest.raises(ConfigError) as caught:
        load_settings({"debug": True, "app_env": "stage"})
    assert str(caught.value) == f"{Path(name).absolute()}: {complaint}"


def test_an_env_file_without_permission_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As any user but root, who may read every file, would see it."""
    Path(".env").touch()
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=PermissionError(EACCES, os.strerror(EACCES))))
    with pytest.raises(ConfigError, match="can't be read: Permission denied"):
        load_settings({"debug": True})


def test_a_byte_order_mark_hides_no_setting() -> None:
    Path(".env").write_bytes(b"\xef\xbb\xbfPORT=1001\n")
    assert load_settings({"debug": True}).port == 1001


def test_a_missing_named_env_file_is_no_mistake_by_itself() -> None:
    assert load_settings({"debug": True, "app_env": "stage"}).app_env == "stage"
    assert missing_env_file("stage") == Path(".stage.env").absolute()
    assert missing_env_file("") is None
    Path(".stage.env").touch()
    assert missing_env_file("stage") is None


def test_a_wrong_value_in_a_file_is_shown_as_it_was_written() -> None:
    Path(".env").write_text("MODEL=offline/demo\nPORT=eighty\n")
    with pytest.raises(ConfigError, match="PORT='eighty'"):
        load_settings()


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "canary")
    monkeypatch.setenv("PORT", "x")
    settings = load_settings({"port": 1})
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "canary" not in str(caught.value) + repr(settings) + str(settings.model_dump())


def test_every_setting_has_a_flag_except_secrets() -> None:
    argv = ["--debug", "--no-grpc", "--no-telemetry", "--env", "x", "--port", "1", "--llm-timeout", "5"]
    assert parse_flags(argv) == {
        "debug": True,
        "grpc_enabled": False,
        "genkit_telemetry_disabled": True,
        "app_env": "x",
        "port": "1",
        "llm_timeout": "5",
    }
    for name, field in Settings.model_fields.items():
        if is_secret(field):
            with pytest.raises(SystemExit):
                parse_flags([flag_of(name, field).name, "x"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(["--port", "x", "--debug"], "PORT='x' (--port): ", id="bad value"),
        pytest.param([], "MODEL='' (--model): name a model", id="no model"),
        pytest.param(["--debug", "--env", "latin"], "{folder}/.latin.env: is not UTF-8", id="env file not UTF-8"),
        pytest.param(["--prot", "1"], "unrecognized arguments: --prot 1", id="unknown flag"),
    ],
)
def test_a_wrong_start_ends_with_status_2_and_one_line(arguments: list[str], line: str, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    make_latin_1(tmp_path / ".latin.env")
    done = subprocess.run(
        [sys.executable, "-m", "src", *arguments],
        env={"PATH": "", "PYTHONPATH": str(root)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    [written] = done.stderr.splitlines()
    assert json.loads(written)["event"].startswith(line.format(folder=tmp_path))


def test_a_wrong_start_without_its_env_file_names_that_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_settings_or_exit({"app_env": "prod"})
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert len(events) == 2
    assert events[0].startswith("MODEL=''")
    assert events[1] == f"{Path('.prod.env').absolute()}: the env file does not exist"


@pytest.mark.parametrize("message", ["X='http://me:canary-1@host'", "--prot sk-canary-canary-canary"])
def test_a_wrong_start_shows_nothing_that_looks_like_a_secret(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        exit_with(message)
    written = capsys.readouterr().err
    assert "***" in written
    assert "canary" not in written


def test_help_shows_each_flag_with_its_choices_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_flags(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert (f"[{name.upper()}, default " in text or f"[{name.upper()}=" in text) is not is_secret(field)
    for shown in (
        "--port INTEGER REST port.",
        "--llm-timeout INTEGER ",
        "--shutdown-grace NUMBER ",
        "--grpc-tls-cert FILE ",
        "--host TEXT ",
        f"{', '.join(name.upper() for name, field in Settings.model_fields.items() if is_secret(field))} have no flag",
        "--no-grpc Serve REST only. [GRPC_ENABLED=false]",
        "--server {granian,uvicorn,hypercorn} ",
        "--cb-enabled {true,false} ",
        "[PORT, default 8080]",
        "[HOST, default 0.0.0.0, in debug 127.0.0.1]",
        "[MODEL, default none, in debug offline/demo]",
    ):
        assert shown in text


def test_help_has_a_group_for_each_subject(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_flags(["--help"])
    lines = capsys.readouterr().out.splitlines()
    groups = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert groups == ["options", *HELP_GROUPS.values()]
    assert next(iter(HELP_GROUPS)) == next(iter(Settings.model_fields)), "no setting is outside of a group"
    [model, breaker] = [lines.index(f"{title}:") for title in ("model", "circuit breaker")]
    assert any(line.startswith("  --llm-timeout ") for line in lines[model:breaker])


def test_http2_is_refused_where_the_server_has_none() -> None:
    with pytest.raises(ConfigError, match=r"HTTP2=True \(--http2\): SERVER=uvicorn supports HTTP/1 only"):
        load_settings({"debug": True, "http2": True, "server": "uvicorn"})


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
def test_a_host_that_dns_cannot_have_is_named(host: str) -> None:
    with pytest.raises(ValueError, match=rf"^HOST='{host}' \(--host\): is neither an IP address nor a host name$"):
        check_port_free("HOST", host, "PORT", 8080)


def test_cloud_run_is_recognized_once_when_the_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K_SERVICE", "s")
    there = load_settings({"debug": True})
    monkeypatch.delenv("K_SERVICE")
    assert there.on_cloud_run
    assert not load_settings({"debug": True}).on_cloud_run
