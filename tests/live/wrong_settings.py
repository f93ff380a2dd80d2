"""One wrong setting of each kind, and what each way to start the service makes of it."""

import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testing.ports import free_port
from testing.service import COMMANDS, ROOT

CANARY = "canary-of-a-secret"
LATIN_1 = "MODEL=offline/demo\n# für".encode("latin-1")
# What the servers' commands name by a relative path.
CONFIGURATION = ("logging.json", "hypercorn.toml", "gunicorn.conf.py")
SERVERS = ("granian", "uvicorn", "hypercorn", "gunicorn, 2 workers")
# As in the table of docs/operations.md: a setting that is read wrong, and one that fails when it is used.
STATUS = {"python -m src": 2, "granian": 1, "uvicorn": 2, "hypercorn": 2, "gunicorn, 2 workers": 2}
LATE_STATUS = {"granian": 1, "uvicorn": 3, "hypercorn": 2, "gunicorn, 2 workers": 3}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong setting.

    Attributes:
        env: What is set. `{taken}` is a taken port.
        line: What its line in the log begins with. `{folder}` is the working directory: its `.latin.env` is in Latin-1.
    """

    env: Mapping[str, str]
    line: str


MISTAKES = {
    "wrong type": Mistake(
        {"LLM_TIMEOUT": "soon"}, "LLM_TIMEOUT='soon' (--llm-timeout): Input should be a valid integer"
    ),
    "out of range": Mistake({"PORT": "70000"}, "PORT='70000' (--port): Input should be less than or equal to 65535"),
    "unknown choice": Mistake({"LOG_FORMAT": "xml"}, "LOG_FORMAT='xml' (--log-format): Input should be 'json' or"),
    "blank": Mistake({"MODEL": " \t "}, r"MODEL=' \t ' (--model): name a model"),
    "control characters": Mistake({"MODEL": "offline/\x1b[31mdemo"}, r"MODEL='offline/\x1b[31mdemo' (--model): "),
    "not UTF-8": Mistake({"MODEL": "offline/\udcff"}, r"MODEL='offline/\udcff' (--model): "),
    "missing file": Mistake({"GRPC_TLS_KEY": "/no/such/file"}, "GRPC_TLS_KEY='/no/such/file' (--grpc-tls-key): "),
    "file of something else": Mistake(
        {"GRPC_TLS_CERT": "logging.json", "GRPC_TLS_KEY": "logging.json"}, "GRPC_TLS_CERT='logging.json': "
    ),
    "unreadable env file": Mistake({"APP_ENV": "latin"}, "{folder}/.latin.env: is not UTF-8 (byte 23)"),
    "unusable secret": Mistake({"SENTRY_DSN": CANARY}, "SENTRY_DSN='***': is not a DSN"),
    "secret with a line end inside": Mistake({"GEMINI_API_KEY": f"{CANARY}\n{CANARY}"}, "GEMINI_API_KEY='***': "),
    "URL with a password": Mistake(
        {"OLLAMA_BASE_URL": f"http://me:{CANARY}@127.0.0.1:99999"},
        "OLLAMA_BASE_URL='http://***@127.0.0.1:99999' (--ollama-base-url): should have a host and a valid port",
    ),
    "proxy with a password": Mistake({"HTTPS_PROXY": f"socks://me:{CANARY}@127.0.0.1:9"}, "HTTPS_PROXY: "),
    "model that the provider lacks": Mistake(
        {"MODEL": "googleai/text-embedding-004", "GEMINI_API_KEY": CANARY},
        "MODEL='googleai/text-embedding-004' (--model): the provider has no such text model",
    ),
    "settings that clash": Mistake(
        {"METRICS_PORT": "8", "GRPC_PORT": "8"}, "METRICS_PORT=8 (--metrics-port): is the same as GRPC_PORT"
    ),
}


# What is only seen when it is used.
LATE_MISTAKES = {
    "taken gRPC port": Mistake(
        {"GRPC_PORT": "{taken}"}, "GRPC_PORT={taken} (--grpc-port): the port is taken on 127.0.0.1"
    ),
    "taken metrics port": Mistake(
        {"METRICS_PORT": "{taken}"}, "METRICS_PORT={taken} (--metrics-port): the port is taken on 127.0.0.1"
    ),
    "address of another machine": Mistake(
        {"HOST": "192.0.2.1"}, "HOST='192.0.2.1' (--host): can't listen on 192.0.2.1"
    ),
    "address of another machine for metrics": Mistake(
        {"METRICS_HOST": "192.0.2.1", "METRICS_PORT": "{taken}"},
        "METRICS_HOST='192.0.2.1' (--metrics-host): can't listen",
    ),
    "model that only the provider's package refuses": Mistake(
        {"MODEL": "googleai/nested/lyria-3", "GEMINI_API_KEY": CANARY},
        "MODEL='googleai/nested/lyria-3' (--model): the provider has no such text model",
    ),
}


def assert_told_in_one_line(start: str, mistake: Mistake, folder: Path) -> None:
    """Start the service in this folder; it has to end with the right status and one line that names the setting."""
    status, output = _end_of_start(COMMANDS[start], mistake.env, folder)
    assert status == STATUS[start], output
    [line] = [entry for entry in map(json.loads, output.splitlines()) if entry["level"] == "critical"]
    assert line["event"].startswith(mistake.line.format(folder=folder)), output
    assert line["event"].isprintable()


def assert_told_late(server: str, mistake: Mistake, folder: Path) -> None:
    """Likewise for a setting that is wrong only when it is used. Servers add lines of their own."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = {name: value.format(taken=port) for name, value in mistake.env.items()}
        # gunicorn itself trips over a second worker that fails, with a traceback.
        command = [*COMMANDS[server], *(["--workers", "1"] if server.startswith("gunicorn") else [])]
        status, output = _end_of_start(command, env, folder)
    assert status == LATE_STATUS[server], output
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert len([event for event in events if event.startswith(mistake.line.format(taken=port))]) == 1, output


def _end_of_start(command: Sequence[str], env: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """Return the exit status and the output, which has neither a traceback nor a secret."""
    (folder / ".latin.env").write_bytes(LATIN_1)
    for name in CONFIGURATION:
        (folder / name).symlink_to(ROOT / name)
    port = str(free_port())
    all_env = {
        **{"PATH": "", "PYTHONPATH": str(ROOT), "HOST": "127.0.0.1", "PORT": port, "GRPC_PORT": str(free_port())},
        **{"MODEL": "offline/demo", **env},
    }
    done = subprocess.run(
        [part.format(port=port) for part in command],
        cwd=folder,
        env={name: os.fsencode(value) for name, value in all_env.items()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    output = done.stdout + done.stderr
    assert "Traceback" not in output, output
    assert CANARY not in output, output
    return done.returncode, output
