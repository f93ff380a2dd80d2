"""The providers of models. A new one is a row here, and a module beside this one that makes its plugin."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider.

    Attributes:
        name: The part of MODEL before the slash, and the module in this package.
        telemetry_name: Its name in spans (`gen_ai.provider.name` in the conventions of OpenTelemetry).
        extra: The extra of this project that installs `package`; empty: no extra is needed.
        package: What its module imports.
        needs: Fields of the settings, of which one has to be set.
        missing: What the settings lack if none of these is set.
    """

    name: str
    telemetry_name: str
    extra: str = ""
    package: str = ""
    needs: tuple[str, ...] = ()
    missing: str = ""


_ROWS = (
    Provider("googleai", "gcp.gemini", needs=("gemini_api_key",), missing="a Gemini API key"),
    Provider("ollama", "ollama", extra="ollama", package="genkit_ollama"),
    Provider("offline", "offline"),
    Provider(
        "openai",
        "openai",
        extra="openai",
        package="genkit_openai",
        needs=("openai_api_key", "openai_base_url"),
        missing="an API key, or the OPENAI_BASE_URL of a server that needs none",
    ),
)
PROVIDERS: Mapping[str, Provider] = {row.name: row for row in _ROWS}
