"""`python -m tools.container.check`: builds the image, runs it, and holds it to what docs/container.md promises.

It needs buildah and debootstrap, and the rights to make a chroot, but no container engine: the base images are stood in
for by Debian 13 (`stand_ins.sh`), the one of the runtime without a shell. Ends with 1 at the first broken promise.
"""

import hashlib
import json
import os
import shutil
import signal
import stat
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx

from src.generated import service_pb2
from testing.fakes import gemini
from testing.fakes.gemini import Gate, GeminiStandIn
from testing.service import Service

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE = "localhost/hardened-genkit-service:check"
BUILDER, RUNTIME = "localhost/stand-in/python:3.13-slim", "localhost/stand-in/python3-debian13:nonroot"
UID = 65534
STARTS = 5
MAX_MEGABYTES = 150
ENGINES = ("dev", "etc", "proc", "run", "sys")  # what an engine puts into a container
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
FORBIDDEN = {
    *("sh", "bash", "dash", "ash", "busybox", "zsh"),  # shells
    *("apt", "apt-get", "dpkg", "pip", "pip3", "uv", "conda"),  # package managers
    *("gcc", "cc", "g++", "ld", "make"),  # compilers
    *(".git", ".env", ".venv"),
}


class Broken(Exception):
    """A promise that the image breaks."""


class Contained(Service):
    """The service in a container, started as an engine would: by the image's entry point, as its user."""

    def __init__(self, container: str, **settings: str) -> None:
        super().__init__(["buildah", "run", "--isolation", "chroot", *_as_configured(container)], **settings)
        told = {name: value for name, value in self._env.items() if name not in ("PATH", "HOME")}
        options = [option for name, value in told.items() for option in ("--env", f"{name}={value}")]
        buildah("config", *options, container)


def _as_configured(container: str) -> list[str]:
    config = image_config()
    return ["--user", config["User"], container, "--", *config["Entrypoint"]]


def image_config() -> dict[str, Any]:
    """Return the image's configuration (OCI image specification)."""
    config: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", IMAGE))["OCIv1"]["config"]
    return config


