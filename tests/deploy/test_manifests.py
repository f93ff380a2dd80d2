"""The manifests are valid, name only what exists, and are as closed as docs/deployment.md says."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import grpc
import kubernetes_validate
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jsonschema import ValidationError

from src.app_init import PLATFORMS
from src.config import CLOUD_RUN_FRONT_END, Settings, is_secret
from src.lifecycle.flags import parse_flags
from src.rpc.handlers import SERVICE_DESCRIPTOR
from src.rpc.server import LIMITS
from src.settings_loader import load_settings
from src.util.probe_paths import LIVENESS_PATHS, READINESS_PATHS
from testing.ports import free_port
from testing.service import Service
from tests.deploy.schemas import KUBERNETES_VERSIONS, Manifest, check_cloud_run, check_kubernetes

ROOT = Path(__file__).resolve().parent.parent.parent
CLOUD_RUN = ROOT / "deploy" / "cloudrun"
KUBERNETES = ROOT / "deploy" / "kubernetes"
GRAFANA = ROOT / "deploy" / "grafana"

SECONDS_BEYOND_GRACE = 2  # in which the process has ended after its grace
CLOUD_RUN_SECONDS_TO_STOP = 10  # from SIGTERM to SIGKILL, all told

Change = Callable[[Any], object]


def read(path: Path) -> list[Manifest]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text()))


def changed(manifest: Manifest, change: Change) -> Manifest:
    """A copy with a mistake planted in it."""
    copy = deepcopy(manifest)
    change(copy)
    return copy


CLOUD_RUN_SERVICES = {path.stem: read(path)[0] for path in sorted(CLOUD_RUN.iterdir())}
KUSTOMIZATION = read(KUBERNETES / "kustomization.yaml")[0]
OBJECTS = {
    f"{each['kind']} {each['metadata']['name']}": each
    for name in KUSTOMIZATION["resources"]
    for each in read(KUBERNETES / name)
}
NAME = "hardened-genkit-service"
DEPLOYMENT = OBJECTS[f"Deployment {NAME}"]
POLICY = OBJECTS[f"NetworkPolicy {NAME}"]


def pod_of(deployment: Manifest) -> Manifest:
    """Return the pod's spec."""
    pod: Manifest = deployment["spec"]["template"]["spec"]
    return pod


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


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("manifest", OBJECTS.values(), ids=OBJECTS)
def test_kubernetes_knows_all_that_its_manifests_name(manifest: Manifest, version: str) -> None:
    check_kubernetes(manifest, version)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        pytest.param(f"Deployment {NAME}", lambda d: pod_of(d).update(runAsUser=1), id="unknown field"),
        pytest.param(
            f"Deployment {NAME}",
            lambda d: container_of(d)["securityContext"].update(readOnlyRootFileSystem=True),
            id="unknown field, by one letter",
        ),
        pytest.param(
            f"Deployment {NAME}", lambda d: pod_of(d).update(terminationGracePeriodSeconds="40"), id="text for a number"
        ),
        pytest.param(f"NetworkPolicy {NAME}", lambda p: p["spec"].update(egres=[]), id="unknown part of a policy"),
    ],
)
def test_a_mistake_in_a_kubernetes_manifest_is_found(name: str, mistake: Change, version: str) -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        check_kubernetes(changed(OBJECTS[name], mistake), version)


def test_the_kustomization_applies_every_file_to_one_namespace() -> None:
    assert KUSTOMIZATION.keys() == {"apiVersion", "kind", "namespace", "resources"}
    written = {path.name for path in KUBERNETES.iterdir()} - {"kustomization.yaml"}
    assert sorted(KUSTOMIZATION["resources"]) == sorted(written)
    assert f"Namespace {KUSTOMIZATION['namespace']}" in OBJECTS


# What the container is told


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


def on_cloud_run(service: Manifest) -> Deployed:
    (port,) = container_of(service)["ports"]
    return Deployed(service, {"K_SERVICE": service["metadata"]["name"], "PORT": str(port["containerPort"])})


REST = on_cloud_run(CLOUD_RUN_SERVICES["rest"])
GRPC = on_cloud_run(CLOUD_RUN_SERVICES["grpc"])
POD = Deployed(DEPLOYMENT, {})
on_every_platform = pytest.mark.parametrize("deployed", [REST, GRPC, POD], ids=["rest", "grpc", "pod"])
on_cloud_run_alone = pytest.mark.parametrize("deployed", [REST, GRPC], ids=["rest", "grpc"])


