"""Manifests for Cloud Run, and the platform's own words on what may stand in them."""

import json
import re
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from tests.deploy.manifests import (
    ROOT,
    Deployed,
    Manifest,
    container_of,
    read,
)


def discovered_schemas() -> dict[str, Any]:
    """Google's description of Cloud Run's Admin API v1, as its client library for Python brings it along."""
    document = files("googleapiclient") / "discovery_cache" / "documents" / "run.v1.json"
    schemas: dict[str, Any] = json.loads(document.read_text(encoding="utf-8"))["schemas"]
    return schemas


def as_json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """One schema of a discovery document as JSON Schema in which only fields that can be set are known."""
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    result = {key: schema[key] for key in ("type", "enum") if schema.get(key, "any") != "any"}
    if "items" in schema:
        result["items"] = as_json_schema(schema["items"])
    if schema.get("type") == "object":
        fields = schema.get("properties", {})
        result["properties"] = {name: as_json_schema(field) for name, field in fields.items() if is_settable(field)}
        values = schema.get("additionalProperties")
        result["additionalProperties"] = as_json_schema(values) if values else False
    return result


def is_settable(field: dict[str, Any]) -> bool:
    """Return True if clients may set the field on Cloud Run: those for Knative alone say so in prose."""
    return not field.get("readOnly") and not re.match("Not supported (by|in) Cloud Run", field.get("description", ""))


DISCOVERED = discovered_schemas()
CLOUD_RUN_SCHEMA = {
    "$defs": {name: as_json_schema(schema) for name, schema in DISCOVERED.items()},
    "$ref": "#/$defs/Service",
}
# Annotations are free-form to the schema; which of them Cloud Run knows, and where, stands in a description.
CLOUD_RUN_ANNOTATIONS = {
    name: re.split(r", *", resources)
    for name, resources in re.findall(
        r"\* `([^`]+)`: ([A-Za-z, ]+)", DISCOVERED["ObjectMeta"]["properties"]["annotations"]["description"]
    )
}
BOOLEAN = "true|false"
NUMBER = "[0-9]+"
ANNOTATION_VALUES = {
    "run.googleapis.com/ingress": "all|internal|internal-and-cloud-load-balancing",
    "run.googleapis.com/minScale": NUMBER,
    "run.googleapis.com/maxScale": NUMBER,
    "run.googleapis.com/execution-environment": "gen1|gen2",
    "run.googleapis.com/startup-cpu-boost": BOOLEAN,
    "run.googleapis.com/cpu-throttling": BOOLEAN,
}


def check_cloud_run(service: Manifest) -> None:
    """Raises jsonschema's ValidationError where Cloud Run would refuse or overlook something."""
    Draft202012Validator(CLOUD_RUN_SCHEMA).validate(service)
    for resource, metadata in (("Service", service["metadata"]), ("Revision", service["spec"]["template"]["metadata"])):
        for name, value in metadata["annotations"].items():
            if resource not in CLOUD_RUN_ANNOTATIONS.get(name, ()):
                raise ValidationError(f"a {resource} has no annotation {name}")
            if not re.fullmatch(ANNOTATION_VALUES.get(name, ".*"), value):
                raise ValidationError(f"{name} can't be {value!r}")


CLOUD_RUN = ROOT / "deploy" / "cloudrun"
CLOUD_RUN_SERVICES = {path.stem: read(path)[0] for path in sorted(CLOUD_RUN.iterdir())}


def on_cloud_run(service: Manifest) -> Deployed:
    (port,) = container_of(service)["ports"]
    return Deployed(service, {"K_SERVICE": service["metadata"]["name"], "PORT": str(port["containerPort"])})


REST = on_cloud_run(CLOUD_RUN_SERVICES["rest"])
GRPC = on_cloud_run(CLOUD_RUN_SERVICES["grpc"])
