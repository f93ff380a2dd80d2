"""Build the Genkit instance for the chosen model, and set up telemetry for the platform.

Other providers and exporters are not imported.
"""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import structlog

from src.config import Settings
from src.prompt import PROMPTS
from src.providers.rows import PROVIDERS

if TYPE_CHECKING:
    from genkit import Genkit
    from opentelemetry.sdk.trace import TracerProvider

log = structlog.get_logger(__name__)

SERVICE_NAME = "hardened-genkit-service"


def build_genkit(settings: Settings) -> "Genkit":
    """Return Genkit with the settings' model as its default. Does not use the network.

    Call `disable_genkit_dev_features` and configure logging first: when Genkit is constructed, it logs and sets up
    structlog.
    """
    provider = PROVIDERS[settings.model_provider]
    from genkit import Genkit
    from genkit.model import ModelRef

    module = import_module(f"src.providers.{provider.name}")
    config = module.config(settings.max_output_tokens)
    model = ModelRef(name=settings.model, config_schema=type(config), config=config)
    if provider.name == "offline":
        ai = Genkit(model=model, prompt_dir=PROMPTS)
        module.register(ai)
        return ai
    return Genkit(plugins=[module.plugin(settings)], model=model, prompt_dir=PROMPTS)


def disable_genkit_dev_features(settings: Settings) -> None:
    """Disable Genkit's developer UI, except in debug, and its tracer, if telemetry is off.

    The developer UI opens a port. Must run before `genkit` is imported, because Genkit reads the environment then.
    """
    if not settings.debug:
        os.environ["GENKIT_ENV"] = "prod"
    if settings.genkit_telemetry_disabled:
        os.environ["OTEL_SDK_DISABLED"] = "true"


@dataclass(frozen=True, slots=True)
class Platform:
    """A backend for traces.

    Attributes:
        signal: The environment variable that shows its presence.
        extra: The extra of this package that it needs.
        module: A module that can be imported if the extra is installed.
        exporter: The name of its function in `src.telemetry.exporters`.
        asks_network: True if creating the exporter uses the network, so that it must not block the start.
    """

    name: str
    signal: str
    extra: str
    module: str
    exporter: str
    asks_network: bool = False


_GOOGLE = ("gcp", "opentelemetry.exporter.cloud_trace", "google_cloud", True)

# A named collector comes before the platform's own backend. Otherwise the first found is used.
PLATFORMS = (
    Platform(
        "OTLP collector",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "observability",
        "opentelemetry.exporter.otlp.proto.http",
        "otlp",
    ),
    Platform("Google Cloud Run", "K_SERVICE", *_GOOGLE),
    Platform("Google Compute or Kubernetes Engine", "GCE_METADATA_HOST", *_GOOGLE),
    Platform("AWS ECS or App Runner", "AWS_EXECUTION_ENV", "aws", "opentelemetry.propagators.aws", "aws"),
    Platform("Azure Container Apps", "CONTAINER_APP_NAME", "azure", "azure.monitor.opentelemetry.exporter", "azure"),
)
# Many environments set the project without wanting telemetry, so it is used only on request.
GOOGLE_PROJECT = Platform("Google Cloud", "GOOGLE_CLOUD_PROJECT", *_GOOGLE)


def find_platforms(settings: Settings, environment: Mapping[str, str]) -> list[Platform]:
    """Return the platforms that the environment names. The first one is used."""
    candidates = (*PLATFORMS, GOOGLE_PROJECT) if settings.genkit_telemetry_gcp else PLATFORMS
    return [platform for platform in candidates if environment.get(platform.signal)]


def start_telemetry(settings: Settings) -> "TracerProvider | None":
    """Turn on tracing if the environment names a backend, and log the result in one line.

    Never waits for the network and never raises. Returns None if tracing is off. If no backend is found, no tracing
    package is imported.
    """
    if settings.genkit_telemetry_disabled:
        log.info("telemetry", state="off: GENKIT_TELEMETRY_DISABLED")
        return None
    found = find_platforms(settings, os.environ)
    if not found:
        log.info("telemetry", state="off: no platform found")
        return None
    platform = found[0]
    names = [each.name for each in found]
    if not _is_installed(platform.module):
        log.warning("telemetry", found=names, state=f"off: install the extra {platform.extra!r}")
        return None
    try:
        return _start(platform, names, os.environ)
    except Exception as error:
        log.warning("telemetry", found=names, state="off: it could not be started", exc_info=error)
        return None


def _start(platform: Platform, names: list[str], environment: Mapping[str, str]) -> "TracerProvider | None":
    from src.telemetry import exporters
    from src.telemetry.traces import export_to, instrument_httpx, provide_traces

    service = environment.get("OTEL_SERVICE_NAME") or SERVICE_NAME
    if platform.asks_network:
        provider = provide_traces(service)
        later = (provider, platform, environment)
        threading.Thread(target=_export_later, args=later, daemon=True, name="exporter").start()
    else:
        try:
            exporter = getattr(exporters, platform.exporter)(environment)
        except exporters.MissingConfiguration as lacking:
            log.warning("telemetry", found=names, state=f"off: {lacking}")
            return None
        provider = provide_traces(service, xray_ids=platform.extra == "aws")
        export_to(provider, exporter)
    instrument_httpx()
    log.info("telemetry", found=names, state="on", platform=platform.name, exporter=platform.exporter)
    return provider


def _export_later(provider: "TracerProvider", platform: Platform, environment: Mapping[str, str]) -> None:
    """Create the exporter in a thread, because it gets credentials over the network. Earlier spans are not exported."""
    from src.telemetry import exporters
    from src.telemetry.traces import export_to

    try:
        export_to(provider, getattr(exporters, platform.exporter)(environment))
    except Exception as error:
        log.warning("telemetry", found=[platform.name], state="off: the exporter could not be created", exc_info=error)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