Load = Callable[[Deployed], Settings]


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """The settings that a container comes to, with no variable or env file of this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("K_SERVICE", raising=False)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)

    def load(deployed: Deployed) -> Settings:
        with monkeypatch.context() as environment:
            for name, value in deployed.environment.items():
                environment.setenv(name, value)
            return load_settings(parse_flags(deployed.arguments))

    return load


def check_names(container: Manifest) -> None:
    """Raises ValueError for a variable that nothing reads, SystemExit for a flag that does not exist."""
    known = {name.upper() for name in Settings.model_fields} | {platform.signal for platform in PLATFORMS}
    for variable in container["env"]:
        if variable["name"] not in known and not variable["name"].startswith("OTEL_"):
            raise ValueError(variable["name"])
    parse_flags(container.get("args", []))


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
        check_names(container_of(changed(DEPLOYMENT, mistake)))


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


@on_cloud_run_alone
def test_cloud_run_s_front_end_stays_trusted(deployed: Deployed, settings_of: Load) -> None:
    """TRUSTED_PROXIES replaces the default for Cloud Run, which therefore has to stand in it."""
    assert CLOUD_RUN_FRONT_END in settings_of(deployed).trusted_proxies.split(",")


@on_cloud_run_alone
def test_cloud_run_sets_port_itself(deployed: Deployed) -> None:
    """A manifest that names one of its reserved variables is refused."""
    assert not {"PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION"} & {
        each["name"] for each in deployed.container["env"]
    }


# Ports and probes


def test_each_cloud_run_service_is_reached_at_its_own_protocol(settings_of: Load) -> None:
    (rest_port,), (grpc_port,) = REST.container["ports"], GRPC.container["ports"]
    assert rest_port == {"name": "http1", "containerPort": settings_of(REST).port}
    settings = settings_of(GRPC)
    assert grpc_port == {"name": "h2c", "containerPort": settings.grpc_port}


def test_the_pod_s_ports_are_those_that_it_serves(settings_of: Load) -> None:
    """Whatever leads to a port, by name or number, leads to the server that it means."""
    settings = settings_of(POD)
    assert {port["name"]: port["containerPort"] for port in POD.container["ports"]} == {
        "rest": settings.port,
        "grpc": settings.grpc_port,
        "metrics": settings.metrics_port,
    }
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.metrics_port)
    (rest,), (rpc,) = OBJECTS["Service rest"]["spec"]["ports"], OBJECTS["Service grpc"]["spec"]["ports"]
    assert (rest["targetPort"], rpc["targetPort"]) == ("rest", "grpc")
    assert OBJECTS["Service grpc"]["spec"]["clusterIP"] == "None"
    assert {port["port"] for rule in POLICY["spec"]["ingress"] for port in rule["ports"]} == {"rest", "grpc", "metrics"}


def test_everything_that_selects_pods_selects_ours() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    spread = pod_of(DEPLOYMENT)["topologySpreadConstraints"]
    assert [
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        OBJECTS["Service rest"]["spec"]["selector"],
        OBJECTS["Service grpc"]["spec"]["selector"],
        OBJECTS[f"PodDisruptionBudget {NAME}"]["spec"]["selector"]["matchLabels"],
        POLICY["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in spread),
    ] == [labels] * (5 + len(spread))
    target = OBJECTS[f"HorizontalPodAutoscaler {NAME}"]["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": DEPLOYMENT["apiVersion"], "kind": "Deployment", "name": NAME}
    assert "replicas" not in DEPLOYMENT["spec"]
    assert pod_of(DEPLOYMENT)["serviceAccountName"] == OBJECTS[f"ServiceAccount {NAME}"]["metadata"]["name"]


def port_number(deployed: Deployed, port: int | str) -> int:
    """The port of a probe, which may have it by name."""
    named = {each["name"]: each["containerPort"] for each in deployed.container["ports"]}
    return named[port] if isinstance(port, str) else port


PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


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


def test_the_pod_is_probed_over_both_protocols() -> None:
    probes = [POD.container[name] for name in PROBES]
    assert any("grpc" in probe for probe in probes)
    assert any("httpGet" in probe for probe in probes)


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
    if deployed is GRPC:
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


# Time and numbers


@on_cloud_run_alone
def test_cloud_run_gives_a_drain_the_time_it_needs(deployed: Deployed, settings_of: Load) -> None:
    """Not even a liveness probe, which a draining gRPC service fails, ends it earlier."""
    assert settings_of(deployed).shutdown_grace + SECONDS_BEYOND_GRACE <= CLOUD_RUN_SECONDS_TO_STOP
    liveness = deployed.container["livenessProbe"]
    assert liveness["periodSeconds"] * (liveness["failureThreshold"] - 1) >= CLOUD_RUN_SECONDS_TO_STOP


def test_kubernetes_gives_a_drain_the_time_it_needs(settings_of: Load) -> None:
    wait = POD.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = wait + settings_of(POD).shutdown_grace + SECONDS_BEYOND_GRACE
    assert needed < pod_of(DEPLOYMENT)["terminationGracePeriodSeconds"]


@on_cloud_run_alone
def test_an_instance_gets_no_more_than_it_can_take(deployed: Deployed, settings_of: Load) -> None:
    """Requests up to the LLM calls that may be under way, and for as long as the service itself allows."""
    settings, revision = settings_of(deployed), deployed.manifest["spec"]["template"]["spec"]
    assert revision["containerConcurrency"] <= settings.llm_max_concurrency
    assert revision["containerConcurrency"] <= dict(LIMITS)["grpc.max_concurrent_streams"]
    assert revision["timeoutSeconds"] > settings.request_timeout


# The pod is closed

# Pod Security Standards, profile "restricted": https://kubernetes.io/docs/concepts/security/pod-security-standards/
RESTRICTED: dict[str, Callable[[Manifest, Manifest], bool]] = {
    "host namespaces": lambda pod, _: not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(),
    "privileged": lambda _, container: not container["securityContext"].get("privileged"),
    "host ports": lambda _, container: not any("hostPort" in port for port in container["ports"]),
    "volume types": lambda pod, _: all(
        volume.keys() - {"name"} <= {"configMap", "csi", "downwardAPI", "emptyDir", "projected", "secret"}
        for volume in pod["volumes"]
    ),
    "privilege escalation": lambda _, container: container["securityContext"].get("allowPrivilegeEscalation") is False,
    "non-root": lambda pod, container: (
        pod["securityContext"].get("runAsNonRoot") is True and "runAsNonRoot" not in container["securityContext"]
    ),
    "non-root user": lambda pod, container: (
        pod["securityContext"].get("runAsUser") == 65534 and "runAsUser" not in container["securityContext"]
    ),
    "seccomp": lambda pod, container: (
        pod["securityContext"].get("seccompProfile") == {"type": "RuntimeDefault"}
        and "seccompProfile" not in container["securityContext"]
    ),
    "capabilities": lambda _, container: container["securityContext"].get("capabilities") == {"drop": ["ALL"]},
}


def broken_rules(deployment: Manifest) -> set[str]:
    """The rules of the restricted profile that its pods break."""
    pod, container = pod_of(deployment), container_of(deployment)
    assert not {"initContainers", "ephemeralContainers"} & pod.keys()
    return {rule for rule, holds in RESTRICTED.items() if not holds(pod, container)}


def test_the_pod_is_restricted_and_the_namespace_insists_on_it() -> None:
    assert broken_rules(DEPLOYMENT) == set()
    labels = OBJECTS[f"Namespace {NAME}"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize(
    ("rule", "mistake"),
    [
        ("host namespaces", lambda d: pod_of(d).update(hostNetwork=True)),
        ("privileged", lambda d: container_of(d)["securityContext"].update(privileged=True)),
        ("host ports", lambda d: container_of(d)["ports"][0].update(hostPort=80)),
        ("volume types", lambda d: pod_of(d)["volumes"].append({"name": "host", "hostPath": {"path": "/"}})),
        ("privilege escalation", lambda d: container_of(d)["securityContext"].pop("allowPrivilegeEscalation")),
        ("non-root", lambda d: container_of(d)["securityContext"].update(runAsNonRoot=False)),
        ("non-root user", lambda d: pod_of(d)["securityContext"].update(runAsUser=0)),
        ("seccomp", lambda d: pod_of(d)["securityContext"].update(seccompProfile={"type": "Unconfined"})),
        ("capabilities", lambda d: container_of(d)["securityContext"]["capabilities"].update(add=["NET_ADMIN"])),
    ],
    ids=RESTRICTED,
)
def test_a_pod_that_is_less_closed_is_found(rule: str, mistake: Change) -> None:
    assert broken_rules(changed(DEPLOYMENT, mistake)) == {rule}


def test_the_pod_is_closed_beyond_the_standard() -> None:
    """No token, nothing to write to but a small /tmp in memory, and bounded memory and CPU."""
    pod = pod_of(DEPLOYMENT)
    assert container_of(DEPLOYMENT)["securityContext"]["readOnlyRootFilesystem"] is True
    assert [mount["mountPath"] for mount in container_of(DEPLOYMENT)["volumeMounts"]] == ["/tmp"]
    assert [volume["emptyDir"].keys() for volume in pod["volumes"]] == [{"medium", "sizeLimit"}]
    assert pod["automountServiceAccountToken"] is False
    assert OBJECTS[f"ServiceAccount {NAME}"]["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert container_of(DEPLOYMENT)["resources"]["limits"].keys() == {"cpu", "memory"}


# The network


def allows_egress(policies: list[Manifest], address: str, port: int) -> bool:
    """Return True if these policies allow a connection to an address outside the cluster's pods."""
    target = ip_address(address)
    return any(
        port in {each["port"] for each in rule["ports"]} and is_inside(peer["ipBlock"], target)
        for policy in policies
        for rule in policy["spec"].get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
    )


