"""Start-up: the Genkit instance for the chosen model, and the telemetry of the platform that this runs on.

Only what was chosen or found is imported.
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

SERVICE = "hardened-genkit-service"


def build_genkit(settings: Settings) -> "Genkit":
    """Genkit with the settings' model as its default. No network is touched before the first call.

    Logging has to be configured before, and Genkit closed: it logs, and sets up structlog, when it is constructed.
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


def close_genkit(settings: Settings) -> None:
    """Keep Genkit's doors shut: its developer UI would open a port, its tracer keeps prompts in spans.

    It reads the environment for them, when it is imported at the latest.
    """
    if not settings.debug:
        os.environ["GENKIT_ENV"] = "prod"
    if settings.genkit_telemetry_disabled:
        os.environ["OTEL_SDK_DISABLED"] = "true"


@dataclass(frozen=True, slots=True)
class Platform:
    """A place that telemetry can go to.

    Attributes:
        signal: The environment variable that tells of it.
        extra: Of this package, which brings what it needs.
        module: What is importable where the extra is installed.
        exporter: The name of its function in `src.observability.exporters`.
        asks_network: Whether making the exporter does, and so must not be waited for.
    """

    name: str
    signal: str
    extra: str
    module: str
    exporter: str
    asks_network: bool = False


_GOOGLE = ("gcp", "opentelemetry.exporter.cloud_trace", "google_cloud", True)

# A collector that was named wins over what the platform suggests; beyond that the first that is found does.
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
# The project's name is in many environments that want no telemetry: it counts only where that was asked for.
GOOGLE_PROJECT = Platform("Google Cloud", "GOOGLE_CLOUD_PROJECT", *_GOOGLE)


def find_platforms(settings: Settings, environment: Mapping[str, str]) -> list[Platform]:
    """The platforms that the environment tells of, the one to be used first."""
    candidates = (*PLATFORMS, GOOGLE_PROJECT) if settings.genkit_telemetry_gcp else PLATFORMS
    return [platform for platform in candidates if environment.get(platform.signal)]


def start_telemetry(settings: Settings) -> "TracerProvider | None":
    """Turn on tracing where the environment tells of a place for traces, and say in one line of the log what was done.

    It never waits for the network and never raises. None: there are no traces, and nothing was imported for them.
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
        return _start(platform, names)
    except Exception as error:
        log.warning("telemetry", found=names, state="off: it could not be started", exc_info=error)
        return None


def _start(platform: Platform, names: list[str]) -> "TracerProvider | None":
    from src.observability import exporters
    from src.observability.traces import export_to, instrument_httpx, provide_traces

    if platform.asks_network:
        provider = provide_traces(SERVICE)
        threading.Thread(target=_export_later, args=(provider, platform), daemon=True, name="exporter").start()
    else:
        try:
            exporter = getattr(exporters, platform.exporter)()
        except exporters.Lacking as lacking:
            log.warning("telemetry", found=names, state=f"off: {lacking}")
            return None
        provider = provide_traces(SERVICE, xray_ids=platform.extra == "aws")
        export_to(provider, exporter)
    instrument_httpx()
    log.info("telemetry", found=names, state="on", platform=platform.name, exporter=platform.exporter)
    return provider


def _export_later(provider: "TracerProvider", platform: Platform) -> None:
    """In a thread, because credentials come over the network: spans that end before are not exported."""
    from src.observability import exporters
    from src.observability.traces import export_to

    try:
        export_to(provider, getattr(exporters, platform.exporter)())
    except Exception as error:
        log.warning("telemetry", found=[platform.name], state="off: no exporter", exc_info=error)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent of it is missing
        return False
