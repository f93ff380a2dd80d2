"""One caller attacks, another one calls: all calls of the other succeed, about as fast as without the attack."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import httpx
import pytest

from testing import small_service
from testing.fakes import gemini
from testing.fakes.gemini import GeminiStandIn
from testing.ports import free_port
from testing.service import COMMANDS, Service
from testing.small_service import pb
from tests.stress import attacks
from tests.stress.attacks import ATTACKS, Target

CALLS = 120
WARM_UP_CALLS = 30
START_SECONDS = 30.0
ATTACK_SECONDS = 3.0  # until it holds what it can
MAX_RATIO = 2.0
NOISE_SECONDS = 0.1  # what the 95th percentile may differ by in any case
spawning = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def upstream() -> Iterator[GeminiStandIn]:
    with GeminiStandIn() as running:
        running.when(attacks.HANGING, gemini.HANG)
        running.when(attacks.EMPTY, gemini.text(""))
        running.when(attacks.CUT_OFF, gemini.text('{"translated_text": "cut', finish_reason="MAX_TOKENS"))
        running.when(attacks.ENDLESS, gemini.text(*("word " * 4000 for _ in range(20))))
        yield running


@contextmanager
def running(function: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Run a function that never returns, in a process of its own."""
    begun = spawning.Event()
    process = spawning.Process(target=_begin, args=(begun, function, *arguments), daemon=True)
    process.start()
    try:
        assert begun.wait(START_SECONDS)
        yield
        assert process.is_alive(), f"{function.__name__} has ended"
    finally:
        process.kill()
        process.join()


def _begin(begun: Any, function: Callable[..., None], *arguments: Any) -> None:
    begun.set()
    function(*arguments)


@pytest.fixture
def target(upstream: GeminiStandIn, server: str) -> Iterator[Target]:
    """A service under attack, with a model, and a host of images, on this machine."""
    command = [part.replace("src.asgi", "tests.stress.local_images") for part in COMMANDS[server]]
    images = free_port()
    rate = {"RATE_LIMIT_DEFAULT": "600/minute", "LOG_LEVEL": "info"}
    with (
        running(attacks.serve_images, images),
        Service(command, IMAGE_PORT=str(images), **rate, **upstream.env) as service,
    ):
        yield Target(service.port, service.grpc_port, images)


class Victim:
    """Calls in turn: a question over REST, one as an RPC, a story as events, an image of its own."""

    def __init__(self, target: Target, http: httpx.Client, stub: Any) -> None:
        self._http = http
        self._stub = stub
        self._images = target.images

    def call(self, number: int) -> None:
        """Make one call; raises where it fails."""
        (self._rest, self._rpc, self._events, self._image)[number % 4](f"{time.time()} {number}")

    def _rest(self, unique: str) -> None:
        self._http.post("/chat", json={"question": unique}).raise_for_status()

    def _rpc(self, unique: str) -> None:
        self._stub.PirateChat(pb.ChatRequest(question=unique), timeout=30)

    def _events(self, unique: str) -> None:
        answer = self._http.post("/tell-story/stream", json={"topic": unique}).raise_for_status()
        assert "event: error" not in answer.text, answer.text[-300:]

    def _image(self, unique: str) -> None:
        url = f"http://127.0.0.1:{self._images}/ok/{unique.replace(' ', '-')}"
        self._http.post("/describe-image", json={"image_url": url}).raise_for_status()


def measured(target: Target, calls: int) -> tuple[list[float], list[str]]:
    """The seconds of each call of a victim, and how those ended that failed."""
    seconds, failed = [], []
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{target.rest}", timeout=30, trust_env=False) as http,
        grpc.insecure_channel(f"127.0.0.1:{target.grpc}") as channel,
    ):
        victim = Victim(target, http, small_service.stub(channel))
        for number in range(calls):
            began = time.perf_counter()
            try:
                victim.call(number)
            except (httpx.HTTPError, grpc.RpcError, AssertionError) as error:
                failed.append(str(error).splitlines()[0])
            seconds.append(time.perf_counter() - began)
    return seconds, failed


def p95(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1]


@pytest.mark.parametrize("attack", ATTACKS)
def test_one_caller_does_not_stop_another(
    target: Target, attack: str, server: str, record: Callable[..., None]
) -> None:
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        pool.submit(measured, target, WARM_UP_CALLS).result()
        alone, failed_alone = pool.submit(measured, target, CALLS).result()
        assert not failed_alone
        with running(ATTACKS[attack], target):
            time.sleep(ATTACK_SECONDS)
            attacked, failed = pool.submit(measured, target, CALLS).result()
    record(attack, server, len(failed), p95(alone), p95(attacked))
    assert not failed, f"{len(failed)} of {CALLS} failed: {failed[:3]}"
    assert p95(attacked) <= max(MAX_RATIO * p95(alone), p95(alone) + NOISE_SECONDS)
