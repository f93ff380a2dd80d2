"""Settings: the only reader of the environment, and the source of the command line's flags.

Precedence: flag > environment > `.<env>.env` > `.env` > default. Defaults are closed: whoever configures nothing
gets a production service that refuses to start until a model is named.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from src.observability.log_writer import is_terminal, stderr_writer
from src.observability.redaction import hide_looks
from src.providers.rows import PROVIDERS
from src.util.client_address import UNIX
from src.util.rate import Rate
from src.util.start_checks import check_client_authority, check_proxies, check_sentry_dsn, check_server_certificate

GEMINI_FLASH = "googleai/gemini-flash-latest"
OFFLINE_MODEL = "offline/demo"
CLOUD_RUN_FRONT_END = "169.254.0.0/16"  # what a container there sees as its peer
# Shortest prefixes that TRUSTED_PROXIES takes, by IP version. 10.0.0.0/8 is the largest private network (RFC 1918). In
# IPv6 a regional registry holds a /12 and a large operator a /19, so anything shorter than /16 spans several operators.
MIN_PROXY_PREFIX = {4: 8, 6: 16}
_ENV_NAME = re.compile("[A-Za-z0-9_-]{0,64}")  # part of a file's name
_ORIGIN = re.compile(r"(?i:https?)://[A-Za-z0-9.-]+(:[0-9]{1,5})?|(?i:https?)://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")
_HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]")
ENV_FILE_ENCODING = "utf-8-sig"  # skips the byte order mark that some editors write


# Titles of groups in `--help`, by the first setting of each.
HELP_GROUPS = {
    "app_env": "environment",
    "host": "servers",
    "log_format": "logs",
    "cors_allowed_origins": "requests",
    "gemini_api_key": "model",
    "cb_enabled": "circuit breaker",
    "cache_enabled": "cache",
    "httpx_pool_max": "connections to the LLM provider",
    "metrics_host": "metrics",
    "sentry_dsn": "error reports and traces",
}


class ConfigError(Exception):
    """A setting is wrong. The message is one line for each, naming variable, value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Flag:
    """The flag of a setting where it is not simply `--<field-name> VALUE`.

    Attributes:
        value: The bare flag sets this; None: the flag takes a value.
        help: Replaces the setting's description in `--help`, for a flag that sets the opposite.
    """

    name: str
    value: bool | None = None
    help: str = ""


