"""Patterns over task-type names: `%` stands for any run of characters, all else for itself."""

from collections.abc import Iterable


def matches(pattern: str, name: str) -> bool:
    """True where `name` fits `pattern`. Case counts; `_` is an ordinary character.

    Takes time linear in the length of the name for every pattern, which a
    regular expression made of many wildcards would not.
    """
    if "%" not in pattern:
        return pattern == name
    first, *middle, last = pattern.split("%")
    if not name.startswith(first):
        return False
    position = len(first)
    for part in middle:
        found = name.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return len(name) - len(last) >= position and name.endswith(last)


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """True where `name` fits one of `patterns`."""
    return any(matches(pattern, name) for pattern in patterns)
