"""What differs between SQLite and MySQL: connecting, locking, and words of their SQL.

Refuses to know any table, and which of the two is in use: database.py holds that.
"""

import contextlib
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import peewee

from taskmanager.database_errors import is_connection_lost, mysql_code, translated
from taskmanager.exceptions import ConfigurationError, DatabaseUnavailable
from taskmanager.file_locks import Turnstile
from taskmanager.file_systems import file_system_of, is_network
from taskmanager.write_ahead_log import WriteAheadLog

SQLITE_BUSY_TIMEOUT_SECONDS = 10
# Of a new database. A commit writes every page that it touches to the log, most of them for the
# sake of a few bytes: half of SQLite's usual size makes half of it.
SQLITE_PAGE_BYTES = 2_048
# A page that many commits have changed is copied from the log once; 16 MB of log, read in no time.
SQLITE_CHECKPOINT_PAGES = 8_000
MYSQL_CONNECT_TIMEOUT_SECONDS = 5
MYSQL_READ_TIMEOUT_SECONDS = 60
MYSQL_PATIENCE_SECONDS = 3_600
MYSQL_SYNTAX_ERROR = 1064


@dataclass(frozen=True)
class Dialect:
    """What differs between the engines, as words to put into a statement."""

    name: str
    placeholder: str
    lock_rows: str  # closes a SELECT of rows that this transaction will change
    lock_free_rows: str  # the same, leaving out rows that another transaction has locked
    use_index: str  # follows the table's name; `{}` is the index
    # The same for rows looked up by id: MySQL would otherwise reach them through an index that the
    # statement changes, and lock the neighbours that other transactions are at work on.
    by_id: str
    union_member: str  # a SELECT with its own ORDER BY and LIMIT inside a UNION ALL

    def sql(self, statement: str) -> str:
        return _with_placeholder(statement, self.placeholder)


@functools.lru_cache(maxsize=512)
def _with_placeholder(statement: str, placeholder: str) -> str:
    return statement.replace("?", placeholder)


SQLITE = Dialect(
    name="sqlite",
    placeholder="?",
    lock_rows="",
    lock_free_rows="",
    use_index="INDEXED BY {}",
    by_id="NOT INDEXED",
    union_member="SELECT * FROM ({})",
)
MYSQL = Dialect(
    name="mysql",
    placeholder="%s",
    lock_rows="FOR UPDATE",
    lock_free_rows="FOR UPDATE SKIP LOCKED",
    use_index="FORCE INDEX ({})",
    by_id="FORCE INDEX (PRIMARY)",
    union_member="({})",
)


class _Recovering:
    """Outside a transaction: opens a connection that was closed meanwhile again, once.

    Every statement passes here, those of the models too. Raises
    DatabaseUnavailable where the database cannot do it now. Inside a
    transaction errors pass as they are, for write_transaction() to judge.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What services remember of this very database; another one starts empty.
        self.cache: dict[str, Any] = {}

    def execute_sql(self, sql: str, params: Sequence[Any] | None = None) -> Any:
        run = super().execute_sql  # type: ignore[misc]
        if self.in_transaction():  # type: ignore[attr-defined]
            return run(sql, params)
        try:
            return run(sql, params)
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            if not is_connection_lost(error):
                raise self.given_up(error) from error
        self.close_quietly()
        try:
            return run(sql, params)
        except (peewee.DatabaseError, peewee.InterfaceError) as error:
            raise self.given_up(error) from error

    def given_up(self, error: Exception) -> Exception:
        """What to raise where nothing is tried again. After a failure the next call connects anew:

        a file may have been put back in another's place, which an open connection never sees.
        """
        raised = translated(error)
        if isinstance(raised, DatabaseUnavailable):
            self.close_quietly()
        return raised

    def close_quietly(self) -> None:
        """Closes this thread's connection in whatever state; the next statement opens another."""
        with contextlib.suppress(Exception):  # a dead connection may fail to say goodbye
            self.close()  # type: ignore[attr-defined]


class _SqliteDatabase(_Recovering, peewee.SqliteDatabase):
    """Writers pass a turnstile before they ask SQLite for its lock.

    SQLite's own waiting sleeps up to 100 ms between two looks, while the lock is
    free and newcomers overtake those who sleep.
    """

    dialect = SQLITE

    def __init__(self, path: str, *, synchronous: str, journal: str | None) -> None:
        super().__init__(
            path,
            lock_type="IMMEDIATE",
            timeout=SQLITE_BUSY_TIMEOUT_SECONDS,
            pragmas={
                "page_size": SQLITE_PAGE_BYTES,
                "foreign_keys": 1,
                "temp_store": "memory",
                "cache_size": -8000,
                "wal_autocheckpoint": SQLITE_CHECKPOINT_PAGES,
            },
        )
        self._synchronous = synchronous
        self._journal = journal
        self._writers = Turnstile(Path(path + ".writers"))
        self._log = WriteAheadLog(path)
        self._waits_for_disk = False

    def skips_locked(self) -> bool:
        return True

    def wanted_journal(self) -> str:
        """`wal`, or `delete` where the URL says so or the file lies on a network file system."""
        if self._journal is None:
            file_system = file_system_of(Path(self.database).parent)
            self._journal = "delete" if is_network(file_system) else "wal"
        return self._journal

    def journal(self) -> str:
        """The mode in force. It is kept in the file, so all processes have the same."""
        mode: str = self.execute_sql("PRAGMA journal_mode").fetchone()[0]
        return mode

    def switch_journal(self) -> None:
        """Takes the wanted mode, unless somebody uses the database: then the next start may."""
        if self.journal() != self.wanted_journal():
            with contextlib.suppress(DatabaseUnavailable):
                self.execute_sql("PRAGMA busy_timeout = 0")
                self.execute_sql(f"PRAGMA journal_mode = {self.wanted_journal()}")
            self.close_quietly()  # a connection learns the mode when it is opened

    def _initialize_connection(self, conn: Any) -> None:
        has_log = conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        self._waits_for_disk = has_log and self._synchronous == "FULL"
        by_sqlite = "NORMAL" if self._waits_for_disk else self._synchronous
        conn.execute(f"PRAGMA synchronous = {by_sqlite}")

    def begin(self, lock_type: str | None = None) -> None:
        if not self._writers.enter(SQLITE_BUSY_TIMEOUT_SECONDS):
            raise DatabaseUnavailable(
                "The database stayed locked by another process. Nothing was changed; "
                "try again shortly."
            )
        try:
            super().begin(lock_type)
        except BaseException:
            self._writers.leave()
            raise

    def commit(self) -> None:
        super().commit()
        self._writers.leave()
        if self._waits_for_disk:
            try:
                self._log.sync()
            except OSError as error:
                raise DatabaseUnavailable(
                    f"The disk failed ({error.strerror}) and may not keep what was asked for. "
                    "Look whether it was done, or send the same again."
                ) from error

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self._writers.leave()

    def close(self) -> bool:
        try:
            return bool(super().close())
        finally:
            self._writers.close()
            self._log.close()

    def dispose(self) -> None:
        super().dispose()
        self._writers.forget_turn_of_parent()
        self._log.forget_file_of_parent()