class Settings(BaseSettings):
    """Everything that can be configured. A field's environment variable is its name in capitals."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
        env_file_encoding=ENV_FILE_ENCODING,
    )

    app_env: Annotated[str, Flag("--env")] = Field(
        "",
        pattern=rf"^{_ENV_NAME.pattern}$",
        description="Name of the environment: `.<name>.env` is read before `.env`.",
    )
    debug: Annotated[bool, Flag("--debug", True)] = Field(
        False, description="Enable development features: API docs, gRPC reflection, the embedded model."
    )
    host: str = Field(
        default_factory=lambda data: "127.0.0.1" if data.get("debug") else "0.0.0.0",  # noqa: S104
        description="Listen address of both servers; 127.0.0.1 in debug mode.",
    )
    port: int = Field(8080, ge=1, le=65535, description="REST port.")
    grpc_port: int = Field(50051, ge=1, le=65535, description="gRPC port.")
    grpc_enabled: Annotated[bool, Flag("--no-grpc", False, "Serve REST only.")] = Field(
        True, description="Enable the gRPC server."
    )
    grpc_tls_cert: FilePath | None = Field(
        None, description="Certificate of the gRPC server, a PEM file; empty disables TLS."
    )
    grpc_tls_key: FilePath | None = Field(None, description="Private key of that certificate, a PEM file.")
    grpc_tls_client_ca: FilePath | None = Field(
        None,
        description="CA certificate that gRPC client certificates are verified with, a PEM file; setting it "
        "requires mutual TLS.",
    )
    server: Literal["granian", "uvicorn", "hypercorn"] = Field(
        "granian", description="ASGI server that `python -m src` starts."
    )
    workers: int = Field(1, ge=1, le=64, description="Number of worker processes that `python -m src` starts.")
    shutdown_grace: float = Field(
        10.0, ge=0, le=3600, description="Grace period after SIGTERM for requests in flight, in seconds."
    )
    keep_alive_timeout: int = Field(
        75,
        ge=1,
        le=3600,
        description="Idle timeout of client connections, in seconds; set it above the load balancer's.",
    )
    http2: bool = Field(
        False,
        description="Accept HTTP/2 without TLS on the REST port, with granian; hypercorn always does, uvicorn can't.",
    )

    log_format: Literal["json", "console"] = Field(
        default_factory=lambda data: "console" if data.get("debug") else "json",
        description="Log format: one JSON object per line, or coloured text; console in debug mode.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum log level.")

    cors_allowed_origins: str = Field(
        "",
        description="Allowed CORS origins, comma-separated; empty allows none, in debug mode any.",
    )
    trusted_hosts: str = Field(
        "",
        description="Allowed Host headers, comma-separated; `*.example.com` allows all subdomains; empty allows any.",
    )
    trusted_proxies: str = Field(
        default_factory=lambda: CLOUD_RUN_FRONT_END if os.environ.get("K_SERVICE") else "",
        description="Proxies whose X-Forwarded headers are trusted: CIDRs, comma-separated, /8 or narrower "
        "(IPv6: /16), and `unix` for the peer of the REST server's Unix socket; on Cloud Run its front end by default.",
    )
    rate_limit_default: str = Field(
        "60/minute", description="Rate limit of a client: `<count>/<second|minute|hour|day>`."
    )
    max_body_size: int = Field(
        1_048_576, ge=1, le=1 << 30, description="Maximum size of a request body or gRPC message, in bytes."
    )
    request_timeout: float = Field(
        125.0, gt=0, le=3600, description="Request timeout, including upload and stream, in seconds."
    )

    gemini_api_key: SecretStr | None = Field(None, description="Gemini API key; without MODEL it selects Gemini Flash.")
    google_gemini_base_url: str | None = Field(
        None, pattern=r"^https?://\S+$", description="Base URL of the Gemini API, for a proxy; empty uses Google's."
    )
    openai_api_key: SecretStr | None = Field(None, description="API key of OpenAI or a compatible server.")
    openai_base_url: str | None = Field(
        None, pattern=r"^https?://\S+$", description="Base URL of an OpenAI-compatible server; empty uses OpenAI's."
    )
    ollama_base_url: str = Field(
        "http://127.0.0.1:11434", pattern=r"^https?://\S+$", description="Base URL of the Ollama server."
    )
    model: str = Field(
        default_factory=lambda data: _default_model(data),  # noqa: PLW0108 - defined below
        validate_default=True,
        description="Model: `googleai/<name>`, `openai/<name>`, `ollama/<name>` or `offline/demo`; required "
        "in production unless GEMINI_API_KEY is set.",
    )
    llm_timeout: int = Field(120_000, ge=1, le=3_600_000, description="Total timeout of an LLM call, in milliseconds.")
    max_output_tokens: int = Field(
        8192, ge=1, le=1_000_000, description="Maximum tokens of an LLM response, including thinking."
    )
    llm_max_concurrency: int = Field(
        64, ge=1, le=10_000, description="Maximum concurrent LLM calls. As many again may queue; the rest get 503."
    )
    llm_max_per_client: int = Field(
        default_factory=lambda data: max(1, data.get("llm_max_concurrency", 64) // 4),
        ge=1,
        le=20_000,
        description="Maximum LLM calls of one client, running or queued; a quarter of LLM_MAX_CONCURRENCY by "
        "default. Raise it if one proxy or one backend sends all requests. A client's share of "
        "image downloads and name look-ups is in proportion.",
    )
    cb_enabled: bool = Field(True, description="Enable the circuit breaker in front of the LLM.")
    cb_failure_threshold: int = Field(5, ge=1, le=1000, description="Consecutive failures that open the circuit.")
    cb_recovery_timeout: float = Field(
        30.0, gt=0, le=3600, description="Time until an open circuit allows a probe, in seconds."
    )
    cache_enabled: bool = Field(True, description="Enable the response cache, for the flows that are cacheable.")
    cache_ttl: float = Field(300.0, gt=0, le=86_400, description="Cache lifetime, in seconds.")
    cache_max_size: int = Field(
        1024, ge=1, le=1_000_000, description="Maximum number of cached responses, per process."
    )
    cache_max_bytes: int = Field(
        67_108_864, ge=1, le=1 << 40, description="Maximum size of all cached responses in bytes, per process."
    )
    httpx_pool_max: int = Field(100, ge=1, le=10_000, description="Maximum connections to the LLM provider.")
    httpx_pool_max_keepalive: int = Field(
        20, ge=0, le=10_000, description="Maximum idle connections to the LLM provider."
    )
    metrics_host: str = Field(
        "127.0.0.1", description="Listen address of the metrics port; use 0.0.0.0 if the scraper is on another machine."
    )
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of the Prometheus metrics; 0 disables them.")
    sentry_dsn: SecretStr | None = Field(None, description="Sentry DSN; empty disables Sentry.")
    sentry_traces_sample_rate: float = Field(
        0.1, ge=0, le=1, description="Share of requests that Sentry traces, from 0 to 1."
    )
    sentry_environment: str = Field(
        default_factory=lambda data: data.get("app_env", ""),
        pattern=r"^[^\s/]{0,64}$",
        description="Environment name in Sentry; APP_ENV by default.",
    )
    trace_url: str = Field(
        "",
        pattern=r"^$|^https?://\S*\{trace_id\}\S*$",
        description="URL of a trace in your tracing UI, with `{trace_id}`; the debug status page links to it.",
    )
    genkit_telemetry_gcp: bool = Field(
        False, description="Export traces to the project GOOGLE_CLOUD_PROJECT on any platform."
    )
    genkit_telemetry_disabled: Annotated[bool, Flag("--no-telemetry", True)] = Field(
        False, description="Disable tracing, in memory too."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _without_blanks_around(cls, value: Any, info: ValidationInfo) -> Any:
        """Strip text, which may come from a file with a line end. Blank text is none."""
        if not isinstance(value, str):
            return value
        value = value.strip()
        if not value.isprintable():
            raise ValueError("contains a character that is not printable")
        field = cls.model_fields[str(info.field_name)]
        if not value:
            return field.get_default(call_default_factory=True, validated_data=info.data)
        if is_secret(field) and not value.isascii():  # no HTTP client could send it
            raise ValueError("contains a character that is not ASCII")
        return value

    @field_validator("grpc_tls_cert", "grpc_tls_key", "grpc_tls_client_ca", mode="wrap")
    @classmethod
    def _path_that_the_system_takes(cls, value: Any, is_file: ValidatorFunctionWrapHandler) -> Any:
        try:
            return is_file(value)
        except OSError as error:  # too long a name
            raise ValueError(f"can't be read: {error.strerror}") from None

    @field_validator("google_gemini_base_url", "openai_base_url", "ollama_base_url")
    @classmethod
    def _names_a_host(cls, value: str | None) -> str | None:
        if value is None or _has_host(value):
            return value
        raise ValueError("should have a host and a valid port, such as https://api.example.com:8443/v1")

    @field_validator("cors_allowed_origins")
    @classmethod
    def _known_origins(cls, value: str) -> str:
        if all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in split_commas(value)):
            return ",".join(_as_browsers_send(origin) for origin in split_commas(value))
        raise ValueError(
            "should be origins without a path, such as https://example.com or https://example.com:8443, or *"
        )

    @field_validator("trusted_hosts")
    @classmethod
    def _known_hosts(cls, value: str) -> str:
        if all(_HOST_PATTERN.fullmatch(host) for host in split_commas(value)):
            return value
        raise ValueError(
            "should be host names or addresses without scheme and port, such as api.example.com or *.example.com"
        )

    @field_validator("trusted_proxies")
    @classmethod
    def _known_networks(cls, value: str) -> str:
        for entry in split_commas(value):
            if entry == UNIX:
                continue
            network = ip_network(entry)  # its ValueError names what is wrong
            shortest = MIN_PROXY_PREFIX[network.version]
            if network.prefixlen < shortest:
                raise ValueError(
                    f"{entry} is too wide: anyone in it can forge the client's address; "
                    f"use your proxies' own networks, /{shortest} or narrower for IPv{network.version}"
                )
        return value

    @field_validator("rate_limit_default")
    @classmethod
    def _known_rate(cls, value: str) -> str:
        Rate.parse(value)  # its ValueError says how to write it
        return value

    @field_validator("model")
    @classmethod
    def _known_model(cls, model: str) -> str:
        provider, _, name = model.partition("/")
        if provider in PROVIDERS and name and (provider != "offline" or model == OFFLINE_MODEL):
            if not PROVIDERS[provider].has_text_model(name):
                raise ValueError("the provider has no such text model")
            return model
        raise ValueError(
            f"name a model: googleai/<name> (or set GEMINI_API_KEY alone), openai/<name>, ollama/<name>, "
            f"or {OFFLINE_MODEL} for the embedded demo"
        )

    @model_validator(mode="after")
    def _key_for_model(self) -> Self:
        provider = PROVIDERS[self.model_provider]
        if provider.needs and all(getattr(self, name) is None for name in provider.needs):
            raise ValueError(f"{provider.needs[0].upper()}='': MODEL={self.model} needs {provider.missing}")
        if provider.extra and find_spec(provider.package) is None:
            raise ValueError(
                f"MODEL={self.model!r} (--model): needs the extra {provider.extra!r}, which is not installed"
            )
        return self

    @model_validator(mode="after")
    def _sentry_can_be_used(self) -> Self:
        if self.sentry_dsn is not None and find_spec("sentry_sdk") is None:
            raise ValueError("SENTRY_DSN='***': needs the extra 'sentry', which is not installed")
        if self.sentry_dsn is not None:
            check_sentry_dsn(self.sentry_dsn.get_secret_value())
        return self

    @model_validator(mode="after")
    def _proxies_can_be_used(self) -> Self:
        check_proxies(os.environ)
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.grpc_tls_cert is None) != (self.grpc_tls_key is None):
            missing, given = "GRPC_TLS_KEY", "GRPC_TLS_CERT"
            if self.grpc_tls_cert is None:
                missing, given = given, missing
            raise ValueError(f"{missing}='': is required, because {given} is set")
        if self.grpc_tls_client_ca is not None and self.grpc_tls_cert is None:
            raise ValueError("GRPC_TLS_CERT='': is required, because GRPC_TLS_CLIENT_CA is set")
        if self.grpc_tls_cert is not None and self.grpc_tls_key is not None:
            check_server_certificate(self.grpc_tls_cert, self.grpc_tls_key)
        if self.grpc_tls_client_ca is not None:
            check_client_authority(self.grpc_tls_client_ca)
        return self

    @model_validator(mode="after")
    def _server_speaks_http2(self) -> Self:
        if self.http2 and self.server == "uvicorn":
            raise ValueError("HTTP2=True (--http2): SERVER=uvicorn supports HTTP/1 only; use granian or hypercorn")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.grpc_enabled and self.port == self.grpc_port:
            raise ValueError(f"GRPC_PORT={self.grpc_port} (--grpc-port): is also PORT; use another")
        if self.metrics_port == self.port or (self.grpc_enabled and self.metrics_port == self.grpc_port):
            other = "PORT" if self.metrics_port == self.port else "GRPC_PORT"
            raise ValueError(f"METRICS_PORT={self.metrics_port} (--metrics-port): is also {other}; use another")
        return self

    @property
    def rate_limit(self) -> Rate:
        """The rate of one client."""
        return Rate.parse(self.rate_limit_default)

    @property
    def client_share(self) -> float:
        """The share of any pool that one client may hold, from 0 to 1."""
        return self.llm_max_per_client / self.llm_max_concurrency

    @property
    def cors_origins(self) -> list[str]:
        """The origins whose scripts may read answers; `*` is any."""
        return split_commas(self.cors_allowed_origins) or (["*"] if self.debug else [])

    @property
    def trusted_host_patterns(self) -> list[str]:
        """The hosts that requests may be addressed to; none: any."""
        return split_commas(self.trusted_hosts)

    @property
    def trusted_proxy_networks(self) -> list[str]:
        """The networks whose forwarding headers count."""
        return split_commas(self.trusted_proxies)

    @property
    def accepts_other_machines(self) -> bool:
        """True unless `host` is this machine's loopback address."""
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"

    @property
    def secrets(self) -> list[str]:
        """The values that must appear nowhere."""
        values = (getattr(self, name) for name, field in type(self).model_fields.items() if is_secret(field))
        return [value.get_secret_value() for value in values if value is not None]

    @property
    def on_cloud_run(self) -> bool:
        """True in a container of Google Cloud Run."""
        return bool(os.environ.get("K_SERVICE"))

    @property
    def model_provider(self) -> str:
        """The part of `model` before the slash: googleai, openai, ollama or offline."""
        return self.model.partition("/")[0]

    @property
    def model_name(self) -> str:
        """The part of `model` after the slash, the provider's own name for it."""
        return self.model.partition("/")[2]


