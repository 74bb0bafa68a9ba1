"""Runs the application under gunicorn, for a machine of one's own."""

from typing import Any

from gunicorn.app.base import BaseApplication


class _Server(BaseApplication):
    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from taskmanager.app import create_app

        return create_app()


def run_server(*, host: str, port: int, workers: int, threads: int) -> None:
    """Serves until it is told to stop; `workers` processes of `threads` threads each."""
    _Server(
        {
            "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "workers": workers,
            "threads": threads,
            "worker_class": "gthread",
            "loglevel": "warning",
            # gunicorn would otherwise open a control socket in the home directory.
            "control_socket_disable": True,
            "graceful_timeout": 10,
        }
    ).run()
