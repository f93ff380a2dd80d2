"""As many of the largest images as may be in memory at once leave room below the memory limit of the manifests."""

import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from src.config import Settings
from src.images.fetch import MAX_IMAGES
from testing.ports import free_port
from testing.service import COMMANDS, Service
from tests.stress import attacks
from tests.stress.test_one_against_another import running

MIB = 1024 * 1024
MEMORY_LIMIT = 1024 * MIB  # of a pod, as tests/deploy checks
BUCKETS = 50 * MIB  # of a million clients
WAVES = 3  # what failed calls have used is free for the next ones


class Silent(socketserver.BaseRequestHandler):
    """Reads all that a client sends, and never answers."""

    def handle(self) -> None:
        with suppress(OSError):
            while self.request.recv(MIB):
                pass


@pytest.fixture
def upstream() -> Iterator[str]:
    """The URL of a model that never answers."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


PROVIDERS = {
    "googleai": {"MODEL": "googleai/gemini-flash-latest", "GEMINI_API_KEY": "k", "GOOGLE_GEMINI_BASE_URL": "{}"},
    "openai": {"MODEL": "openai/gpt-4o", "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "{}/v1"},
    "ollama": {"MODEL": "ollama/llava", "OLLAMA_BASE_URL": "{}"},
}


def peak_memory(pid: int) -> int:
    """The most bytes that the process has had in memory."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("provider", PROVIDERS)
def test_as_many_large_images_as_there_may_be_fit_into_the_memory_of_a_pod(provider: str, upstream: str) -> None:
    images = free_port()
    command = [part.replace("src.asgi", "tests.stress.local_images") for part in COMMANDS["uvicorn"]]
    model = {name: value.format(upstream) for name, value in PROVIDERS[provider].items()}
    settings = {
        "IMAGE_PORT": str(images),
        "TRUSTED_PROXIES": "127.0.0.1",
        "LLM_TIMEOUT": "8000",
        "CB_ENABLED": "false",
    }
    with running(attacks.serve_images, images), Service(command, **settings, **model) as service:

        def describe(number: int) -> int:
            body = {"image_url": f"http://127.0.0.1:{images}/large/{number}"}
            client = {"x-forwarded-for": f"203.0.113.{number % 8}"}
            while True:  # where the machine is slow, the places for fetches are full for a while
                status = service.http.post("/describe-image", json=body, headers=client).status_code
                if status != 503:
                    return status

        with ThreadPoolExecutor(MAX_IMAGES) as clients:
            for wave in range(WAVES):
                statuses = list(clients.map(describe, range(wave * MAX_IMAGES, (wave + 1) * MAX_IMAGES)))
                assert statuses == [504] * MAX_IMAGES, "all of them waited for the model"
        others = Settings(model="offline/demo").cache_max_bytes + BUCKETS
        assert peak_memory(service.process.pid) + others < MEMORY_LIMIT