def split_commas(value: str) -> list[str]:
    """The entries of a comma-separated setting."""
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def _as_browsers_send(origin: str) -> str:
    """The origin as it stands in `Origin` (WHATWG URL): lower case, shortest address, no default port.

    Raises ValueError for an address or a port that is none.
    """
    if origin == "*":
        return origin
    url = urlsplit(origin.lower())
    host = f"[{ip_address(url.hostname or '')}]" if "[" in origin else url.hostname
    port = "" if url.port in (None, {"https": 443, "http": 80}[url.scheme]) else f":{url.port}"
    return f"{url.scheme}://{host}{port}"


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError:  # half an IPv6 address, a name that DNS can't have, or a port that is none
        return False


def _default_model(data: Mapping[str, Any]) -> str:
    if data.get("gemini_api_key"):
        return GEMINI_FLASH
    return OFFLINE_MODEL if data.get("debug") else ""


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings from `overrides` (by field name), the environment and the env files of the working directory.

    Raises:
        ConfigError: a value is not allowed, or an env file can't be read; the message has one line for each.
    """
    overrides = dict(overrides or {})
    env_name = _env_name(overrides)
    env_files = (".env", _named_env_file(env_name)) if env_name else (".env",)
    for file in env_files:
        _check_readable(Path(file))
    try:
        return Settings(_env_file=env_files, **overrides)
    except ValidationError as error:
        raise ConfigError(_describe(error, overrides, env_files)) from None


def load_settings_or_exit(overrides: Mapping[str, Any] | None = None) -> Settings:
    """As `load_settings`, but a wrong setting ends the process: its line on stderr, exit status 2.

    If the named env file is missing, another line says so, as that may be why a setting is wrong.
    """
    try:
        return load_settings(overrides)
    except ConfigError as error:
        missing = missing_env_file(_env_name(overrides or {}))
        exit_with(str(error) if missing is None else f"{error}\n{missing}: the env file does not exist")


def _env_name(overrides: Mapping[str, Any]) -> str:
    """Return the name of the environment; empty if it is not allowed, which the validation of the settings reports."""
    name = str(overrides.get("app_env") or os.environ.get("APP_ENV", ""))
    return name if _ENV_NAME.fullmatch(name) else ""


def _named_env_file(env_name: str) -> str:
    return f".{env_name}.env"


def missing_env_file(env_name: str) -> Path | None:
    """Return the path of the env file of this environment, if there is no such file."""
    file = Path(_named_env_file(env_name)).absolute()
    return file if env_name and not file.exists() else None


def _check_readable(file: Path) -> None:
    """Raise ConfigError if an env file exists but can't be read as text."""
    try:
        if not file.exists():
            return
        if not file.is_file():
            raise ConfigError(f"{file.absolute()}: is not a regular file")
        file.read_text(encoding=ENV_FILE_ENCODING)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file.absolute()}: is not UTF-8 (byte {error.start + 1})") from None
    except OSError as error:
        raise ConfigError(f"{file.absolute()}: can't be read: {error.strerror}") from None


