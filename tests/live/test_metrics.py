"""Metrics: exact, the same whichever worker answers, and none whose labels a client could make up."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.ports import free_port
from testing.service import COMMANDS, Service
from testing.small_service import pb

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def directory_of(port: int) -> Path:
    """Return the directory in which the workers of the service with this metrics' port count."""
    return Path(f"/tmp/hardened-genkit-service-metrics-{os.getuid()}-127.0.0.1-{port}")


def scraped(port: int) -> Samples:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, verify=False).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all samples of that name that have these labels."""
    return sum(number for (found, has), number in samples.items() if found == name and frozenset(labels.items()) <= has)


def eventually(port: int, check: Any) -> Samples:
    """The metrics, once `check` holds for them: some are sampled once a second."""
    deadline = time.monotonic() + 30
    while True:
        samples = scraped(port)
        if check(samples):
            return samples
        assert time.monotonic() < deadline, samples
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["python -m src, 2 workers", "gunicorn, 2 workers", "python -m src, uvicorn"])
def test_counts_are_exact_over_all_workers(name: str, upstream: GeminiStandIn) -> None:
    port = free_port()
    model = upstream.env
    with Service(COMMANDS[name], **model, METRICS_PORT=str(port)) as service:
        for number in range(40):
            # A connection each, so that all workers get some.
            httpx.post(f"{service.rest_url}/chat", json={"question": str(number)}, trust_env=False, verify=False)
        httpx.post(f"{service.rest_url}/chat", json={"question": ""}, trust_env=False, verify=False)
        for path in ("/a", "/b", "/c?x=1"):
            httpx.request("PROPFIND", f"{service.rest_url}{path}", trust_env=False, verify=False)
        for _ in range(7):
            list(service.stub.TellStory(pb.StoryRequest()))
        with pytest.raises(grpc.RpcError):
            list(service.channel.unary_stream("/made.Up/Method")(b""))  # type: ignore[arg-type]
        with httpx.Client(base_url=service.rest_url, trust_env=False, verify=False) as one_worker:
            for _ in range(3):
                one_worker.post("/translate", json={"text": "hello"})
        upstream.script(gemini.error(503))
        httpx.post(f"{service.rest_url}/chat", json={}, trust_env=False, verify=False)
        allowed = 40 + 1 + 3 + 7 + 1 + 3 + 1
        samples = eventually(
            port,
            lambda found: (
                value(found, "rate_limit_decisions_total") == allowed and value(found, "server_active_requests") == 0
            ),
        )
        requests = "http_server_request_duration_seconds_count"
        chat = {"http_request_method": "POST", "http_route": "/chat"}
        assert value(samples, requests, **chat, http_response_status_code="200") == 40
        assert value(samples, requests, **chat, http_response_status_code="422") == 1
        assert value(samples, requests, **chat, http_response_status_code="502") == 1
        assert value(samples, requests, http_request_method="other", http_route="other") == 3
        story = "genkit.sample.v1.GenkitService/TellStory"
        assert value(samples, "rpc_server_call_duration_seconds_count", rpc_method=story) == 7
        assert value(samples, "rpc_server_call_duration_seconds_count", rpc_method="other") == 1
        assert value(samples, "rate_limit_decisions_total", decision="allowed") == allowed
        assert value(samples, "gen_ai_client_operation_duration_seconds_count", outcome="ok") == 40 + 7 + 1
        assert value(samples, "gen_ai_client_operation_duration_seconds_count", outcome="model-failed") == 1
        assert value(samples, "gen_ai_client_tokens_total", gen_ai_token_type="input") == 7 * 48
        assert value(samples, "gen_ai_client_tokens_total", gen_ai_token_type="output") == 5 * 48
        assert value(samples, "cache_lookups_total", result="hit") == 2
        assert value(samples, "cache_lookups_total", result="miss") == 1
        assert value(samples, "circuit_breaker_state") == 0
        assert value(samples, "event_loop_lag_seconds") < 5
        service.terminate()
        assert service.wait() == 0
    with pytest.raises(httpx.ConnectError):
        scraped(port)


def test_a_service_started_anew_counts_from_nothing() -> None:
    port = free_port()
    for _ in range(2):
        with Service(METRICS_PORT=str(port)) as service:
            service.http.post("/chat", json={})
            chats = {"http_route": "/chat"}
            samples = eventually(port, lambda found: value(found, "rate_limit_decisions_total") > 0)
            assert value(samples, "http_server_request_duration_seconds_count", **chats) == 1


def test_when_the_worker_that_listens_is_killed_another_takes_over_and_a_stranger_is_told_of_once() -> None:
    port = free_port()
    with Service(COMMANDS["gunicorn, 2 workers"], METRICS_PORT=str(port)) as service:
        service.output_with("service is up", 2)
        os.kill(listener_of(port, service), signal.SIGKILL)
        with taken_by_a_stranger(port):
            service.output_with("no metrics until the port is free")
        assert eventually_listening(port)
        output = service.output()
        lines = [json.loads(line) for line in output.splitlines() if "no metrics until" in line]
        assert all(line["reason"].startswith(f"METRICS_PORT={port} (--metrics-port): ") for line in lines)
        assert 1 <= len(lines) <= 2, "once a worker"
        assert service.process.poll() is None


def listener_of(port: int, service: Service) -> int:
    """Find the worker that listens at this port, by the inode of its socket."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    [inode] = [row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"]
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()):
        with suppress(OSError):
            if any(os.readlink(link) == f"socket:[{inode}]" for link in Path(f"/proc/{pid}/fd").iterdir()):
                assert os.getsid(pid) == service.process.pid
                return pid
    raise AssertionError("nobody listens")


