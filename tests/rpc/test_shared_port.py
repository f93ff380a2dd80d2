"""Tests of who else listens at a port: a relative may, a stranger may not; no judgement without evidence."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from src.rpc import shared_port
from src.rpc.shared_port import is_shared_with_strangers
from testing.ports import free_port

LISTEN = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, reuse_port=True,
                          dualstack_ipv6=":" in host and host != "::1") as listener:
    print("listens", flush=True)
    sys.stdin.read()
"""
FROM_A_CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
MYSELF = [os.getpid()]


@contextmanager
def listener(host: str = "127.0.0.1", code: tuple[str, ...] = (LISTEN,)) -> Iterator[int]:
    """A child of this process, or a grandchild, that listens."""
    port = free_port()
    command = [sys.executable, "-c", *code, host, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        yield port
        process.communicate("")


def test_nobody_listens() -> None:
    assert not is_shared_with_strangers("127.0.0.1", free_port(), [])


def test_this_process_is_no_stranger() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as own:
        assert not is_shared_with_strangers("127.0.0.1", own.getsockname()[1], [])


@pytest.mark.parametrize("code", [(LISTEN,), (FROM_A_CHILD, LISTEN)], ids=["child", "grandchild"])
def test_a_process_is_a_relative_of_its_ancestors_alone(code: tuple[str, ...]) -> None:
    with listener(code=code) as port:
        assert not is_shared_with_strangers("127.0.0.1", port, MYSELF)
        assert is_shared_with_strangers("127.0.0.1", port, [])
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as sibling:
            assert is_shared_with_strangers("127.0.0.1", port, [sibling.pid])
            sibling.communicate(b"\n")


@pytest.mark.parametrize(
    ("its_host", "our_host", "is_shared"),
    [
        ("::1", "0.0.0.0", True),  # gRPC takes it as :: too
        ("0.0.0.0", "::", True),
        ("0.0.0.0", "::1", False),
        ("::1", "127.0.0.1", False),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.1", False),
        ("127.0.0.1", "::1", False),
    ],
)
def test_addresses_that_meet(its_host: str, our_host: str, is_shared: bool) -> None:
    with listener(its_host) as port:
        assert is_shared_with_strangers(our_host, port, []) is is_shared


@pytest.mark.parametrize(
    ("our_host", "shares", "is_shared"),
    [
        ("127.0.0.1", True, False),
        ("0.0.0.0", True, True),  # gRPC takes it as ::
        ("0.0.0.0", False, False),  # for which it can't, so it serves IPv4 alone
        ("::", False, True),
        ("::1", True, True),
    ],
)
def test_a_stranger_with_ipv6_alone_leaves_ipv4_to_others(our_host: str, shares: bool, is_shared: bool) -> None:
    alone = LISTEN.replace('":" in host and host != "::1"', "False").replace("reuse_port=True", f"reuse_port={shares}")
    with listener("::", (alone,)) as port:
        assert is_shared_with_strangers(our_host, port, []) is is_shared


@pytest.mark.parametrize("host", ["a..b", "1.2.3.4.5", "nowhere.invalid"])
def test_a_host_without_an_address_is_left_to_whoever_binds_it(host: str) -> None:
    assert not is_shared_with_strangers(host, free_port(), [])


def test_no_judgement_without_the_kernels_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listener() as port:
        monkeypatch.setattr(shared_port, "_PROC", tmp_path)
        assert not is_shared_with_strangers("127.0.0.1", port, [])


def test_no_judgement_if_a_workers_files_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(_pid: int) -> set[int]:
        raise PermissionError

    with listener() as port:
        monkeypatch.setattr(shared_port, "_sockets_of", hidden)
        assert not is_shared_with_strangers("127.0.0.1", port, MYSELF)


def test_no_judgement_by_tables_that_do_not_show_a_socket_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with listener() as port:
        monkeypatch.setattr(shared_port, "_sockets_of", lambda _pid: set())
        assert not is_shared_with_strangers("127.0.0.1", port, [])


def test_a_worker_that_ends_meanwhile_is_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ending:
        port = ending.getsockname()[1]

        def none_left(_pid: int) -> set[int]:
            ending.close()
            return set()

        monkeypatch.setattr(shared_port, "_sockets_of", none_left)
        monkeypatch.setattr(shared_port, "_shows_own_socket", lambda: True)
        assert not is_shared_with_strangers("127.0.0.1", port, [])