def exit_with(message: str) -> NoReturn:
    """End the process as for any wrong setting: the message on stderr, exit status 2, no traceback.

    A person at a terminal reads `error: ...`; anything else gets lines of the log, one for each of the message. A value
    in it may be a URL with a password, or a key that was pasted into the wrong setting.
    """
    for line in hide_looks(message).splitlines():
        text = f"error: {line}" if is_terminal() else _log_line(line)
        stderr_writer().write(text.encode(errors="backslashreplace") + b"\n")
    sys.exit(2)


def _log_line(text: str) -> str:
    """As the log would have it, which is not configured as long as the settings are wrong."""
    line = {"event": text, "level": "critical", "logger": __name__, "timestamp": datetime.now(UTC).isoformat()}
    if os.environ.get("K_SERVICE"):
        line |= {"message": text, "severity": "CRITICAL"}
    return json.dumps(line)


def _describe(error: ValidationError, overrides: Mapping[str, Any], env_files: Sequence[str]) -> str:
    """One line a mistake. Pydantic hides the inputs (a secret may be among them); ours are shown unless secret."""
    raw = _Unvalidated(_env_file=env_files).model_extra or {}
    lines = []
    for mistake in error.errors(include_url=False, include_context=False):
        if mistake["type"] == "default_factory_not_called":  # only says that an earlier one was wrong
            continue
        message = mistake["msg"].removeprefix("Value error, ")
        if not mistake["loc"]:
            lines.append(message)
            continue
        name = str(mistake["loc"][0])
        field = Settings.model_fields[name]
        value = overrides.get(name, os.environ.get(name.upper(), raw.get(name, "")))
        shown = "'***'" if is_secret(field) else repr(value)
        hint = f" ({flag_of(name, field).name})" if not is_secret(field) else ""
        lines.append(f"{name.upper()}={shown}{hint}: {message}")
    return "\n".join(lines)


