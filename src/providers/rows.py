"""The model providers. To add one, add a row here and a module beside this one that builds its plugin."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider.

    Attributes:
        name: The part of MODEL before the slash, and the module's name in this package.
        telemetry_name: Its name in spans (`gen_ai.provider.name` in OpenTelemetry's conventions).
        extra: This project's extra that installs `package`; empty if none is needed.
        package: The package that its module imports.
        needs: Settings of which at least one must be set.
        missing: Description of the missing setting, for the error message.
        no_text: Found in the last segment of the name of an embedder or a video model. The package refuses the same
            names, but only in a worker, when the service is almost up.
    """

    name: str
    telemetry_name: str
    extra: str = ""
    package: str = ""
    needs: tuple[str, ...] = ()
    missing: str = ""
    no_text: re.Pattern[str] | None = None

    def has_text_model(self, name: str) -> bool:
        """Return False if the provider's package refuses a model of this name. Does not ask the provider."""
        return self.no_text is None or self.no_text.search(name.rpartition("/")[2]) is None


_ROWS = (
    Provider(
        "googleai",
        "gcp.gemini",
        needs=("gemini_api_key",),
        missing="a Gemini API key",
        no_text=re.compile(
            "embedding|^(?:veo-|deep-research-|imagegeneration@|imagetext@|virtual-try-on-)", re.IGNORECASE
        ),
    ),
    Provider("ollama", "ollama", extra="ollama", package="genkit_ollama"),
    Provider("offline", "offline"),
    Provider(
        "openai",
        "openai",
        extra="openai",
        package="genkit_openai",
        needs=("openai_api_key", "openai_base_url"),
        missing="an API key, or the OPENAI_BASE_URL of a server that needs none",
        no_text=re.compile("embed"),
    ),
)
PROVIDERS: Mapping[str, Provider] = {row.name: row for row in _ROWS}
