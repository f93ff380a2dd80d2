"""Telemetry turns itself on where the environment tells of a place for it, and says what it found, did or lacks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from testing.service import ROOT

# Prints what the spans go to. Modules named on the command line are as good as not installed.
STARTED = """
import sys, threading
class Missing:
    def find_spec(self, name, path=None, target=None):
        if any(name.startswith(missing) for missing in sys.argv[1:]):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from src.settings_loader import load_settings
from src.logs.setup import configure_logging
from src.app_init import start_telemetry
settings = load_settings()
configure_logging(settings)
provider = start_telemetry(settings)
for thread in threading.enumerate():
    if thread.name == "exporter":
        thread.join(10)
if provider is None:
    print("nothing", "src.telemetry.traces" in sys.modules)
else:
    from opentelemetry import propagate
    [processor] = provider._active_span_processor._span_processors
    print(type(processor.span_exporter._exporter).__module__, sorted(propagate.get_global_textmap().fields))
"""

OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
AZURE = {"APPLICATIONINSIGHTS_CONNECTION_STRING": "InstrumentationKey=00000000-0000-0000-0000-000000000000"}


def started(env: dict[str, str], *missing: str) -> tuple[list[dict[str, Any]], str]:
    """The lines about telemetry, and what the spans go to."""
    done = subprocess.run(
        [sys.executable, "-c", STARTED, *missing],
        cwd=ROOT,
        env={"MODEL": "offline/demo", "PATH": "", "NO_GCE_CHECK": "true", **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    field = "message" if "K_SERVICE" in env else "event"
    return [line for line in lines if line[field] == "telemetry"], done.stdout.strip()


@pytest.fixture(scope="module")
def google_credentials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Credentials that the library takes without asking anybody."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {
        "type": "service_account",
        "project_id": "p",
        "private_key": pem,
        "client_email": "s@p.test",
        "token_uri": "http://127.0.0.1:1/",
    }
    file: Path = tmp_path_factory.mktemp("google") / "account.json"
    file.write_text(json.dumps(account))
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}


@pytest.mark.parametrize(
    ("env", "name", "exporter"),
    [
        pytest.param(OTLP, "OTLP collector", "opentelemetry.exporter.otlp.proto.http", id="OTLP"),
        pytest.param(
            {**OTLP, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTLP collector",
            "opentelemetry.exporter.otlp.proto.grpc",
            id="OTLP over gRPC",
        ),
        pytest.param({"K_SERVICE": "s"}, "Google Cloud Run", "opentelemetry.exporter.cloud_trace", id="Cloud Run"),
        pytest.param(
            {"GCE_METADATA_HOST": "127.0.0.1:1"},
            "Google Compute or Kubernetes Engine",
            "opentelemetry.exporter.cloud_trace",
            id="GCE",
        ),
        pytest.param(
            {"GOOGLE_CLOUD_PROJECT": "p", "GENKIT_TELEMETRY_GCP": "1"},
            "Google Cloud",
            "opentelemetry.exporter.cloud_trace",
            id="Google, asked for",
        ),
        pytest.param(
            {"AWS_EXECUTION_ENV": "AWS_ECS_FARGATE"},
            "AWS ECS or App Runner",
            "opentelemetry.exporter.otlp.proto.http",
            id="AWS",
        ),
        pytest.param(
            {"CONTAINER_APP_NAME": "a", **AZURE}, "Azure Container Apps", "azure.monitor.opentelemetry", id="Azure"
        ),
    ],
)
def test_a_platform_is_found_and_used(
    env: dict[str, str], name: str, exporter: str, google_credentials: dict[str, str]
) -> None:
    [line], used = started(env | google_credentials)
    assert (line["found"], line["state"]) == ([name], "on")
    assert used.startswith(exporter)
    assert ("x-amzn-trace-id" in used.lower()) is ("AWS_EXECUTION_ENV" in env)


@pytest.mark.parametrize(
    ("env", "missing", "extra"),
    [
        pytest.param(OTLP, "opentelemetry.exporter.otlp", "observability", id="OTLP"),
        pytest.param({"K_SERVICE": "s"}, "opentelemetry.exporter.cloud_trace", "gcp", id="Cloud Run"),
        pytest.param({"AWS_EXECUTION_ENV": "x"}, "opentelemetry.propagators.aws", "aws", id="AWS"),
        pytest.param({"CONTAINER_APP_NAME": "a"}, "azure", "azure", id="Azure"),
    ],
)
def test_what_is_not_installed_is_named(env: dict[str, str], missing: str, extra: str) -> None:
    [line], used = started(env, missing)
    assert line["state"] == f"off: install the extra '{extra}'"
    assert used == "nothing False"


@pytest.mark.parametrize(
    ("env", "state"),
    [
        pytest.param({}, "no platform found", id="nothing"),
        pytest.param({"GOOGLE_CLOUD_PROJECT": "p"}, "no platform found", id="the project alone"),
        pytest.param({"GENKIT_TELEMETRY_GCP": "1"}, "no platform found", id="no project"),
        pytest.param({**OTLP, "GENKIT_TELEMETRY_DISABLED": "1"}, "GENKIT_TELEMETRY_DISABLED", id="switched off"),
        pytest.param({"CONTAINER_APP_NAME": "a"}, "set APPLICATIONINSIGHTS_CONNECTION_STRING", id="Azure, no address"),
        pytest.param(
            {**OTLP, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL='http/json': use http/protobuf or grpc",
            id="unknown protocol",
        ),
        pytest.param(
            {"CONTAINER_APP_NAME": "a", "APPLICATIONINSIGHTS_CONNECTION_STRING": "nonsense"},
            "it could not be started",
            id="broken address",
        ),
    ],
)
def test_what_is_off_is_said_with_its_reason(env: dict[str, str], state: str) -> None:
    [line], used = started(env)
    assert line["state"] == f"off: {state}"
    assert used.startswith("nothing")


def test_a_collector_that_was_named_wins_over_the_platform() -> None:
    [line], used = started({"K_SERVICE": "s", **OTLP})
    assert line["found"] == ["OTLP collector", "Google Cloud Run"]
    assert used.startswith("opentelemetry.exporter.otlp")