def is_inside(block: Manifest, target: Any) -> bool:
    return target in ip_network(block["cidr"]) and not any(target in ip_network(each) for each in block["except"])


POLICIES = [each for each in OBJECTS.values() if each["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("169.254.169.254", id="AWS, Azure, Google Cloud"),
        pytest.param("169.254.170.2", id="AWS ECS"),
        pytest.param("fd00:ec2::254", id="AWS, IPv6"),
        pytest.param("fd20:ce::254", id="Google Cloud, IPv6"),
        pytest.param("64:ff9b::a9fe:a9fe", id="169.254.169.254 by NAT64"),
        pytest.param("168.63.129.16", id="Azure's wire server"),
        pytest.param("100.100.100.200", id="Alibaba Cloud"),
        pytest.param("192.0.0.192", id="Oracle Cloud"),
        pytest.param("10.96.0.1", id="API server"),
        pytest.param("172.20.0.1", id="private, 172"),
        pytest.param("192.168.1.1", id="private, 192"),
        pytest.param("127.0.0.1", id="loopback"),
        pytest.param("::1", id="loopback, IPv6"),
        pytest.param("fe80::1", id="link-local, IPv6"),
    ],
)
def test_no_pod_reaches_metadata_or_what_is_inside(address: str) -> None:
    assert not allows_egress(POLICIES, address, 443)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888"])
