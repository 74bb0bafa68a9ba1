"""What the views of the application share: its settings, and how a path names a task."""

from flask import current_app

from taskmanager.api.requests import MAX_INTEGER
from taskmanager.config import Settings
from taskmanager.queue.task_types import TaskDefaults

TASK = f"/<int(max={MAX_INTEGER}):task_id>"


def settings() -> Settings:
    """The settings of the application that answers the present request."""
    found: Settings = current_app.extensions["taskmanager"]
    return found


def task_defaults() -> TaskDefaults:
    """What the settings give a task where neither request nor type does."""
    return TaskDefaults.of(settings())
