"""Manifests as the tests read them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from src.app_init import PLATFORMS
from src.config import Settings
from src.lifecycle.flags import parse_flags

Manifest = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_BEYOND_GRACE = 2  # in which the process has ended after its grace
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
Change = Callable[[Any], object]


def read(path: Path) -> list[Manifest]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


def changed(manifest: Manifest, change: Change) -> Manifest:
    """A copy with a mistake planted in it."""
    copy = deepcopy(manifest)
    change(copy)
    return copy


@dataclass(frozen=True)
class Deployed:
    """A container as its platform starts it.

    Attributes:
        given: Variables that the platform adds, beyond the manifest's.
    """

    manifest: Manifest
    given: dict[str, str]

    @property
    def container(self) -> Manifest:
        """Its part of the manifest."""
        return container_of(self.manifest)

    @property
    def arguments(self) -> list[str]:
        """Its flags."""
        found: list[str] = self.container.get("args", [])
        return found

    @property
    def environment(self) -> dict[str, str]:
        """Its variables, secrets as `secret`."""
        return self.given | {each["name"]: each.get("value", "secret") for each in self.container["env"]}


def container_of(manifest: Manifest) -> Manifest:
    """The only container that it starts."""
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    found: Manifest = container
    return found


def check_names(container: Manifest) -> None:
    """Raises ValueError for a variable that nothing reads, SystemExit for a flag that does not exist."""
    known = {name.upper() for name in Settings.model_fields} | {platform.signal for platform in PLATFORMS}
    for variable in container["env"]:
        if variable["name"] not in known and not variable["name"].startswith("OTEL_"):
            raise ValueError(variable["name"])
    parse_flags(container.get("args", []))


def port_number(deployed: Deployed, port: int | str) -> int:
    """The port of a probe, which may have it by name."""
    named = {each["name"]: each["containerPort"] for each in deployed.container["ports"]}
    return named[port] if isinstance(port, str) else port


Load = Callable[[Deployed], Settings]
