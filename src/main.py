"""`python -m src`: flags become settings, and the chosen ASGI server runs the app."""

import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from src.config import Settings
from src.lifecycle.flags import export_to_environment, parse_flags
from src.lifecycle.open_files import raise_open_file_limit
from src.lifecycle.ports import check_port_free
from src.lifecycle.startup_errors import exit_with, load_settings_or_exit
from src.lifecycle.stop_signals import block_stop_signals, take_as_sigterm, unblock_stop_signals
from src.logs.setup import configure_logging, logging_config

APP = "src.asgi:create_app_at_port"
# granian stops reading a request head at this size (its defaults are 400 KB and 16 MB). Its last read lets HTTP/1 heads
# of up to one and a half times the size pass. `lifecycle.uvicorn_http` limits uvicorn; hypercorn has limits of its own.
MAX_HEADER_BYTES = 32_768
MAX_STREAMS = 100
# Connections that a granian worker accepts. One client could fill its default of 1,024. If each sent an unfinished head
# of 48 KiB, they would take 384 MiB.
MAX_CONNECTIONS = 8192
FILES_OF_OURS = 512  # beside connections: the gRPC server, the model's connections, logs


def main(argv: Sequence[str] | None = None) -> None:
    """Start the service and return when it has drained.

    An invalid flag or setting, or a taken port, ends the process with status 2 and one line on stderr.
    """
    flags = parse_flags(sys.argv[1:] if argv is None else argv)
    settings = load_settings_or_exit(flags)
    export_to_environment(flags)  # worker processes read the settings again, and must get the same
    configure_logging(settings)
    check_ports_free(settings)
    take_as_sigterm()
    SERVERS[settings.server](settings)


def check_ports_free(settings: Settings) -> None:
    """End the process if it can't listen on one of its ports."""
    try:
        check_port_free("HOST", settings.host, "PORT", settings.port)
        if settings.grpc_enabled:
            check_port_free("HOST", settings.host, "GRPC_PORT", settings.grpc_port)
        if settings.metrics_port:
            check_port_free("METRICS_HOST", settings.metrics_host, "METRICS_PORT", settings.metrics_port)
    except ValueError as error:
        exit_with(str(error))


def _address(settings: Settings) -> str:
    """Return HOST as an IP address, which is all that granian takes."""
    return str(socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][4][0])


def _seconds_to_stop(settings: Settings) -> int:
    """Return the seconds after which a server may kill a worker. The app itself ends after the grace period."""
    return math.ceil(settings.shutdown_grace) + 1


def _granian(settings: Settings) -> None:
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, Loops
    from granian.http import HTTP1Settings, HTTP2Settings
    from granian.log import LogLevels

    # A worker starts as a copy of this process, handlers included, and would swallow a signal while it still imports.
    # So workers start with these signals blocked: they wait until the app's lifespan is ready for them.
    os.register_at_fork(before=block_stop_signals, after_in_parent=unblock_stop_signals)
    Granian(
        APP,
        address=_address(settings),
        port=settings.port,
        interface=Interfaces.ASGI,
        workers=settings.workers,
        loop=Loops.uvloop,
        factory=True,
        # With HTTP/2 on, granian waits for a connection's first bytes without a limit.
        http=HTTPModes.auto if settings.http2 else HTTPModes.http1,
        backpressure=max(1, min(MAX_CONNECTIONS, raise_open_file_limit() - FILES_OF_OURS)),
        http1_settings=HTTP1Settings(
            header_read_timeout=settings.keep_alive_timeout * 1000, max_buffer_size=MAX_HEADER_BYTES
        ),
        http2_settings=HTTP2Settings(
            max_headers_size=MAX_HEADER_BYTES,
            max_concurrent_streams=MAX_STREAMS,
            keep_alive_interval=settings.keep_alive_timeout * 1000,
        ),
        websockets=False,
        workers_kill_timeout=_seconds_to_stop(settings),
        # If a single worker ends, the service ends, so that its supervisor notices.
        respawn_failed_workers=settings.workers > 1,
        log_level=LogLevels(settings.log_level),
        log_dictconfig=logging_config(settings),
    ).serve()


def _uvicorn(settings: Settings) -> None:
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from src.lifecycle.uvicorn_http import HeadTimeoutProtocol

    # After a clean stop uvicorn raises the signal again, which would end the process with an error status. These
    # handlers ignore it. They would also swallow a signal before uvicorn has set its own handlers, so signals are
    # blocked until the app's lifespan.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: None)
    if settings.workers == 1:  # with more, uvicorn's parent sets its handlers at once, and has no lifespan
        block_stop_signals()
    # With several workers uvicorn's main process swallows SIGQUIT.
    Multiprocess.handle_quit = Multiprocess.handle_term  # type: ignore[attr-defined]
    uvicorn.run(
        APP,
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http=HeadTimeoutProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # TRUSTED_PROXIES alone decides whose headers count
        ws="none",
        timeout_keep_alive=settings.keep_alive_timeout,
        timeout_graceful_shutdown=_seconds_to_stop(settings),
    )


def _hypercorn(settings: Settings) -> None:
    from hypercorn.config import Config
    from hypercorn.run import run

    config = Config()
    config.application_path = f"{APP}()"
    config.bind = [f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"]
    # With a single worker hypercorn serves in this process, which sees the signals; workers of its own do not.
    config.workers = settings.workers if settings.workers > 1 else 0
    config.worker_class = "uvloop"
    config.graceful_timeout = _seconds_to_stop(settings)
    config.keep_alive_timeout = settings.keep_alive_timeout
    # Only this closes idle HTTP/2 connections. A client that waits for a response is silent too, so it is longer.
    config.read_timeout = math.ceil(settings.request_timeout) + 5
    config.backlog = 1024
    config.include_server_header = False
    config.logconfig_dict = logging_config(settings)
    with _noting_signals() as noted:
        status = run(config)
        was_asked_to_stop = noted()
    # hypercorn does not replace a worker that was killed: it ends the others, and then itself with status 0.
    sys.exit(status if was_asked_to_stop or config.workers == 0 else status or 1)


@contextmanager
def _noting_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns True if a stop signal has arrived. hypercorn's handlers stay active.

    Only for a process without an event loop.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

        def noted() -> bool:
            try:
                return bool({signal.SIGTERM, signal.SIGINT}.intersection(reader.recv(65_536)))
            except BlockingIOError:
                return False

        try:
            yield noted
        finally:
            signal.set_wakeup_fd(-1)


SERVERS: dict[str, Callable[[Settings], None]] = {"granian": _granian, "uvicorn": _uvicorn, "hypercorn": _hypercorn}
