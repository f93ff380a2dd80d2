"""Settings and their validation.

Defaults are closed: without configuration this is a production service that does not start until a model is named.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    FilePath,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from src.config_checks import (
    canonical_origins,
    check_base_url,
    check_client_authority,
    check_host_patterns,
    check_networks,
    check_proxies,
    check_rate,
    check_sentry_dsn,
    check_server_certificate,
    is_cloud_run,
    parse_proxies,
    split_commas,
)
from src.providers.rows import PROVIDERS
from src.util.client_address import TrustedProxies
from src.util.rate import Rate

GEMINI_FLASH = "googleai/gemini-flash-latest"
OFFLINE_MODEL = "offline/demo"
CLOUD_RUN_FRONT_END = "169.254.0.0/16"  # the peer of a container's connections there
ENV_NAME = re.compile("[A-Za-z0-9_-]{0,64}")  # part of a file's name
ENV_FILE_ENCODING = "utf-8-sig"  # skips the byte order mark that some editors write


MODELS = [*(f"{name}/<name>" for name in PROVIDERS if name != "offline"), OFFLINE_MODEL]


class ConfigError(Exception):
    """One or more settings are invalid. The message has one line for each: variable, value, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that differs from `--<field-name> VALUE`.

    Attributes:
        value: The value that the bare flag sets. None for a flag that takes a value.
        help: Replaces the setting's description in `--help`, for a flag that sets the opposite.
    """

    name: str
    value: bool | None = None
    help: str = ""


class Settings(BaseSettings):
    """Everything that can be configured. A field's environment variable is its name in capitals."""

    _on_cloud_run: bool = PrivateAttr(default_factory=lambda: is_cloud_run(os.environ))

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
        env_file_encoding=ENV_FILE_ENCODING,
    )

    app_env: Annotated[str, Flag("--env")] = Field(
        "",
        pattern=rf"^{ENV_NAME.pattern}$",
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

    cors_allowed_origins: Annotated[str, AfterValidator(canonical_origins)] = Field(
        "",
        description="Allowed CORS origins, comma-separated; empty allows none, in debug mode any.",
    )
    trusted_hosts: Annotated[str, AfterValidator(check_host_patterns)] = Field(
        "",
        description="Allowed Host headers, comma-separated; `*.example.com` allows all subdomains; empty allows any.",
    )
    trusted_proxies: Annotated[str, AfterValidator(check_networks)] = Field(
        default_factory=lambda: CLOUD_RUN_FRONT_END if is_cloud_run(os.environ) else "",
        description="Proxies whose X-Forwarded headers are trusted: CIDRs, comma-separated, /8 or narrower "
        "(IPv6: /16), and `unix` for the peer of the REST server's Unix socket; on Cloud Run its front end by default.",
    )
    rate_limit_default: Annotated[str, AfterValidator(check_rate)] = Field(
        "60/minute", description="Rate limit of a client: `<count>/<second|minute|hour|day>`."
    )
    max_body_size: int = Field(
        1_048_576, ge=1, le=1 << 30, description="Maximum size of a request body or gRPC message, in bytes."
    )
    request_timeout: float = Field(
        125.0, gt=0, le=3600, description="Request timeout, including upload and stream, in seconds."
    )

    gemini_api_key: SecretStr | None = Field(None, description="Gemini API key; without MODEL it selects Gemini Flash.")
    google_gemini_base_url: Annotated[str | None, AfterValidator(check_base_url)] = Field(
        None, pattern=r"^https?://\S+$", description="Base URL of the Gemini API, for a proxy; empty uses Google's."
    )
    openai_api_key: SecretStr | None = Field(None, description="API key of OpenAI or a compatible server.")
    openai_base_url: Annotated[str | None, AfterValidator(check_base_url)] = Field(
        None, pattern=r"^https?://\S+$", description="Base URL of an OpenAI-compatible server; empty uses OpenAI's."
    )
    ollama_base_url: Annotated[str, AfterValidator(check_base_url)] = Field(
        "http://127.0.0.1:11434", pattern=r"^https?://\S+$", description="Base URL of the Ollama server."
    )
    model: str = Field(
        default_factory=lambda data: _default_model(data),  # noqa: PLW0108 - defined below
        validate_default=True,
        description=f"Model: `{'`, `'.join(MODELS)}`; required in production unless GEMINI_API_KEY is set.",
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
    cache_enabled: bool = Field(True, description="Enable the response cache, for flows with `cached=True`.")
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
        False, description="Disable tracing, including Genkit's own tracer."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _without_blanks_around(cls, value: Any, info: ValidationInfo) -> Any:
        """Strip text, because a secret read from a file may end with a line feed. Blank text means the default."""
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

    @field_validator("model")
    @classmethod
    def _known_model(cls, model: str) -> str:
        provider, _, name = model.partition("/")
        if provider in PROVIDERS and name and (provider != "offline" or model == OFFLINE_MODEL):
            if not PROVIDERS[provider].has_text_model(name):
                raise ValueError("the provider has no such text model")
            return model
        raise ValueError(
            f"name a model: {', '.join(MODELS)} (the embedded demo); GEMINI_API_KEY alone names Gemini Flash"
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
            raise ValueError(f"GRPC_PORT={self.grpc_port} (--grpc-port): is the same as PORT; use another")
        if self.metrics_port == self.port or (self.grpc_enabled and self.metrics_port == self.grpc_port):
            other = "PORT" if self.metrics_port == self.port else "GRPC_PORT"
            raise ValueError(f"METRICS_PORT={self.metrics_port} (--metrics-port): is the same as {other}; use another")
        return self

    @property
    def rate_limit(self) -> Rate:
        return Rate.parse(self.rate_limit_default)

    @property
    def client_share(self) -> float:
        """The share of any pool that one client may hold, from 0 to 1."""
        return self.llm_max_per_client / self.llm_max_concurrency

    @property
    def cors_origins(self) -> list[str]:
        """The origins whose scripts may read responses; `*` is any."""
        return split_commas(self.cors_allowed_origins) or (["*"] if self.debug else [])

    @property
    def trusted_host_patterns(self) -> list[str]:
        """The allowed Host headers. An empty list allows any."""
        return split_commas(self.trusted_hosts)

    @property
    def proxies(self) -> TrustedProxies:
        """The proxies whose forwarding headers count."""
        return parse_proxies(self.trusted_proxies)

    @property
    def accepts_other_machines(self) -> bool:
        """True unless `host` is this machine's loopback address."""
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"

    @property
    def secrets(self) -> list[str]:
        """The values of the secret settings, which must not appear in logs or responses."""
        values = (getattr(self, name) for name, field in type(self).model_fields.items() if is_secret(field))
        return [value.get_secret_value() for value in values if value is not None]

    @property
    def on_cloud_run(self) -> bool:
        return self._on_cloud_run

    @property
    def model_provider(self) -> str:
        return self.model.partition("/")[0]

    @property
    def model_name(self) -> str:
        """The part of `model` after the slash, the provider's own name for it."""
        return self.model.partition("/")[2]


def _default_model(data: Mapping[str, Any]) -> str:
    if data.get("gemini_api_key"):
        return GEMINI_FLASH
    return OFFLINE_MODEL if data.get("debug") else ""


def is_secret(field: FieldInfo) -> bool:
    """Return True for a secret. It is never shown, and gets no flag, because command lines are public."""
    return "SecretStr" in str(field.annotation)


def flag_of(name: str, field: FieldInfo) -> Flag:
    given = next((item for item in field.metadata if isinstance(item, Flag)), None)
    return given or Flag("--" + name.replace("_", "-"))


def default_of(field: FieldInfo, *, debug: bool = False) -> str:
    """Return a setting's default as it would be written in an env file; empty if there is none."""
    value = field.get_default(call_default_factory=True, validated_data={"debug": debug})
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
