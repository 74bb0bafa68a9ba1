"""MySQL and MariaDB: connecting, the pool of idle connections, and what a server can do."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import peewee
from pymysql.constants import CLIENT
from pymysql.converters import escape_string
from pymysql.cursors import SSCursor

from taskmanager.db.dialect import MYSQL
from taskmanager.db.engine import Recovering, options_of
from taskmanager.db.errors import mysql_code
from taskmanager.db.mysql.connection import MySQLConnection, connect, context_that_trusts
from taskmanager.db.mysql.pool import IdleConnections
from taskmanager.db.mysql.variables import ask_server
from taskmanager.errors import ConfigurationError

MYSQL_CONNECT_TIMEOUT_SECONDS = 5
MYSQL_READ_TIMEOUT_SECONDS = 60
MYSQL_PATIENCE_SECONDS = 3_600
MYSQL_SYNTAX_ERROR = 1064
# In UTF-8; an escaped one is ASCII and has two.
MAX_BYTES_OF_CHARACTER = 4
REST_OF_STATEMENT_BYTES = 16_384
# On Red Hat, and so on cPanel, and on Debian. None in /tmp, where any account could create one.
SERVER_SOCKETS = ("/var/lib/mysql/mysql.sock", "/run/mysqld/mysqld.sock")
# Every variable that a host may have turned and that the queue depends on. Any user may set these.
SESSION = (
    # Hosts often run without strict mode, where MySQL truncates what does not fit, silently.
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,"
    "ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,PIPES_AS_CONCAT', "
    # PyMySQL believes the greeting, which comes before the host's init_connect turns it off.
    "autocommit = 1, "
    # Otherwise max_join_size refuses what may look at many rows,
    "sql_big_selects = 1, "
    # sql_select_limit cuts answers short, silently,
    "sql_select_limit = 18446744073709551615, "
    # an import cannot empty the tables,
    "sql_safe_updates = 0, "
    # `id IS NULL` finds the row inserted last,
    "sql_auto_is_null = 0, "
    # rows may point nowhere, and what belongs to a deleted row stays,
    "foreign_key_checks = 1, unique_checks = 1, "
    # and COMMIT begins another transaction, or ends the connection.
    "completion_type = 0 "
    # MariaDB alone can switch off its CHECKs; to MySQL this is a comment.
    "/*M!100201 , check_constraint_checks = 1 */"
)
READ_COMMITTED = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"
REPEATABLE_READ = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE"
# MariaDB would otherwise refuse to lock a row that has changed since the snapshot.
LOCK_WHAT_HAS_CHANGED = "SET SESSION innodb_snapshot_isolation = 0"


class _PerThread(threading.local):
    """`patience`: connection options for this thread alone, or empty."""

    patience: Mapping[str, Any] = {}


class _MySQLDatabase(Recovering, peewee.MySQLDatabase):
    """A thread has a connection while it works and shares it in between: servers count them."""

    dialect = MYSQL
    unbuffered = (SSCursor,)
    _state: Any  # peewee's: what this thread has

    def __init__(
        self, name: str, *, idle_seconds: float, prefers_socket: bool, **options: Any
    ) -> None:
        self._prefers_socket = prefers_socket
        self._idle = IdleConnections(idle_seconds)
        self._own = _PerThread()
        super().__init__(name, **options)

    def connect(self, reuse_if_open: bool = False) -> bool:
        idle = self._idle.take() if self.is_closed() and not self._own.patience else None
        if idle is None:
            self.connect_anew()
        else:
            self._state.set_connection(idle)
        return True

    def connect_anew(self) -> None:
        try:
            super().connect()
        except BaseException:
            self.close_quietly()  # it may be open, but without the settings of its session
            raise

    def _connect(self) -> Any:
        options = {**self.connect_params, **self._own.patience}
        if self._prefers_socket and (path := _server_socket()) is not None:
            options["unix_socket"] = path
        return connect(database=self.database, autocommit=True, **options)

    def release(self) -> None:
        state = self._state
        if state.closed or state.transactions:
            return
        connection = state.conn
        state.reset()
        self._idle.put(connection)

    def close_quietly(self) -> None:
        """Closes the idle connections too: whatever broke this one has broken them.

        The server may come back with other variables, so they are asked again.
        """
        super().close_quietly()
        self.cache.server_variables = None
        self._idle.close_all()

    def dispose(self) -> None:
        super().dispose()
        self._idle.forget_parent()

    def skips_locked(self) -> bool:
        """Whether the server knows SKIP LOCKED: asked once, by trying it on no row at all."""
        if self.cache.skips_locked is None:
            try:
                self.execute_sql(
                    self.spelled("SELECT version FROM {schema_versions} LIMIT 0 {lock_free_rows}")
                )
                self.cache.skips_locked = True
            except peewee.ProgrammingError as error:
                if mysql_code(error) != MYSQL_SYNTAX_ERROR:
                    raise
                self.cache.skips_locked = False
        return self.cache.skips_locked

    def keeps_snapshot(self) -> bool:
        """Whether all plain SELECTs of a transaction see the moment of the first one."""
        return self._opened().keeps_snapshot

    def takes(self, text: str) -> bool:
        """Whether a statement may hold the text beside small values (max_allowed_packet)."""
        room = self._opened().max_packet - REST_OF_STATEMENT_BYTES
        if len(text) * MAX_BYTES_OF_CHARACTER <= room:
            return True
        return len(escape_string(text).encode("utf-8", "surrogatepass")) <= room

    def _opened(self) -> MySQLConnection:
        opened: MySQLConnection = self.connection()  # type: ignore[no-untyped-call]
        return opened

    def _initialize_connection(self, conn: MySQLConnection) -> None:
        with conn.cursor() as cursor:
            cursor.execute(SESSION)
            server = self.cache.server_variables
            if server is None:
                server = self.cache.server_variables = ask_server(cursor)
            if server.logs_statements:
                cursor.execute(REPEATABLE_READ)
                if server.knows_snapshot_isolation:
                    cursor.execute(LOCK_WHAT_HAS_CHANGED)
            else:
                cursor.execute(READ_COMMITTED)
        conn.keeps_snapshot = server.logs_statements
        conn.max_packet = server.max_allowed_packet

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Within it this thread's statements may take an hour, since some rewrite a table."""
        self.close_quietly()
        self._own.patience = {
            "read_timeout": MYSQL_PATIENCE_SECONDS,
            "write_timeout": MYSQL_PATIENCE_SECONDS,
        }
        try:
            yield
        finally:
            self.close_quietly()
            self._own.patience = {}


