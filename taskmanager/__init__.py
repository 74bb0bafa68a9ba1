"""TaskManager: a task queue behind an HTTP JSON API, for shared hosting."""

__version__ = "0.2.0"
