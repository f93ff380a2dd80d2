"""Load on a server, and what it cost the server: one core for it, another for the load."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from testing.service import Service

SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 32
# wrk writes times as 850.00us, 1.25ms or 2.00s.
_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}
_DURATION = re.compile(r"([\d.]+)(us|ms|s)\b")


@dataclass(frozen=True, slots=True)
class Cost:
    """The figures of one load.

    Attributes:
        per_second: Answers.
        cpu: Microseconds that the server computed for each.
        p50, p99: Microseconds from the request to its answer.
    """

    per_second: float
    cpu: float
    p50: float
    p99: float


def need_tools() -> None:
    """End the program where something is missing that it can't do without."""
    for tool, package in (("wrk", "wrk"), ("h2load", "nghttp2-client")):
        if shutil.which(tool) is None:
            sys.exit(f"error: needs {tool} (Debian: apt install {package})")
    if (os.cpu_count() or 1) <= max(SERVER_CORE, LOAD_CORE):
        sys.exit("error: needs two cores")


def pinned(command: Sequence[str], cores: str = str(SERVER_CORE)) -> list[str]:
    """The command on these cores alone."""
    return ["taskset", "--cpu-list", cores, *command]


def cpu_seconds(service: Service) -> float:
    """Return the seconds of CPU of all processes of the service so far."""
    return sum(ticks for ticks, _ in _processes(service)) / os.sysconf("SC_CLK_TCK")


def megabytes(service: Service) -> float:
    """Resident memory of the largest of its processes: the worker."""
    return max(pages for _, pages in _processes(service)) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _processes(service: Service) -> list[tuple[int, int]]:
    """Each process's CPU time in ticks and resident memory in pages."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == service.process.pid:  # its session
                found.append((int(fields[11]) + int(fields[12]), int(fields[21])))
    return found


def over_http(
    service: Service,
    path: str,
    script: Path | None = None,
    *,
    seconds: int,
    connections: int = CONNECTIONS,
    refused: bool = False,
) -> Cost:
    """Ask for `path` by HTTP/1.1 as often as it is answered, or as wrk's script says.

    Raises:
        ValueError: a request was refused, or none was where they were to be.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    if script is not None:
        command += ["-s", str(script)]
    before = cpu_seconds(service)
    done = subprocess.run(
        pinned([*command, f"{service.rest_url}{path}"], str(LOAD_CORE)), capture_output=True, text=True, check=True
    )
    used = cpu_seconds(service) - before
    if ("Non-2xx" in done.stdout) != refused:
        raise ValueError(f"other answers to {path} than expected\n{done.stdout}")
    count = int(_found(r"(\d+) requests in", done.stdout))
    took = _duration(_found(r"requests in ([\d.]+\w+)", done.stdout)) / 1e6
    p50, p99 = (_duration(_found(rf"(?m)^ +{share}% +(\S+)", done.stdout)) for share in (50, 99))
    return Cost(count / took, used / count * 1e6, p50, p99)


def over_grpc(service: Service, rpc: str, message: Path, *, seconds: int) -> Cost:
    """Call an RPC with the framed message in the file, over four connections with eight streams each."""
    headers = [option for header in ("content-type: application/grpc", "te: trailers") for option in ("-H", header)]
    command = ["h2load", f"-D{seconds}", "--warm-up-time=0", "-c4", "-m8", "-t1", "-d", str(message), *headers]
    with NamedTemporaryFile("r") as log:
        before = cpu_seconds(service)
        done = subprocess.run(
            pinned([*command, f"--log-file={log.name}", f"http://127.0.0.1:{service.grpc_port}{rpc}"], str(LOAD_CORE)),
            capture_output=True,
            text=True,
            check=True,
        )
        used = cpu_seconds(service) - before
        times = sorted(int(line.split()[2]) for line in log)
    count = int(_found(r"(\d+) succeeded", done.stdout))
    return Cost(count / seconds, used / count * 1e6, times[len(times) // 2], times[len(times) * 99 // 100])


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"no {pattern!r} in\n{text}")
    return match[1]


def _duration(text: str) -> float:
    """Microseconds."""
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration")
    return float(match[1]) * _MICROSECONDS[match[2]]