def buildah(*arguments: str) -> str:
    """The output of a buildah command. Raises Broken with its last line when it fails."""
    done = subprocess.run(["buildah", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise Broken(f"buildah {arguments[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout.strip()


def expect(is_kept: bool, promise: str) -> None:
    """Say that a promise is kept, or raise Broken."""
    if not is_kept:
        raise Broken(promise)
    print(f"ok  {promise}")


def make_stand_ins() -> None:
    known = buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines()
    if not {BUILDER, RUNTIME} <= set(known):
        print("... making stand-ins of the base images, once")
        subprocess.run([ROOT / "tools" / "container" / "stand_ins.sh", BUILDER, RUNTIME], check=True, timeout=600)


def build(tag: str) -> None:
    """Build the image, with pip's mirror and certificates where this machine has its own."""
    options = []
    for variable in ("PIP_INDEX_URL", "PIP_CERT"):
        if variable in os.environ:
            options += ["--build-arg", variable]
    certificates = os.environ.get("PIP_CERT")
    if certificates:
        options += ["--volume", f"{certificates}:{certificates}:ro"]
    buildah(
        *("bud", "--isolation", "chroot", "--layers=false", "--timestamp", "0", "--tag", tag, *options),
        *("--build-arg", f"BUILDER_IMAGE={BUILDER}", "--build-arg", f"RUNTIME_IMAGE={RUNTIME}", "."),
    )


@contextmanager
def container_of(image: str) -> Iterator[tuple[str, Path]]:
    """A container of the image, and where its files are."""
    name = buildah("from", "--pull=never", image)
    try:
        yield name, Path(buildah("mount", name))
    finally:
        buildah("rm", name)


def files(tree: Path) -> dict[str, tuple[int, int, int]]:
    """Every path of the tree with its mode, size and time of change in nanoseconds."""
    found = {}
    for directory, names, leaves in os.walk(tree):
        for name in (*names, *leaves):
            path = Path(directory, name)
            status = path.lstat()
            found[str(path.relative_to(tree))] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def check_layers(tree: Path, base: Path) -> None:
    """Check the files that the layers add to the base image."""
    before = files(base)
    ours = {name: entry for name, entry in files(tree).items() if before.get(name) != entry}
    modes = {name: mode for name, (mode, _, _) in ours.items() if not stat.S_ISLNK(mode)}
    sizes = {name: size for name, (mode, size, _) in ours.items() if stat.S_ISREG(mode)}
    names = {Path(name).name for name in ours}
    expect(not any(mode & (stat.S_ISUID | stat.S_ISGID) for mode in modes.values()), "no setuid or setgid file")
    expect(not names & FORBIDDEN, "no shell, package manager, compiler, .git or .env")
    expect(not any(name.startswith("app/") and "test" in name for name in ours), "no tests of ours")
    expect(all(mode & stat.S_IROTH for mode in modes.values()), f"everything readable by uid {UID}")
    expect(not any(mode & stat.S_IWOTH for mode in modes.values()), "nothing writable by it")
    sources = [name for name in sizes if name.endswith(".py")]
    missing = [name for name in sources if _bytecode_of(name) not in sizes]
    expect(len(missing) < len(sources) / 100, "bytecode is there")  # a few files are templates, no Python
    total = sum(sizes.values()) / 1e6
    service = sum(size for name, size in sizes.items() if name.startswith("app/")) / 1e6
    print(f"    our layers: packages {total - service:.1f} MB, service {service:.1f} MB")
    expect(total < MAX_MEGABYTES, f"our layers are under {MAX_MEGABYTES} MB")


def _bytecode_of(source: str) -> str:
    path = Path(source)
    return str(path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc")


def check_config() -> None:
    """Check the image's configuration."""
    config = image_config()
    expect(config["User"] == f"{UID}:{UID}", f"runs as uid {UID}")
    expect(config["Entrypoint"] == ["/usr/bin/python3", "-m", "src"], "the entry point needs no shell")
    expect({port.partition("/")[0] for port in config["ExposedPorts"]} == {"8080", "50051"}, "both ports are declared")


def process_of(service: Service) -> int:
    """The process id of the service's own parent process, past buildah's."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            is_ours = os.getsid(int(status.parent.name)) == service.process.pid
            cmdline = (status.parent / "cmdline").read_bytes()
        except (OSError, ValueError):  # it has ended meanwhile
            continue
        if is_ours and cmdline.startswith(b"/usr/bin/python3\0-m\0src"):
            expect(set(fields["Uid"].split()) == {str(UID)}, f"the process has uid {UID}")
            return int(status.parent.name)
    raise Broken("the service's process is not there")


def check_service(container: str) -> None:
    """Both protocols in production mode, closed, against a stand-in of Gemini; and the drain."""
    with GeminiStandIn() as upstream:
        model = {"MODEL": "googleai/gemini-flash-latest", "GEMINI_API_KEY": "k", "GOOGLE_GEMINI_BASE_URL": upstream.url}
        with Contained(container, **model) as service:
            process = process_of(service)
            expect(service.http.post("/chat", json={}).status_code == httpx.codes.OK, "REST answers, by Gemini")
            expect(bool(service.stub.PirateChat(service_pb2.ChatRequest()).answer), "gRPC answers, by Gemini")
            expect(service.http.get("/docs").status_code == httpx.codes.NOT_FOUND, "no API documents")
            reflect: Any = service.channel.stream_stream(REFLECTION)
            expect(_code_of(reflect(iter([b""]))) is grpc.StatusCode.UNIMPLEMENTED, "no reflection")
            check_drain(service, process, upstream)


def _code_of(call: Any) -> grpc.StatusCode:
    try:
        list(call)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def check_drain(service: Service, process: int, upstream: GeminiStandIn) -> None:
    gate = Gate()
    upstream.default(gemini.text("one ", "two", gate=gate))
    answers: list[int] = []
    known = len(upstream.requests)
    caller = threading.Thread(target=lambda: answers.append(service.http.post("/chat", json={}).status_code))
    caller.start()
    upstream.wait_for(lambda: len(upstream.requests) > known)
    os.kill(process, signal.SIGTERM)
    while '"stopping"' not in service.output() and caller.is_alive():
        time.sleep(0.01)
    gate.release(2)
    caller.join(10)
    expect(answers == [200], "SIGTERM: a call under way gets its answer")
    expect(service.wait() == 0, "the exit status is 0")


def seconds_to_first_answer(container: str) -> float:
    service = Contained(container, MODEL="offline/demo")
    began = time.perf_counter()
    with service:
        return time.perf_counter() - began


def main() -> None:
    """Build, look, run, and print what was found."""
    for tool in ("buildah", "debootstrap"):
        if shutil.which(tool) is None:
            sys.exit(f"error: needs {tool} (Debian: apt install buildah debootstrap)")
    try:
        make_stand_ins()
        build(IMAGE)
        with container_of(IMAGE) as (name, tree), container_of(RUNTIME) as (_, base):
            check_layers(tree, base)
            check_config()
            before = files(tree)
            check_service(name)
            times = [seconds_to_first_answer(name) for _ in range(STARTS)]
            print(
                f"    start to the first answer: {statistics.median(times):.2f} s (median of {STARTS}, offline model)"
            )
            written = [n for n, entry in files(tree).items() if before.get(n) != entry and not n.startswith(ENGINES)]
            expect(not written, "nothing is written: a read-only root file system will do")
            layers = tree_digest(tree)
        build(IMAGE + "-again")
        with container_of(IMAGE + "-again") as (_, tree):
            expect(tree_digest(tree) == layers, "a second build gives the same files")
    except Broken as broken:
        sys.exit(f"error: broken promise: {broken}")


def tree_digest(tree: Path) -> str:
    """One hash over names, modes and contents of what is ours."""
    digest = hashlib.sha256()
    for top in ("app", "packages"):
        for path in sorted((tree / top).rglob("*")):
            digest.update(f"{path.relative_to(tree)} {path.lstat().st_mode}\0".encode())
            if path.is_file() and not path.is_symlink():
                digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
