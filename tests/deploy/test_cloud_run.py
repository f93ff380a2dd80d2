"""Cloud Run takes its manifests, and they start the service as they mean to."""

from pathlib import Path

import pytest
from jsonschema import ValidationError

from src.config import CLOUD_RUN_FRONT_END
from src.rpc.server import LIMITS
from tests.deploy.cloud_run import CLOUD_RUN_SERVICES, GRPC, REST, check_cloud_run
from tests.deploy.manifests import SECONDS_BEYOND_GRACE, Change, Deployed, Load, Manifest, changed, container_of, read

CLOUD_RUN_SECONDS_TO_STOP = 10  # from SIGTERM to SIGKILL, all told

on_every_service = pytest.mark.parametrize("deployed", [REST, GRPC], ids=["rest", "grpc"])


@pytest.mark.parametrize("service", CLOUD_RUN_SERVICES.values(), ids=CLOUD_RUN_SERVICES)
def test_cloud_run_knows_all_that_its_manifests_name(service: Manifest) -> None:
    check_cloud_run(service)


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(lambda s: s["spec"]["template"]["spec"].update(concurrency=64), id="unknown field"),
        pytest.param(lambda s: s["spec"]["template"]["spec"].update(timeoutSeconds="130"), id="text for a number"),
        pytest.param(lambda s: container_of(s)["env"][0].update(value=False), id="truth for text"),
        pytest.param(lambda s: container_of(s).update(args="--port 8080"), id="text for a list"),
        pytest.param(lambda s: container_of(s).update(securityContext={}), id="field of Kubernetes alone"),
        pytest.param(lambda s: container_of(s)["startupProbe"]["httpGet"].update(pfad="/"), id="unknown field, deep"),
        pytest.param(lambda s: annotate(s, "run.googleapis.com/ingres", "internal"), id="unknown annotation"),
        pytest.param(lambda s: annotate(s, "run.googleapis.com/cpu-throttling", "true"), id="a revision's annotation"),
        pytest.param(lambda s: annotate(s, "run.googleapis.com/ingress", "private"), id="unknown value"),
    ],
)
def test_a_mistake_in_a_cloud_run_manifest_is_found(mistake: Change) -> None:
    with pytest.raises(ValidationError):
        check_cloud_run(changed(CLOUD_RUN_SERVICES["rest"], mistake))


def annotate(service: Manifest, name: str, value: str) -> None:
    service["metadata"]["annotations"][name] = value


@on_every_service
def test_cloud_run_s_front_end_stays_trusted(deployed: Deployed, settings_of: Load) -> None:
    """TRUSTED_PROXIES replaces the default for Cloud Run, which therefore has to stand in it."""
    assert CLOUD_RUN_FRONT_END in settings_of(deployed).trusted_proxies.split(",")


@on_every_service
def test_cloud_run_sets_port_itself(deployed: Deployed) -> None:
    """A manifest that names one of its reserved variables is refused."""
    assert not {"PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION"} & {
        each["name"] for each in deployed.container["env"]
    }


def test_each_cloud_run_service_is_reached_at_its_own_protocol(settings_of: Load) -> None:
    (rest_port,), (grpc_port,) = REST.container["ports"], GRPC.container["ports"]
    assert rest_port == {"name": "http1", "containerPort": settings_of(REST).port}
    settings = settings_of(GRPC)
    assert grpc_port == {"name": "h2c", "containerPort": settings.grpc_port}


@on_every_service
def test_cloud_run_gives_a_drain_the_time_it_needs(deployed: Deployed, settings_of: Load) -> None:
    """Not even a liveness probe, which a draining gRPC service fails, ends it earlier."""
    assert settings_of(deployed).shutdown_grace + SECONDS_BEYOND_GRACE <= CLOUD_RUN_SECONDS_TO_STOP
    liveness = deployed.container["livenessProbe"]
    assert liveness["periodSeconds"] * (liveness["failureThreshold"] - 1) >= CLOUD_RUN_SECONDS_TO_STOP


@on_every_service
def test_an_instance_gets_no_more_than_it_can_take(deployed: Deployed, settings_of: Load) -> None:
    """Requests up to the LLM calls that may be under way, and for as long as the service itself allows."""
    settings, revision = settings_of(deployed), deployed.manifest["spec"]["template"]["spec"]
    assert revision["containerConcurrency"] <= settings.llm_max_concurrency
    assert revision["containerConcurrency"] <= dict(LIMITS)["grpc.max_concurrent_streams"]
    assert revision["timeoutSeconds"] > settings.request_timeout


def test_the_manifests_are_valid_with_the_values_of_the_page(filled: Path) -> None:
    for path in (filled / "cloudrun").iterdir():
        check_cloud_run(read(path)[0])
