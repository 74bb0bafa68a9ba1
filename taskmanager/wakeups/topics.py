"""What a call can wait for, as words without spaces."""

from urllib.parse import quote

EVENTS = "events"  # anything that the feed of events shows


def pending_of(type_id: int) -> str:
    """A task of this type has become pending."""
    return f"pending:{type_id}"


def ended_of(type_id: int) -> str:
    """A task of this type is not held any more, which makes room within the limits of the type."""
    return f"ended:{type_id}"


def finished(task_id: int) -> str:
    """This task is finished."""
    return f"finished:{task_id}"


def shutdown_of(worker_id: str) -> str:
    """This worker has signed off, and wants no task."""
    return f"shutdown:{quote(worker_id, safe='')}"
