"""gunicorn: `gunicorn -c gunicorn.conf.py 'src.asgi:create_app()'`. Ports, workers and grace come from the settings."""

import asyncio
import math
import signal
import sys
from pathlib import Path
from typing import Any, ClassVar

from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from src.lifecycle.server_parent import note_parent
from src.lifecycle.startup_errors import load_settings_or_exit
from src.lifecycle.uvicorn_http import HeadTimeoutProtocol
from src.logs.setup import logging_config

_settings = load_settings_or_exit()
_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
_seconds_to_stop = math.ceil(_settings.shutdown_grace) + 1


class Worker(UvicornWorker):  # type: ignore[misc]
    """uvicorn's worker without its name in the answers, its own access log, and its own idea of proxies."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        **UvicornWorker.CONFIG_KWARGS,
        "server_header": False,
        "access_log": False,
        "proxy_headers": False,  # whose headers count is for TRUSTED_PROXIES alone to say
        "ws": "none",
        "http": HeadTimeoutProtocol,
        "timeout_graceful_shutdown": _seconds_to_stop,  # after max_requests; after SIGTERM gunicorn's own holds
    }

    def _install_sigquit_handler(self) -> None:
        """Drain as after SIGTERM. gunicorn sends SIGQUIT to its workers when it gets SIGINT or SIGQUIT itself."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, signal.raise_signal, signal.SIGTERM)

    def load_wsgi(self) -> None:
        """Make the app. One that can't be made stops gunicorn, which would go on replacing the worker otherwise."""
        try:
            super().load_wsgi()
        except SystemExit:  # the reason has been told
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


def post_fork(arbiter: Arbiter, _worker: Worker) -> None:
    """Note whose worker this is. After USR2 the old main process and the new one share the gRPC port for a while."""
    note_parent(arbiter.pid, arbiter.master_pid)


bind = f"{_host}:{_settings.port}"
workers = _settings.workers
worker_class = Worker

# Each worker makes its own app: grpc must not be loaded in the parent of a fork.
preload_app = False

# Seconds that requests in flight get after SIGTERM; the app itself drains gRPC within the same grace.
graceful_timeout = _seconds_to_stop

# Seconds without a heartbeat after which a worker is aborted. One that drains sends none, and its last one may be half
# as old as this.
timeout = math.ceil(_settings.request_timeout + _settings.shutdown_grace) + 5

# Seconds that an idle connection is kept.
keepalive = _settings.keep_alive_timeout

# Heartbeats go through a file, which must not wait for a disk.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108

# gunicorn's own lines in the format of the service, which writes the access log itself.
logconfig_dict = logging_config(_settings)
accesslog = None

# Nothing listens but the two ports.
control_socket_disable = True