class _Unvalidated(BaseSettings):
    """The env files' raw values, to show a wrong one as it was written."""

    model_config = SettingsConfigDict(extra="allow", env_file_encoding=ENV_FILE_ENCODING)


def is_secret(field: FieldInfo) -> bool:
    """Return True for a secret. It is never shown, and gets no flag, because command lines are public."""
    return "SecretStr" in str(field.annotation)


def flag_of(name: str, field: FieldInfo) -> Flag:
    """The command-line flag of a setting."""
    given = next((item for item in field.metadata if isinstance(item, Flag)), None)
    return given or Flag("--" + name.replace("_", "-"))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        exit_with(message)


def parse_flags(argv: Sequence[str]) -> dict[str, Any]:
    """The settings named on the command line, by field name, not yet validated.

    Ends the process with status 2 on an unknown flag, with 0 after `--help`.
    """
    secrets = [name.upper() for name, field in Settings.model_fields.items() if is_secret(field)]
    parser = _Parser(
        prog="python -m src",
        usage="%(prog)s [flags]",
        description="Serve REST and gRPC over one set of Genkit flows.",
        epilog=f"Each flag has an environment variable, shown in brackets. {', '.join(secrets)} have no flag, because "
        "command lines are public: set them in the environment or an env file.",
        allow_abbrev=False,
    )
    add: Callable[..., object] = parser.add_argument
    for name, field in Settings.model_fields.items():
        if name in HELP_GROUPS:
            add = parser.add_argument_group(HELP_GROUPS[name]).add_argument
        if not is_secret(field):
            _add_flag(add, name, field)
    return vars(parser.parse_args(argv))


