"""Runs the application under gunicorn, for a machine of one's own."""

import socket
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.config import Config
from gunicorn.glogging import Logger

from taskmanager.api.waiting_calls import WaitingCalls
from taskmanager.app import create_app  # a missing part is found before there are processes
from taskmanager.config import Settings
from taskmanager.db.connection import close_connection
from taskmanager.errors import ConfigurationError
from taskmanager.logs import JsonLines
from taskmanager.serving.background import Background, has_tables, steps_of
from taskmanager.serving.patient_worker import PatientWorker


class _Server(BaseApplication):
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return create_app()


WAITING_CALLS = 64  # of a process, unless the settings say otherwise


class _Worker(PatientWorker):
    """A process that also works in the background, and whose threads may wait."""

    waiting_calls: WaitingCalls | None = None

    def at_end_of_thread(self) -> None:
        close_connection()

    def handle_exit(self, sig: Any, frame: Any) -> None:
        self._end_waiting()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: Any, frame: Any) -> None:
        self._end_waiting()
        super().handle_quit(sig, frame)

    def _end_waiting(self) -> None:
        if self.waiting_calls is not None:
            self.waiting_calls.stop()

    def run(self) -> None:
        app: Any = self.wsgi
        self.waiting_calls = WaitingCalls.of(app)
        self.waiting_calls.use(WAITING_CALLS, parked=self.threads.parked)
        settings: Settings = app.extensions["taskmanager"]
        with Background(
            settings.instance_path / "background.lock",
            steps_of(settings),
            is_stopping=lambda: not self.alive,
            is_ready=has_tables,
        ):
            super().run()


class _JsonLogger(Logger):
    """What gunicorn itself has to say, as JSON lines. The application logs the requests."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            for handler in logger.handlers:
                handler.setFormatter(JsonLines())


def address_of(host: str, port: int) -> str:
    """`127.0.0.1:8000`, or with an IPv6 address `[::1]:8000`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_free_address(host: str, port: int) -> None:
    """Raises ConfigurationError where the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {address_of(host, port)}: {error.strerror}. "
            "Choose another address or port with --host and --port."
        ) from None


def run_server(*, host: str, port: int, workers: int, threads: int, log_format: str) -> None:
    """Serves until it is told to stop; `workers` processes of `threads` threads each."""
    _Server(
        {
            "bind": address_of(host, port),
            "workers": workers,
            "threads": threads,
            "worker_class": _Worker,
            # Every connection takes one of the files that a process may open: often 1,024.
            "worker_connections": 800,
            # Each process listens on a socket of its own. With one socket for all, the process
            # that wakes up first takes every connection of a burst and keeps it
            # (docs/decisions/0012).
            "reuse_port": True,
            "loglevel": "warning",
            "logger_class": _JsonLogger if log_format == "json" else Logger,
            # gunicorn would otherwise open a control socket in the home directory.
            "control_socket_disable": True,
            "graceful_timeout": 10,
            # By itself gunicorn believes X-Forwarded-Proto, SCRIPT_NAME and the like of whoever
            # calls from this machine, which is every proxy's visitor; http_rules decides that.
            "secure_scheme_headers": {},
            "forwarder_headers": "",
            "forwarded_allow_ips": "",
        }
    ).run()
