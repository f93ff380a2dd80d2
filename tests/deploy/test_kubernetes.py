"""Kubernetes takes its manifests, and they start the service as they mean to, in a closed pod."""

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.deploy.kubernetes import (
    DEPLOYMENT,
    KUBERNETES,
    KUBERNETES_VERSIONS,
    KUSTOMIZATION,
    NAME,
    OBJECTS,
    POD,
    POLICY,
    check_kubernetes,
    pod_of,
)
from tests.deploy.manifests import PROBES, SECONDS_BEYOND_GRACE, Change, Load, Manifest, changed, container_of, read


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


def test_the_pod_is_probed_over_both_protocols() -> None:
    probes = [POD.container[name] for name in PROBES]
    assert any("grpc" in probe for probe in probes)
    assert any("httpGet" in probe for probe in probes)


def test_kubernetes_gives_a_drain_the_time_it_needs(settings_of: Load) -> None:
    wait = POD.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = wait + settings_of(POD).shutdown_grace + SECONDS_BEYOND_GRACE
    assert needed < pod_of(DEPLOYMENT)["terminationGracePeriodSeconds"]


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
    # What tests/stress/test_image_memory.py measures against.
    assert container_of(DEPLOYMENT)["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}


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
    peers = [peer for rule in POLICY["spec"]["egress"] for peer in rule["to"]]
    excepted: list[tuple[Any, list[str]]] = [
        (ip_network(block["cidr"]), block["except"]) for block in (peer.get("ipBlock") for peer in peers) if block
    ]
    assert [whole.version for whole, _ in excepted] == [4, 6]
    for whole, networks in excepted:
        assert networks == [str(ip_network(each)) for each in networks if ip_network(each).subnet_of(whole)]
        assert str(whole) not in networks


def test_what_no_policy_allows_is_denied() -> None:
    """A policy without rules selects every pod of the namespace, and no rule of the other is open to everyone."""
    assert OBJECTS["NetworkPolicy default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert POLICY["spec"]["policyTypes"] == ["Ingress", "Egress"]
    peers = [peer for rule in POLICY["spec"]["ingress"] for peer in rule["from"]]
    assert peers
    assert all(peer["namespaceSelector"]["matchLabels"] for peer in peers)


def test_the_deployment_is_valid_with_the_values_of_the_page(filled: Path) -> None:
    check_kubernetes(read(filled / "kubernetes" / "deployment.yaml")[0], KUBERNETES_VERSIONS[0])
