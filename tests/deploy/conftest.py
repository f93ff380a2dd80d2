"""Fixtures of the tests of manifests."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from src.config import Settings
from src.lifecycle.flags import parse_flags
from src.settings_loader import load_settings
from tests.deploy.manifests import ROOT, Deployed, Load


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


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `deploy` after the command of the page that puts an adopter's values in."""
    page = (ROOT / "docs" / "deployment.md").read_text()
    command = re.search(r"```bash\n(image=.*?)```", page, re.DOTALL)
    assert command is not None
    copy = tmp_path_factory.mktemp("filled")
    shutil.copytree(ROOT / "deploy", copy / "deploy")
    subprocess.run(["bash", "-euo", "pipefail", "-c", command[1]], cwd=copy, check=True, timeout=10)
    return copy / "deploy"