def _add_flag(add: Callable[..., object], name: str, field: FieldInfo) -> None:
    flag = flag_of(name, field)
    options: dict[str, Any] = {
        "dest": name,
        "default": argparse.SUPPRESS,
        "help": _help(name, field).replace("%", "%%"),
    }
    if flag.value is None:
        add(flag.name, metavar=_metavar(field), **options)
    else:
        add(flag.name, action="store_const", const=flag.value, **options)


def _help(name: str, field: FieldInfo) -> str:
    flag = flag_of(name, field)
    text = f"{flag.help or field.description} [{name.upper()}"
    if flag.value is not None:
        return f"{text}={str(flag.value).lower()}]"
    production, debug = default_of(field, debug=False), default_of(field, debug=True)
    in_debug = f", in debug {debug}" if debug != production else ""
    return f"{text}, default {production or 'none'}{in_debug}]"


def _metavar(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(get_args(field.annotation)) + "}"
    kinds = {"bool": "{true,false}", "float": "NUMBER", "int": "INTEGER", "Path": "FILE"}
    return next((metavar for kind, metavar in kinds.items() if kind in str(field.annotation)), "TEXT")


def default_of(field: FieldInfo, *, debug: bool = False) -> str:
    """Return a setting's default as it would be written in an env file; empty if there is none."""
    value = field.get_default(call_default_factory=True, validated_data={"debug": debug})
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def export_to_environment(overrides: Mapping[str, Any]) -> None:
    """Put flags where worker processes find them, whichever server starts those: into the environment."""
    for name, value in overrides.items():
        os.environ[name.upper()] = str(value)
