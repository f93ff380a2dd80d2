"""The API's page in a real browser: works under debug's content security policy, and is not there without debug."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.live.service import ROOT, Service

SCRIPT = ROOT / "tests/live/browser/docs_page.mjs"


def test_the_page_works_under_its_policy(tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's chromium")
    if not (ROOT / "node_modules/playwright-core").is_dir():
        pytest.skip("needs the tools of package.json: npm install")
    screenshot = tmp_path / "swagger.png"
    with Service(DEBUG="true") as service:
        done = subprocess.run(
            ["node", SCRIPT, service.rest_url, screenshot, chromium], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["status"] == "200"
    assert json.loads(seen["answer"])["original_text"] == "good morning"
    assert (seen["errors"], seen["violations"], seen["outside"]) == ([], [], [])
    assert screenshot.read_bytes().startswith(b"\x89PNG")


def test_in_production_there_is_none() -> None:
    with Service() as service:
        for path in ("/docs", "/redoc", "/openapi.json", "/docs/", "//docs", "/docs/oauth2-redirect"):
            assert service.http.get(path).status_code == 404, path
