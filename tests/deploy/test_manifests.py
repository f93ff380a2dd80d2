"""The manifests are valid, name only what exists, and are as closed as they say."""

import json
import re
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from src.app_init import PLATFORMS
from src.config import Settings, parse_flags

ROOT = Path(__file__).resolve().parent.parent.parent
CLOUD_RUN = ROOT / "deploy" / "cloudrun"
KUBERNETES = ROOT / "deploy" / "kubernetes"

# The oldest version with `preStop.sleep` switched on, and the newest whose schemas there are.
KUBERNETES_VERSIONS = ("1.30", kubernetes_validate.latest_version())

SECONDS_BEYOND_GRACE = 2  # in which the process has ended after its grace
CLOUD_RUN_SECONDS_TO_STOP = 10  # from SIGTERM to SIGKILL, not configurable

Manifest = dict[str, Any]


def read(path: Path) -> list[Manifest]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


CLOUD_RUN_SERVICES = {path.stem: read(path)[0] for path in sorted(CLOUD_RUN.iterdir())}
KUSTOMIZATION = read(KUBERNETES / "kustomization.yaml")[0]
OBJECTS = [each for name in KUSTOMIZATION["resources"] for each in read(KUBERNETES / name)]


def only(kind: str) -> Manifest:
    """The one Kubernetes object of this kind."""
    (found,) = (each for each in OBJECTS if each["kind"] == kind)
    return found


POD = only("Deployment")["spec"]["template"]["spec"]


# --- The platforms' own descriptions of what may stand in a manifest


def cloud_run_schema() -> dict[str, Any]:
    """Google's description of the Admin API v1 as JSON Schema: fields that are unknown or unsupported are errors."""
    found = files("googleapiclient") / "discovery_cache" / "documents" / "run.v1.json"
    described = json.loads(found.read_text(encoding="utf-8"))["schemas"]
    return {"$defs": {name: _closed(schema) for name, schema in described.items()}, "$ref": "#/$defs/Service"}


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """One schema of a discovery document in the terms of JSON Schema."""
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    closed = {key: schema[key] for key in ("type", "enum") if key in schema and schema[key] != "any"}
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
    if "properties" in schema:
        settable = {name: each for name, each in schema["properties"].items() if _is_settable(each)}
        closed["properties"] = {name: _closed(each) for name, each in settable.items()}
    if closed.get("type") == "object":
        values = schema.get("additionalProperties")
        closed["additionalProperties"] = _closed(values) if values else False
    return closed


def _is_settable(field: dict[str, Any]) -> bool:
    description = field.get("description", "")
    return not field.get("readOnly") and not re.match(r"Not supported (by|in) Cloud Run|\[Deprecated\]", description)


CLOUD_RUN_SCHEMA = cloud_run_schema()


def cloud_run_annotations(resource: str) -> set[str]:
    """The annotations that Cloud Run knows for a "Service" or a "Revision"; the API describes them in prose alone."""
    found = files("googleapiclient") / "discovery_cache" / "documents" / "run.v1.json"
    meta = json.loads(found.read_text(encoding="utf-8"))["schemas"]["ObjectMeta"]["properties"]
    table = re.findall(r"\* `([^`]+)`: ([A-Za-z, ]+)", meta["annotations"]["description"])
    return {name for name, resources in table if resource in re.split(r", *", resources)}


BOOLEAN = re.compile("true|false")
NUMBER = re.compile("[0-9]+")
ANNOTATION_VALUES = {
    "run.googleapis.com/ingress": re.compile("all|internal|internal-and-cloud-load-balancing"),
    "run.googleapis.com/minScale": NUMBER,
    "run.googleapis.com/maxScale": NUMBER,
    "run.googleapis.com/execution-environment": re.compile("gen1|gen2"),
    "run.googleapis.com/startup-cpu-boost": BOOLEAN,
    "run.googleapis.com/cpu-throttling": BOOLEAN,
}


def check_cloud_run(service: Manifest) -> None:
    """Raises ValidationError: Cloud Run would refuse or overlook something in it."""
    Draft202012Validator(CLOUD_RUN_SCHEMA).validate(service)
    template = service["spec"]["template"]
    for resource, meta in (("Service", service["metadata"]), ("Revision", template["metadata"])):
        for name, value in meta["annotations"].items():
            if name not in cloud_run_annotations(resource) or not ANNOTATION_VALUES[name].fullmatch(value):
                raise ValidationError(f"{resource}: {name}: {value!r}")


def check_kubernetes(manifest: Manifest, version: str) -> None:
    """Raises jsonschema's ValidationError: an API server of this version would refuse or overlook something in it."""
    kubernetes_validate.validate(manifest, version, strict=True)


def check_names(container: Manifest) -> None:
    """Raises ValueError: it sets a variable that nothing reads. SystemExit: it has a flag that does not exist."""
    known = {name.upper() for name in Settings.model_fields} | {platform.signal for platform in PLATFORMS}
    for variable in container["env"]:
        if variable["name"] not in known and not variable["name"].startswith("OTEL_"):
            raise ValueError(variable["name"])
    parse_flags(container.get("args", []))


@pytest.mark.parametrize("service", CLOUD_RUN_SERVICES.values(), ids=CLOUD_RUN_SERVICES)
def test_cloud_run_knows_all_that_its_manifests_name(service: Manifest) -> None:
    check_cloud_run(service)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda each: f"{each['kind']} {each['metadata']['name']}")
def test_kubernetes_knows_all_that_its_manifests_name(manifest: Manifest, version: str) -> None:
    check_kubernetes(manifest, version)


def at(manifest: Manifest, path: str) -> tuple[Any, str | int]:
    """Where a dotted path ends: the mapping or list that holds it, and its key there."""
    *way, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    place: Any = manifest
    for step in way:
        place = place[step]
    return place, last


def planted(manifest: Manifest, path: str, value: object) -> Manifest:
    """A copy in which one value is another."""
    copy = deepcopy(manifest)
    place, key = at(copy, path)
    place[key] = value
    return copy


CONTAINER = "spec/template/spec/containers/0"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param("spec/template/spec/concurrency", 64, id="unknown field"),
        pytest.param(f"{CONTAINER}/startupProbe/httpGet/pathname", "/ready", id="unknown field, deep"),
        pytest.param(f"{CONTAINER}/securityContext", {}, id="field of Kubernetes alone"),
        pytest.param("status", {}, id="what the platform writes", marks=pytest.mark.xfail(strict=True)),
        pytest.param("spec/template/spec/timeoutSeconds", "130", id="text for a number"),
        pytest.param(f"{CONTAINER}/env/0/value", True, id="truth for text"),
        pytest.param(f"{CONTAINER}/args", "--port 8080", id="text for a list"),
        pytest.param("metadata/annotations/run.googleapis.com~ingres", "internal", id="unknown annotation"),
        pytest.param("metadata/annotations/run.googleapis.com~cpu-throttling", "true", id="annotation of the other"),
        pytest.param("metadata/annotations/run.googleapis.com~ingress", "private", id="value it does not have"),
    ],
)
def test_a_mistake_in_a_cloud_run_manifest_is_found(path: str, value: object) -> None:
    manifest = deepcopy(CLOUD_RUN_SERVICES["rest"])
    place, key = at(manifest, path)
    place[str(key).replace("~", "/")] = value
    with pytest.raises(ValidationError):
        check_cloud_run(manifest)