class _MySQLDatabase(_Recovering, peewee.MySQLDatabase):
    dialect = MYSQL

    def skips_locked(self) -> bool:
        """Whether the server knows SKIP LOCKED: asked once, by trying it on no row at all."""
        if "skips_locked" not in self.cache:
            try:
                self.execute_sql(
                    "SELECT version FROM schema_versions LIMIT 0 FOR UPDATE SKIP LOCKED"
                )
                self.cache["skips_locked"] = True
            except peewee.ProgrammingError as error:
                if mysql_code(error) != MYSQL_SYNTAX_ERROR:
                    raise
                self.cache["skips_locked"] = False
        found: bool = self.cache["skips_locked"]
        return found

    def _initialize_connection(self, conn: Any) -> None:
        with conn.cursor() as cursor:
            # Hosts often run without strict mode, which cuts what does not fit without a word.
            cursor.execute(
                "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,"
                "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,PIPES_AS_CONCAT'"
            )
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """On a connection of its own, whose statements may take an hour: some rewrite a table."""
        usual = self.connect_params
        self.close_quietly()
        self.connect_params = {
            **usual,
            "read_timeout": MYSQL_PATIENCE_SECONDS,
            "write_timeout": MYSQL_PATIENCE_SECONDS,
        }
        try:
            yield
        finally:
            self.close_quietly()
            self.connect_params = usual


def sqlite_engine(url: str, synchronous: str) -> _SqliteDatabase:
    """Raises ConfigurationError where `url` names no file, or an option that is not known."""
    path, _, query = url.removeprefix("sqlite:///").partition("?")
    if not path:
        raise ConfigurationError(
            "TASKMANAGER_DATABASE_URL names no file: write sqlite:///path/to/file.db"
        )
    options = _options(query, {"journal": ("delete", "wal")})
    return _SqliteDatabase(path, synchronous=synchronous, journal=options.get("journal"))


def _options(query: str, known: Mapping[str, Collection[str] | None]) -> dict[str, str]:
    """What follows the `?` of a URL; `known` has the values that an option may have."""
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in known:
            raise ConfigurationError(
                f"TASKMANAGER_DATABASE_URL has an option that is not known: {name}. "
                f"Known: {', '.join(known)}."
            )
        values = known[name]
        if values is not None and value not in values:
            raise ConfigurationError(
                f"TASKMANAGER_DATABASE_URL has {name}={value}, but it must be "
                f"{' or '.join(f'{name}={one}' for one in values)}, or be left out."
            )
    return options


def mysql_engine(url: str) -> _MySQLDatabase:
    """Raises ConfigurationError where `url` cannot be understood."""
    from pymysql.constants import CLIENT

    try:
        parts = urlsplit(url)
        port = parts.port or 3306
    except ValueError:  # the port is no number, or the host no address
        parts, port = urlsplit(""), 0
    name = unquote(parts.path.lstrip("/"))
    if not name or not parts.username:
        raise ConfigurationError(
            "TASKMANAGER_DATABASE_URL must look like mysql://user:password@host:3306/name"
        )
    options = _options(parts.query, {"unix_socket": None, "ssl_ca": None, "skip_locked": ("off",)})
    connect: dict[str, Any] = {
        "user": unquote(parts.username),
        "password": unquote(parts.password or ""),
        "host": parts.hostname or "localhost",
        "port": port,
        "charset": "utf8mb4",
        # Guarded updates count the rows that matched, not those whose values differ.
        "client_flag": CLIENT.FOUND_ROWS,
        "connect_timeout": MYSQL_CONNECT_TIMEOUT_SECONDS,
        "read_timeout": MYSQL_READ_TIMEOUT_SECONDS,
        "write_timeout": MYSQL_READ_TIMEOUT_SECONDS,
    }
    if "unix_socket" in options:
        connect["unix_socket"] = options["unix_socket"]
    if "ssl_ca" in options:
        connect["ssl"] = {"ca": options["ssl_ca"]}
    elif "unix_socket" in options or parts.hostname in ("localhost", "127.0.0.1", "::1"):
        # PyMySQL otherwise spends 30 ms of CPU on an SSL context for every connection.
        connect["ssl_disabled"] = True
    engine = _MySQLDatabase(name, **connect)
    if options.get("skip_locked") == "off":
        engine.cache["skips_locked"] = False
    return engine
