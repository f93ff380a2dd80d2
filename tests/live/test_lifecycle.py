"""Starting and stopping: clear errors, a drain that loses nothing, the same under every server."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from src import __version__
from testing.fakes import gemini
from testing.fakes.gemini import Gate, GeminiStandIn
from testing.ports import free_port
from testing.service import COMMANDS, ROOT, SAMPLES, Service
from testing.small_service import pb
from tests.live import counted

# uvicorn's own command raises the signal again when it is done: the drain is clean, the status says "by signal".
EXIT_STATUS = {"uvicorn": -15}
COUNTED = [part.replace("src.asgi", "tests.live.counted") for part in COMMANDS["uvicorn"]]


@pytest.mark.parametrize("name", COMMANDS)
def test_calls_in_flight_complete_after_sigterm(name: str, upstream: GeminiStandIn) -> None:
    gate = Gate()
    upstream.default(gemini.text("one ", "two", gate=gate))
    with ThreadPoolExecutor() as clients, Service(COMMANDS[name], **upstream.env) as service:
        rest = clients.submit(lambda: service.http.post("/chat", json={}))
        stream = clients.submit(lambda: service.http.post("/tell-story/stream", json={}))
        rpc = clients.submit(lambda: service.stub.PirateChat(pb.ChatRequest()))
        stream_rpc = clients.submit(lambda: [chunk.text for chunk in service.stub.TellStory(pb.StoryRequest())])
        upstream.wait_for(lambda: len(upstream.requests) == 4)
        service.terminate()
        wait_until_refused(service.port)
        gate.release(6)
        assert rest.result(10).json()["answer"] == "one two"
        assert stream.result(10).text.endswith('data: {"done":true,"story":"one two"}\n\n')
        assert rpc.result(10).answer == "one two"
        assert stream_rpc.result(10) == ["one ", "two"]
        assert service.wait(10) == EXIT_STATUS.get(name, 0)
        assert_refused(service.grpc_port)


def wait_until_refused(port: int) -> None:
    """Until nobody accepts connections there any more, or for two seconds: not every server closes the door first."""
    closed = threading.Event()
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return
        closed.wait(0.01)


def assert_refused(port: int) -> None:
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith("python")])
def test_an_idle_service_stops_at_once(name: str) -> None:
    """The other servers are stopped by the tests of the README, which has their commands."""
    with Service(COMMANDS[name]) as service:
        service.stub.Health(pb.HealthRequest())
        service.terminate()
        assert service.wait(9) == EXIT_STATUS.get(name, 0)  # what hangs takes the grace of ten seconds
        assert "Traceback" not in service.output()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("server", ["granian", "uvicorn", "hypercorn"])
def test_a_stop_at_any_moment_of_the_start_ends_the_service_without_a_traceback(
    server: str, stop: signal.Signals
) -> None:
    command = [sys.executable, "-m", "src", "--server", server]
    began = time.monotonic()
    with Service(command):
        seconds = time.monotonic() - began
    options = ["--debug", "--log-format", "json", "--port", str(free_port()), "--grpc-port", str(free_port())]
    for moment in (0, 2, 5):
        with subprocess.Popen(
            [*command, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            time.sleep(seconds * moment / 8)
            process.send_signal(stop)
            output, _ = process.communicate(timeout=30)
        # Python itself ends by the signal until the service's handlers are in place, or says so at its own start.
        assert process.returncode in (0, 130, -stop), (moment, output)
        assert moment == 0 or "Traceback" not in output, (moment, output)


@pytest.mark.parametrize("line", ["Spawning worker-2", "service is up"])
def test_a_stop_in_the_middle_of_the_start_is_not_lost(line: str) -> None:
    command = [sys.executable, "-m", "src", "--debug", "--workers", "2"]
    # A worker stops when its start is over, which takes long on a busy machine: long before it would be killed. (What
    # granian logs of a kill proves none: two of its threads wait for a worker, and one may not know yet that it ended.)
    options = ["--port", str(free_port()), "--grpc-port", str(free_port()), "--shutdown-grace", "60"]
    with subprocess.Popen(
        [*command, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line in output for output in process.stdout)
        began = time.monotonic()
        process.terminate()
        process.stdout.read()
        assert process.wait(30) == 0
        assert time.monotonic() - began < 50


@pytest.mark.parametrize(
    ("flag", "variable"),
    [pytest.param("--port", "PORT", id="REST"), pytest.param("--grpc-port", "GRPC_PORT", id="gRPC")],
)
def test_a_taken_port_is_named_with_its_flag(flag: str, variable: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        ports = {"--port": free_port(), "--grpc-port": free_port(), flag: taken.getsockname()[1]}
        arguments = [str(part) for pair in ports.items() for part in pair]
        done = run("-m", "src", "--debug", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    expected = f"{variable}={ports[flag]} ({flag}): the port is taken on 127.0.0.1; choose another"
    assert json.loads(line)["event"] == expected


@pytest.mark.parametrize(
    ("app", "reason"),
    [("lacks_an_extra", "needs the extra 'x', which is not installed"), ("has_a_bug", "can't start")],
)
@pytest.mark.parametrize("name", ["granian", "uvicorn", "hypercorn", "gunicorn, 2 workers"])
def test_an_app_that_cant_be_made_stops_any_server(name: str, app: str, reason: str) -> None:
    port = free_port()
    command = [
        part.format(port=port).replace("src.asgi:create_app", f"tests.live.unbuildable:{app}")
        for part in COMMANDS[name]
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "MODEL": "offline/demo", "HOST": "127.0.0.1", "PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
    assert any(reason in line["event"] and line["level"] == "critical" for line in lines)


def test_a_bug_in_the_start_is_logged_once_and_ends_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from src import asgi, service; service.build_genkit = None; asgi.create_app()"],
        cwd=ROOT,
        env={"PATH": "", "MODEL": "offline/demo"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    *_, line = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
    assert (line["level"], line["event"]) == ("critical", "can't start")
    assert "build_app" in line["exception"]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_grpc_can_be_left_out() -> None:
    with Service([*COMMANDS["python -m src"], "--no-grpc"]) as service:
        assert service.http.post("/chat", json={}).status_code == 200
        with pytest.raises(grpc.RpcError) as caught:
            service.stub.Health(pb.HealthRequest())
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("is_on", "loaded"), [("false", []), ("true", ["grpc"])])
def test_grpc_that_is_left_out_is_not_imported(is_on: str, loaded: list[str]) -> None:
    """With debug and metrics on, by no request."""
    metrics = f"http://127.0.0.1:{(port := free_port())}/metrics"
    env = {"GRPC_ENABLED": is_on, "DEBUG": "true", "METRICS_PORT": str(port)}
    with Service(COUNTED, **env, PYTHONPATH=SAMPLES) as service:
        assert service.http.post("/chat", json={}).status_code == 200
        for path in ("/docs", "/debug/status", metrics):
            assert service.http.get(path).status_code == 200
        assert [name for name in service.http.get(counted.MODULES).json() if name == "grpc"] == loaded


def test_debug_opens_the_docs() -> None:
    with Service(DEBUG="true") as service:
        assert service.http.get("/docs").status_code == 200
        document = service.http.get("/openapi.json").json()
        assert document["info"]["version"] == __version__
        paths = document["paths"]
        assert {"/translate", "/tell-story/stream", "/health"} <= paths.keys()
        body = paths["/translate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body == {"$ref": "#/components/schemas/TranslateRequest"}


@pytest.mark.parametrize(
    ("env", "is_warned", "is_json"),
    [
        pytest.param({}, True, True, id="production"),
        pytest.param({"TRUSTED_HOSTS": "api.test"}, False, True, id="production, hosts named"),
        pytest.param({"DEBUG": "true"}, False, False, id="debug"),
    ],
)
def test_debug_alone_changes_the_log_and_drops_the_warning(env: dict[str, str], is_warned: bool, is_json: bool) -> None:
    with Service(**env) as service:
        lines = service.output_with("service is up").splitlines()
    wording = (
        "No TRUSTED_HOSTS configured — Host-header validation is disabled. Set TRUSTED_HOSTS to your domain(s) in "
        "production to prevent host-header poisoning attacks."
    )
    assert any(wording in line for line in lines) is is_warned
    [up] = [line for line in lines if "service is up" in line]
    assert up.startswith('{"') is is_json
    assert ("\x1b[" in up) is not is_json


@pytest.mark.parametrize(("host", "is_warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_debug_for_other_machines_is_warned_of(host: str, is_warned: bool) -> None:
    with Service(DEBUG="true", HOST=host, LOG_FORMAT="json") as service:
        warnings = [line for line in service.output_with("service is up").splitlines() if '"level":"warning"' in line]
    assert any("Debug mode is reachable from other machines" in line for line in warnings) is is_warned


def test_a_missing_env_file_is_one_warning_with_its_path() -> None:
    with Service([*COMMANDS["python -m src"], "--env", "nowhere"]) as service:
        entries = [json.loads(line) for line in service.output_with("env file").splitlines() if "env file" in line]
    path = str(ROOT / ".nowhere.env")
    assert [(entry["level"], entry["path"]) for entry in entries] == [("warning", path)]
