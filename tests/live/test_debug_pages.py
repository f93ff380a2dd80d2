"""Debug's pages in a real browser, and its reflection: both work in debug, and the pages are not there without."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.service import ROOT, Service
from testing.small_service import pb
from tests.needs import needs, require

SCRIPTS = ROOT / "tests/live/browser"


@pytest.fixture
def chromium() -> str:
    require("playwright", "swagger-ui", "chromium")
    return str(shutil.which("chromium"))


def browsed(script: str, *arguments: str | Path) -> Any:
    """Findings of a script in the browser."""
    done = subprocess.run(["node", SCRIPTS / script, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_apis_page_works(tmp_path: Path, chromium: str) -> None:
    screenshot = tmp_path / "swagger.png"
    with Service(DEBUG="true") as service:
        seen = browsed("docs_page.mjs", service.rest_url, screenshot, chromium)
    assert seen["status"] == "200"
    assert json.loads(seen["answer"])["original_text"] == "good morning"
    assert (seen["errors"], seen["violations"], seen["outside"]) == ([], [], [])
    assert screenshot.read_bytes().startswith(b"\x89PNG")


def test_the_status_page_shows_what_goes_on(tmp_path: Path, chromium: str) -> None:
    screenshot = tmp_path / "status.png"
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "TRACE_URL": "http://traces.test/{trace_id}"}
    with Service(DEBUG="true", RATE_LIMIT_DEFAULT="7/hour", **traces) as service:
        for _ in range(3):
            service.http.post("/translate", json={"text": "hello"})
        service.http.post("/chat", json={"question": ""})
        service.stub.PirateChat(pb.ChatRequest(), metadata=(("x-request-id", "seen-over-grpc"),))
        list(service.stub.TellStory(pb.StoryRequest()))
        service.http.post("/chat", json={})
        headers = {"x-request-id": "the-last-one", "traceparent": f"00-{'7' * 32}-{'7' * 16}-01"}
        service.http.post("/chat", json={}, headers=headers)
        seen = browsed("status_page.mjs", service.rest_url, "the-last-one", screenshot, chromium)
        lines = service.output()
    assert (seen["errors"], seen["outside"]) == ([], [])
    assert (seen["calls"], seen["circuit"], seen["hit-rate"]) == ("8", "closed", "67 %")
    assert seen["refused"] == "1 refused"
    assert seen["p50"].endswith(" ms")
    assert len(seen["rows"]) == len(seen["traces"]) == 8
    assert seen["traces"][0] == f"http://traces.test/{'7' * 32}"
    assert "429" in seen["rows"][0]
    assert any("PirateChat" in row and "seen-over-grpc" in row and "gRPC" in row for row in seen["rows"])
    assert "/debug/status" not in lines.partition("service is up")[2].partition("\n")[2], "the page logs nothing"
    assert screenshot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "path",
    [
        *("/docs", "/docs/", "//docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"),
        *("/debug/status", "/debug/status.json"),
    ],
)
def test_in_production_there_is_none(closed: Service, path: str) -> None:
    assert closed.http.get(path).status_code == 404


@pytest.fixture(scope="module")
def closed() -> Iterator[Service]:
    with Service() as service:
        yield service


@needs("buf")
def test_debug_opens_reflection() -> None:
    buf = ROOT / "node_modules" / ".bin" / "buf"
    with Service(DEBUG="true") as service:
        method = f"http://127.0.0.1:{service.grpc_port}/genkit.sample.v1.GenkitService/TranslateText"
        called = subprocess.run(
            [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", method, "-d", '{"text":"hello"}'],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert called.returncode == 0, called.stderr
        assert json.loads(called.stdout)["originalText"] == "hello"
