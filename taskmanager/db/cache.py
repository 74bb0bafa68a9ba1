"""What one process remembers of one database: every entry and every bound, in one place.

Nothing here is the truth. An entry saves a question to the database, and whoever reads one says
how old it may be. Another database starts with an empty cache.
"""

from dataclasses import dataclass, field
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")

Row = dict[str, Any]


class Bounded(dict[K, V]):
    """A dict of at most `most` entries. A new one beyond that clears it: all can be read again."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: K, value: V) -> None:
        if len(self) >= self.most and key not in self:
            self.clear()
        super().__setitem__(key, value)


@dataclass
class Cache:
    """Times that end in `_at` are milliseconds since 1970; those in `_until` are monotonic."""

    # db: a statement as this engine spells it; whether the server knows SKIP LOCKED.
    statements: Bounded[str, str] = field(default_factory=lambda: Bounded(2_000))
    skips_locked: bool | None = None
    # db: what a MySQL server says of itself; None until the next connection is opened.
    server_variables: Any = None
    # db: until when the database is believed to be writable; 0 as soon as it refuses anything.
    writes_known_until: float = 0.0

    # access: a key's hash → (remembered_until, its row, the caller it stands for); a key's id →
    # when it was last noted as used; this minute's failed authentications.
    keys: Bounded[str, tuple[float, Row, Any]] = field(default_factory=lambda: Bounded(1_000))
    keys_used_at: Bounded[int, int] = field(default_factory=lambda: Bounded(1_000))
    failed_authentications: Any = None

    # queue: names never change. Workers: when each was last noted as seen.
    task_type_names: Bounded[int, str] = field(default_factory=lambda: Bounded(10_000))
    workers_seen_at: Bounded[str, int] = field(default_factory=lambda: Bounded(1_000))
    # When maintenance last looked, what it found to be due next, and when it last noted a run.
    maintenance_slice_at: int = 0
    maintenance_recorded_at: int = 0
    next_due: tuple[int, Any] | None = None
    # Ids of task_logs: all up to the first were assigned some seconds ago; the newest seen since
    # then, and when (monotonic).
    log_ids_seen: tuple[int, int, float] = (0, 0, -60.0)
    # When another worker last took a task first that a claim had found.
    claims_contended_at: int = 0
    # When another node of a cluster last committed something first (monotonic).
    conflict_at: float = -60.0
