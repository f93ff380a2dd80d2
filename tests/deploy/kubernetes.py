"""Manifests for Kubernetes, and the platform's own words on what may stand in them."""

import kubernetes_validate

from tests.deploy.manifests import ROOT, Deployed, Manifest, read

KUBERNETES_VERSIONS = ("1.30", kubernetes_validate.latest_version())


def check_kubernetes(manifest: Manifest, version: str) -> None:
    """Raises jsonschema's ValidationError where an API server of this version would refuse or overlook something."""
    kubernetes_validate.validate(manifest, version, strict=True)


KUBERNETES = ROOT / "deploy" / "kubernetes"
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


POD = Deployed(DEPLOYMENT, {})