@contextmanager
def taken_by_a_stranger(port: int) -> Iterator[None]:
    """Take the port as soon as it is free."""
    deadline = time.monotonic() + 30
    while True:
        try:
            stranger = socket.create_server(("127.0.0.1", port))
            break
        except OSError:
            assert time.monotonic() < deadline
    with stranger:
        yield


def eventually_listening(port: int) -> Samples:
    """The metrics, once a worker answers again."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return scraped(port)
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_by_default_there_are_none() -> None:
    with Service() as service:
        assert service.http.get("/metrics").status_code == 404


WITH_WORKERS = {
    "granian, 2 workers": [*COMMANDS["granian"], "--workers", "2"],
    "uvicorn, 2 workers": [*COMMANDS["uvicorn"], "--workers", "2"],
    "gunicorn, 2 workers": COMMANDS["gunicorn, 2 workers"],
}


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_a_second_service_at_the_metrics_port_is_refused_and_one_elsewhere_counts_its_own(name: str) -> None:
    command, port, other_port = WITH_WORKERS[name], free_port(), free_port()
    with Service(command, METRICS_PORT=str(port)) as first:
        first.output_with("service is up", 2)
        with pytest.raises(AssertionError, match=rf"METRICS_PORT={port} \(--metrics-port\): the port is taken on 127"):
            Service(command, METRICS_PORT=str(port)).__enter__()
        with Service(command, METRICS_PORT=str(other_port)) as second:
            for service, times in ((first, 3), (second, 5)):
                for _ in range(times):
                    httpx.post(f"{service.rest_url}/chat", json={}, trust_env=False, verify=False)
            for at, times in ((port, 3), (other_port, 5)):
                counted = eventually(at, lambda found: value(found, "rate_limit_decisions_total") > 0)
                assert value(counted, "http_server_request_duration_seconds_count", http_route="/chat") == times


def test_metrics_go_on_when_gunicorn_hands_over() -> None:
    port = free_port()
    chats = "http_server_request_duration_seconds_count"
    with Service(COMMANDS["gunicorn, 2 workers"], METRICS_PORT=str(port)) as service:
        service.output_with("service is up", 2)
        service.http.post("/chat", json={})
        service.process.send_signal(signal.SIGUSR2)
        service.output_with("service is up", 4)
        service.terminate()
        service.wait()
        httpx.post(f"{service.rest_url}/chat", json={}, trust_env=False, verify=False)
        eventually_listening(port)
        eventually(port, lambda found: value(found, chats, http_route="/chat") == 2)
        assert "METRICS_PORT=" not in service.output()


def test_files_of_ended_workers_do_not_pile_up_and_their_counts_stay(tmp_path: Path) -> None:
    port = free_port()
    chats = "http_server_request_duration_seconds_count"
    with Service(COMMANDS["gunicorn, 2 workers"], METRICS_PORT=str(port), TMPDIR=str(tmp_path)) as service:
        for ended in range(1, 4):
            service.output_with("service is up", ended + 1)
            httpx.post(f"{service.rest_url}/chat", json={}, trust_env=False, verify=False)
            eventually(port, lambda found, ended=ended: value(found, chats, http_route="/chat") == ended)
            os.kill(listener_of(port, service), signal.SIGKILL)
            eventually_listening(port)
        service.output_with("service is up", 5)
        [directory] = tmp_path.glob("hardened-genkit-service-metrics-*")
        deadline = time.monotonic() + 30
        while len(list(directory.glob("histogram_*.db"))) > 2 + 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        counted = scraped(port)
        assert value(counted, chats, http_route="/chat") == 3