def test_pods_reach_the_llm_and_nothing_but_https(address: str) -> None:
    assert allows_egress(POLICIES, address, 443)
    assert not allows_egress(POLICIES, address, 80)


def test_a_metadata_address_that_is_let_through_is_found() -> None:
    def forget(policy: Manifest) -> None:
        policy["spec"]["egress"][1]["to"][0]["ipBlock"]["except"].remove("169.254.0.0/16")

    assert allows_egress([changed(POLICY, forget)], "169.254.169.254", 443)


def test_excepted_networks_are_such_as_an_api_server_takes() -> None:
    """Each has to lie strictly inside its block, in canonical form; the schemas don't say so."""
    for rule in POLICY["spec"]["egress"]:
        for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
            whole: Any = ip_network(block["cidr"])
            assert all(ip_network(each).subnet_of(whole) and ip_network(each) != whole for each in block["except"])
            assert block["except"] == [str(ip_network(each)) for each in block["except"]]


def test_what_no_policy_allows_is_denied() -> None:
    """A policy without rules selects every pod of the namespace, and no rule of the other is open to everyone."""
    assert OBJECTS["NetworkPolicy default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert POLICY["spec"]["policyTypes"] == ["Ingress", "Egress"]
    for rule in POLICY["spec"]["ingress"]:
        assert all(peer["namespaceSelector"]["matchLabels"] for peer in rule["from"])


# The page


def test_one_command_of_the_page_replaces_every_placeholder(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    command = re.search(r"```bash\n(image=.*?)```", page, re.DOTALL)
    assert command is not None
    for place in (CLOUD_RUN, KUBERNETES, GRAFANA):
        shutil.copytree(place, tmp_path / "deploy" / place.name)
    subprocess.run(["bash", "-euo", "pipefail", "-c", command[1]], cwd=tmp_path, check=True, timeout=10)
    for path in sorted((tmp_path / "deploy").glob("*/*.yaml")):
        placeholders = r"REGION|PROJECT|REPOSITORY|VERSION|example\.com|203\.0\.113\."
        assert not re.search(placeholders, path.read_text()), path.name
    for path in (tmp_path / "deploy" / "cloudrun").iterdir():
        check_cloud_run(read(path)[0])
    check_kubernetes(read(tmp_path / "deploy" / "kubernetes" / "deployment.yaml")[0], KUBERNETES_VERSIONS[0])


def test_every_setting_that_the_page_names_exists() -> None:
    named = set(
        re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*)?`", (ROOT / "docs" / "deployment.md").read_text())
    )
    assert named
    assert named - {"OTEL_EXPORTER_OTLP_ENDPOINT"} <= {name.upper() for name in Settings.model_fields}
