"""Who is asking: what a valid key stands for, and which task types it may touch."""

from typing import NamedTuple

from taskmanager.errors import NotAllowed

# The scope on the left is a part of what the one on the right allows.
INCLUDED_IN = {"task-types:register": "task-types:write"}


class Caller(NamedTuple):
    """Who is asking: what a valid key stands for. `task_types` None: every type."""

    key_id: int | None
    name: str
    scopes: frozenset[str]
    task_types: tuple[str, ...] | None = None
    rate_limit: str | None = None
    address: str | None = None
    request_id: str | None = None

    def may(self, scope: str) -> bool:
        included = INCLUDED_IN.get(scope)
        return scope in self.scopes or "admin" in self.scopes or included in self.scopes

    def may_touch(self, type_name: str) -> bool:
        return self.task_types is None or any(matches(it, type_name) for it in self.task_types)

    def require_type(self, type_name: str) -> None:
        """Raises NotAllowed where the key is limited to other task types."""
        if not self.may_touch(type_name):
            raise NotAllowed(
                f"This key may not touch task type '{type_name}'; it is limited to "
                f"{', '.join(self.task_types or ())}.",
                code="task_type_not_allowed",
            )

    def require_every_type(self, what: str) -> None:
        """Raises NotAllowed where the key is limited to task types: it may not do `what`."""
        if self.task_types is not None:
            raise NotAllowed(
                f"This key is limited to task types, so it may not {what}; use an admin key "
                "without that limit.",
                code="task_type_not_allowed",
            )


# Stands for the person at the command line and for the cron job.
OPERATOR = Caller(key_id=None, name="command line", scopes=frozenset({"admin"}))


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
