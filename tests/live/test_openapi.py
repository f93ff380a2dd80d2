"""The OpenAPI document tells the truth: schemathesis calls all that it describes, and looks at what comes back."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from src.errors import ServiceError
from testing.service import BIN, ROOT, Service
from testing.small_service import OPERATIONS


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(DEBUG="true") as running:
        yield running


IMAGES = "/describe-image"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--exclude-path", IMAGES], id="all"),
        # What may follow `data:` is more than its schema says: the flow tells.
        pytest.param(["--include-path", IMAGES, "--exclude-checks", "positive_data_acceptance"], id="images"),
    ],
)
def test_every_answer_is_as_documented(service: Service, options: list[str]) -> None:
    command = [
        *(str(BIN / "schemathesis"), "run", f"{service.rest_url}/openapi.json", "--no-color"),
        *("--checks", "all", "--max-examples", "15", "--generation-deterministic"),
    ]
    env = os.environ | {"SCHEMATHESIS_HOOKS": "tests.live.openapi_hooks"}
    done = subprocess.run([*command, *options], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_failure_of_the_table_is_documented(service: Service) -> None:
    statuses = {str(failure.http_status) for failure in failures(ServiceError)}
    paths = service.http.get("/openapi.json").json()["paths"]
    operations = [path["post"] for path in paths.values() if "post" in path]
    assert len(operations) == len(OPERATIONS)
    for operation in operations:
        assert statuses | {"200", "400", "415"} == operation["responses"].keys()


def failures(base: type[ServiceError]) -> list[type[ServiceError]]:
    """The class and all below it."""
    return [base, *(failure for child in base.__subclasses__() for failure in failures(child))]