def _server_socket() -> str | None:
    """The path of the socket of a server on this machine; None where there is none."""
    for path in SERVER_SOCKETS:
        with contextlib.suppress(OSError):  # its folder may be closed to others
            if Path(path).is_socket():
                return path
    return None


def mysql_engine(url: str, *, idle_seconds: float, table_prefix: str) -> _MySQLDatabase:
    """The database that `url` names. As for MySQL's own clients, `localhost` without a port is the
    server's socket, if there is one.

    Raises ConfigurationError where `url` cannot be understood.
    """
    parts, user, password, name = _parts_of(url)
    options = options_of(
        parts.query, {"unix_socket": None, "ssl_ca": None, "skip_locked": ("off",)}
    )
    connection: dict[str, Any] = {
        "user": user,
        "password": password,
        "host": parts.hostname or "localhost",
        "port": parts.port or 3306,
        "charset": "utf8mb4",
        # Guarded updates count the rows that matched, not those whose values differ.
        "client_flag": CLIENT.FOUND_ROWS,
        "connect_timeout": MYSQL_CONNECT_TIMEOUT_SECONDS,
        "read_timeout": MYSQL_READ_TIMEOUT_SECONDS,
        "write_timeout": MYSQL_READ_TIMEOUT_SECONDS,
    }
    if "unix_socket" in options:
        connection["unix_socket"] = options["unix_socket"]
    if "ssl_ca" in options:
        connection["ssl"] = context_that_trusts(options["ssl_ca"])
    elif "unix_socket" in options or parts.hostname in ("localhost", "127.0.0.1", "::1"):
        connection["ssl_disabled"] = True
    is_local_name = parts.hostname == "localhost" and parts.port is None
    prefers_socket = is_local_name and options.keys().isdisjoint({"unix_socket", "ssl_ca"})
    engine = _MySQLDatabase(
        name,
        idle_seconds=idle_seconds,
        prefers_socket=prefers_socket,
        table_prefix=table_prefix,
        **connection,
    )
    if options.get("skip_locked") == "off":
        engine.cache.skips_locked = False
    return engine


def _parts_of(url: str) -> tuple[SplitResult, str, str, str]:
    """The parts of the URL, and user, password and database. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where it is no number
        user, password, name = (
            unquote(part or "", errors="strict")
            for part in (parts.username, parts.password, parts.path.lstrip("/"))
        )
    except ValueError:  # the port is no number, the host no address, or %FC not UTF-8
        name = ""
    # "#" or "@" is left over from a password with one of the characters that end it.
    if not name or not user or "#" in url or "@" in parts.path:
        raise ConfigurationError(
            "TASKMANAGER_DATABASE_URL must look like mysql://user:password@host:3306/name with "
            "special characters URL-quoted as UTF-8: # is %23, / is %2F, ? is %3F, @ is %40, % is "
            "%25"
        )
    return parts, user, password, name
