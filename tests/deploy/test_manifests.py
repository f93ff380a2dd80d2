"""Manifests set what there is to set, and start a service that answers their probes, on every platform."""

import re
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from src.config import Settings, is_secret
from src.rpc.handlers import SERVICE_DESCRIPTOR
from src.util.probe_paths import LIVENESS_PATHS, READINESS_PATHS
from testing.ports import free_port
from testing.service import Service
from tests.deploy import cloud_run, kubernetes
from tests.deploy.manifests import PROBES, ROOT, Change, Deployed, Load, changed, check_names, container_of, port_number

DEPLOYED = {
    "rest": cloud_run.REST,
    "grpc": cloud_run.GRPC,
    "pod": kubernetes.POD,
}
on_every_platform = pytest.mark.parametrize("deployed", DEPLOYED.values(), ids=DEPLOYED)


@on_every_platform
def test_every_setting_and_flag_of_a_manifest_exists(deployed: Deployed) -> None:
    check_names(deployed.container)


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(lambda d: container_of(d)["env"].append({"name": "TRUSTED_HOST", "value": "a"}), id="variable"),
        pytest.param(lambda d: container_of(d).update(args=["--grpc"]), id="flag"),
    ],
)
def test_a_setting_that_does_not_exist_is_found(mistake: Change) -> None:
    with pytest.raises((ValueError, SystemExit)):
        check_names(container_of(changed(next(iter(DEPLOYED.values())).manifest, mistake)))


@on_every_platform
def test_what_a_manifest_sets_is_valid_and_closed(deployed: Deployed, settings_of: Load) -> None:
    """The service starts with it, for named hosts only, and opens nothing."""
    settings = settings_of(deployed)
    assert not settings.debug
    assert settings.trusted_host_patterns
    assert not settings.cors_origins
    assert settings.model_provider != "offline"


@on_every_platform
def test_no_secret_stands_in_a_manifest(deployed: Deployed) -> None:
    secrets = {name.upper() for name, field in Settings.model_fields.items() if is_secret(field)}
    for variable in deployed.container["env"]:
        is_reference = "value" not in variable and variable["valueFrom"].keys() == {"secretKeyRef"}
        assert is_reference == (variable["name"] in secrets)


@on_every_platform
def test_probes_ask_for_what_they_mean(deployed: Deployed, settings_of: Load) -> None:
    """Start-up and readiness ask whether it can serve, liveness whether it runs, each where that is answered."""
    settings = settings_of(deployed)
    probes = {name: deployed.container[name] for name in PROBES if name in deployed.container}
    assert {"startupProbe", "livenessProbe"} <= probes.keys()
    for name, probe in probes.items():
        if "grpc" in probe:
            assert settings.grpc_enabled
            assert probe["grpc"] == {"port": settings.grpc_port, "service": SERVICE_DESCRIPTOR.full_name}
        else:
            assert port_number(deployed, probe["httpGet"]["port"]) == settings.port
            assert probe["httpGet"]["path"] in (LIVENESS_PATHS if name == "livenessProbe" else READINESS_PATHS)


@on_every_platform
def test_every_probe_is_answered_by_a_service_started_as_the_manifest_says(deployed: Deployed, tmp_path: Path) -> None:
    """On Cloud Run the gRPC service is told its own port as PORT, and comes up all the same."""
    grpc_port = str(free_port())
    environment = deployed.environment | {
        "GRPC_PORT": grpc_port,
        "TMPDIR": str(tmp_path),
        "GENKIT_TELEMETRY_DISABLED": "true",  # it would look for Google's metadata service
    }
    if "METRICS_PORT" in environment:
        environment["METRICS_PORT"] = str(free_port())
    if deployed.container["ports"][0]["name"] == "h2c":
        environment["PORT"] = grpc_port
    else:
        environment.pop("PORT", None)  # the default, for which the test takes a free one
    arguments = ["{port}" if argument == "8080" else argument for argument in deployed.arguments]
    with (
        Service([sys.executable, "-m", "src", *arguments], **environment) as service,
        grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
    ):
        for probe in (deployed.container[name] for name in PROBES if name in deployed.container):
            if "grpc" in probe:
                request = health_pb2.HealthCheckRequest(service=probe["grpc"]["service"])
                health: Any = health_pb2_grpc.HealthStub(channel)
                answer = health.Check(request, timeout=probe["timeoutSeconds"])
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            else:
                response = service.http.get(probe["httpGet"]["path"], timeout=probe["timeoutSeconds"])
                assert response.status_code == 200


def test_every_setting_that_the_page_names_exists() -> None:
    named = set(
        re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", (ROOT / "docs" / "deployment.md").read_text())
    )
    assert named
    assert named - {"OTEL_EXPORTER_OTLP_ENDPOINT"} <= {name.upper() for name in Settings.model_fields}


def test_one_command_of_the_page_replaces_every_placeholder(filled: Path) -> None:
    for path in sorted(filled.glob("*/*.yaml")):
        placeholders = r"REGION|PROJECT|REPOSITORY|VERSION|example\.com|203\.0\.113\."
        assert not re.search(placeholders, path.read_text()), path.name
