"""What the engines share: reconnecting, giving up, and the options of a database URL."""

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import peewee

from taskmanager.db.cache import Cache
from taskmanager.db.dialect import Dialect
from taskmanager.db.errors import is_busy, is_connection_lost, translated
from taskmanager.errors import ConfigurationError, DatabaseUnavailable
from taskmanager.wakeups.waiters import Wakeups


class Recovering:
    """Outside a transaction, reopens a connection that was closed meanwhile, once.

    Every statement passes here, those of the models too. Raises
    DatabaseUnavailable where the database cannot do it now. Inside a
    transaction errors pass as they are, for write_transaction() to judge.
    """

    dialect: Dialect
    unbuffered: tuple[type, ...] = ()  # the kind of cursor that leaves rows with the server

    def __init__(self, *args: Any, table_prefix: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table_prefix = table_prefix
        self.cache = Cache()
        self.keyring: Any = None  # what payloads/ encrypts with
        self.wakeups = Wakeups(None)

    def spelled(self, template: str) -> str:
        """The statement of a template as this engine spells it; see dialect.py."""
        statements = self.cache.statements
        sql = statements.get(template)
        if sql is None:
            sql = statements[template] = self.dialect.spell(template, self.table_prefix)
        return sql

    def execute_sql(self, sql: str, params: Sequence[Any] | None = None) -> Any:
        run = super().execute_sql  # type: ignore[misc]
        if self.in_transaction():  # type: ignore[attr-defined]
            return run(sql, params)
        try:
            return run(sql, params)
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            if not self.is_lost(error):
                raise self.given_up(error) from error
        self.close_quietly()
        try:
            self.connect_anew()
            return run(sql, params)
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            raise self.given_up(error) from error

    def is_lost(self, error: BaseException) -> bool:
        """True where this connection is of no more use, and another one may do."""
        return is_connection_lost(error)

    def connect_anew(self) -> None:
        """Opens this thread's connection; never one that was open before."""
        self.connect()  # type: ignore[attr-defined]

    def keeps_snapshot(self) -> bool:
        """Whether all plain SELECTs of a transaction see the moment of the first one, although
        others may write meanwhile.
        """
        return False

    def is_clustered(self) -> bool:
        """Whether the server is a node of a Galera cluster."""
        return False

    def meets_other_nodes(self) -> bool:
        """Whether another node of a cluster has just committed first what this one was doing."""
        return False

    def takes(self, text: str) -> bool:
        """Whether a statement may hold the text beside small values."""
        return True

    def release(self) -> None:
        """Lets another thread use this thread's connection; an open file is kept."""

    def dispose(self) -> None:
        """In a forked child: forgets the connections of the parent, which still uses them."""
        self._lock = threading.Lock()  # a thread that the child does not have may have held it
        self.wakeups.forget_parent()
        super().dispose()  # type: ignore[misc]

    def given_up(self, error: Exception) -> Exception:
        """What to raise where nothing is tried again. The next statement connects anew.

        The database file may have been replaced, which an open connection never sees.
        """
        raised = translated(error)
        if isinstance(raised, DatabaseUnavailable):
            self.cache.writes_known_until = 0.0
            self.close_quietly()
        return raised

    @contextlib.contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Ends the block, without an error, at a statement that another connection would delay.

        For single statements outside a transaction that may be left out.
        """
        self.execute_sql(self.dialect.short_lock_wait)
        try:
            with self.manual_commit():  # type: ignore[attr-defined]  # errors pass as they are
                yield
        except peewee.OperationalError as error:
            if not is_busy(error):
                raise self.given_up(error) from error
        finally:
            self.execute_sql(self.dialect.usual_lock_wait)

    def close_quietly(self) -> None:
        """Closes this thread's connection in whatever state; the next statement opens another."""
        with contextlib.suppress(Exception):  # a dead connection may fail to say goodbye
            self.close()  # type: ignore[attr-defined]


def options_of(query: str, known: Mapping[str, Collection[str] | None]) -> dict[str, str]:
    """What follows the `?` of a URL; `known` has the values that an option may have."""
    # A plus sign means itself: the paths among the values are no form of a web page.
    options = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))
    for name, value in options.items():
        if name not in known:
            raise ConfigurationError(
                f"TASKMANAGER_DATABASE_URL has an option that is not known: {name}. "
                f"Known: {', '.join(known)}."
            )
        if not value:
            raise ConfigurationError(
                f"TASKMANAGER_DATABASE_URL has {name} without a value. "
                f"Write {name}=… or leave it out."
            )
        values = known[name]
        if values is not None and value not in values:
            raise ConfigurationError(
                f"TASKMANAGER_DATABASE_URL has {name}={value}, but it must be "
                f"{' or '.join(f'{name}={one}' for one in values)}, or be left out."
            )
    return options
