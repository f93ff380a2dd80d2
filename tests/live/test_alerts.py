"""A real Prometheus scrapes two workers and evaluates the rules: all that rules and dashboard name is really there."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import pytest
import yaml

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.ports import free_port
from testing.service import COMMANDS, Service
from testing.small_service import pb
from tests.needs import needs
from tools.site.watching import GRAFANA, alerts

JOB = "hardened-genkit-service"
SECONDS = 30.0  # within which Prometheus sees a change; it looks every two seconds


class Prometheus:
    """Scrapes one service with the shipped rules; a context manager.

    Args:
        directory: For its configuration and data.
        scraped_port: Of the service's metrics.
    """

    def __init__(self, directory: Path, scraped_port: int) -> None:
        self._directory = directory
        self._address = f"127.0.0.1:{free_port()}"
        config = {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
            "rule_files": [str(GRAFANA / "alerts.yaml")],
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [f"127.0.0.1:{scraped_port}"]}]}],
        }
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Self:
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._directory / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={self._directory / 'data'}",
                    f"--web.listen-address={self._address}",
                ],
                stdout=log,
                stderr=log,
            )
        self._http = httpx.Client(base_url=f"http://{self._address}", timeout=30, trust_env=False)
        try:
            self.eventually(self._is_ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx.ConnectError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an instant query."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def rules(self) -> dict[str, dict[str, Any]]:
        """The alerts by name, with their states."""
        return {rule["name"]: rule for group in self._get("rules")["groups"] for rule in group["rules"]}

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        answer = self._http.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        data: dict[str, Any] = answer["data"]
        return data

    def eventually(self, check: Callable[[], Any]) -> None:
        """Wait until `check` returns something true."""
        deadline = time.monotonic() + SECONDS
        while not check():
            is_up = self._process.poll() is None and time.monotonic() < deadline
            assert is_up, (self._directory / "log").read_text()
            time.sleep(0.1)


def two_workers(upstream: GeminiStandIn, metrics_port: int, **env: str) -> Service:
    return Service(COMMANDS["python -m src, 2 workers"], **upstream.env, METRICS_PORT=str(metrics_port), **env)


def queries() -> list[str]:
    """All of the rules and of the dashboard, as Grafana asks them with nothing chosen."""
    dashboard = json.loads((GRAFANA / "dashboard.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    filled_in = [query.replace("$__rate_interval", "1m").replace("$instance", ".*") for query in shown]
    return [rule["expr"] for rule in alerts()] + filled_in


def selectors(query: str) -> list[str]:
    return re.findall(r"\w+\{[^}]*\}", query)


def labels(query: str) -> set[str]:
    """The labels that it groups by or joins on."""
    groups = re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
    return {label.strip() for group in groups for label in group.split(",")}


def test_the_queries_are_taken_apart() -> None:
    taken = [selector for query in queries() for selector in selectors(query)]
    assert len(taken) >= len(queries()) > 30
    assert all(f'job="{JOB}"' in selector for selector in taken)
    named = re.sub(r"\{[^}]*\}", "", " ".join(queries()))
    outside = re.sub(r"\b(?:by|on) \([^)]*\)", "", named)
    words = set(re.findall(r"[a-z_]{2,}", outside)) - {selector.partition("{")[0] for selector in taken}
    functions = {"sum", "max", "rate", "increase", "histogram_quantile", "avg_over_time", "absent"}
    assert words == functions | {"and", "or"}, "a metric without a selector, or a new function"


@needs("prometheus")
def test_all_that_rules_and_dashboard_name_is_there_and_nothing_fires(upstream: GeminiStandIn, tmp_path: Path) -> None:
    port = free_port()
    with two_workers(upstream, port) as service, Prometheus(tmp_path, port) as prometheus:
        assert service.http.post("/chat", json={}).status_code == 200
        assert service.stub.PirateChat(pb.ChatRequest()).answer
        upstream.script(gemini.error(503), gemini.error(503))
        assert service.http.post("/chat", json={}).status_code == 502
        with pytest.raises(grpc.RpcError):
            service.stub.PirateChat(pb.ChatRequest())
        service.http.post("/translate", json={"text": "hello"})
        for query in queries():
            for selector in selectors(query):
                prometheus.eventually(partial(prometheus.query, selector))
                for found in prometheus.query(selector):
                    assert labels(query) <= found["metric"].keys(), (query, found)
            prometheus.query(query)
        prometheus.eventually(lambda: {rule["health"] for rule in prometheus.rules().values()} == {"ok"})
        prometheus.eventually(lambda: {rule["state"] for rule in prometheus.rules().values()} == {"inactive"})
        assert prometheus.rules().keys() == {rule["alert"] for rule in alerts()}
        service.kill()
        prometheus.eventually(lambda: prometheus.rules()["GenkitServiceDown"]["state"] == "pending")
