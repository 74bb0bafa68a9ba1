"""Paths to values inside JSON values, such as `user.emails.0`."""

from typing import Any


def value_at(value: Any, path: str) -> Any:
    """The value at a path of keys and list positions, joined with dots.

    Raises LookupError where there is none.
    """
    for name in path.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise LookupError(path)
    return value
