"""MySQL and MariaDB: connecting, the pool of idle connections, and what a server can do."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import peewee
import pymysql
from pymysql.constants import CLIENT, ER
from pymysql.converters import escape_string
from pymysql.cursors import SSCursor
from pymysql.err import OperationalError

from taskmanager.db.dialect import MYSQL
from taskmanager.db.engine import Recovering, options_of
from taskmanager.db.errors import is_connection_lost, is_of_this_server, mysql_code
from taskmanager.db.mysql.connection import MySQLConnection, connect, context_that_trusts
from taskmanager.db.mysql.nodes import Node, Nodes, State, ask_state, read_nodes
from taskmanager.db.mysql.pool import IdleConnections
from taskmanager.db.mysql.variables import ask_server
from taskmanager.errors import ConfigurationError, DatabaseUnavailable

peewee.mysql = pymysql  # type: ignore[attr-defined]  # see db/__init__.py

MYSQL_CONNECT_TIMEOUT_SECONDS = 5
MYSQL_READ_TIMEOUT_SECONDS = 60
CONFLICT_SECONDS = 1.0
# Where there is another server to go to.
NODE_CONNECT_TIMEOUT_SECONDS = 2
NODE_READ_TIMEOUT_SECONDS = 10
MYSQL_PATIENCE_SECONDS = 3_600
MYSQL_SYNTAX_ERROR = 1064
# In UTF-8; an escaped one is ASCII and has two.
MAX_BYTES_OF_CHARACTER = 4
REST_OF_STATEMENT_BYTES = 16_384
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
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
# Each SELECT and each transaction first waits for what other nodes of the cluster have committed:
# a client that has written through one of them finds it through another.
SEE_OTHER_NODES = "SET SESSION wsrep_sync_wait = 1"


class _PerThread(threading.local):
    """`patience`: connection options for this thread alone, or empty."""

    patience: Mapping[str, Any] = {}


class _MySQLDatabase(Recovering, peewee.MySQLDatabase):
    """A thread has a connection while it works and shares it in between: servers count them."""

    dialect = MYSQL
    unbuffered = (SSCursor,)
    _state: Any  # peewee's: what this thread has

    def __init__(
        self,
        name: str,
        *,
        nodes: Sequence[Node],
        idle_seconds: float,
        prefers_socket: bool,
        **options: Any,
    ) -> None:
        self.nodes = Nodes(nodes)
        self._prefers_socket = prefers_socket
        self._idle = IdleConnections(idle_seconds)
        self._own = _PerThread()
        super().__init__(name, **options)

    def connect(self, reuse_if_open: bool = False) -> bool:
        idle = self._idle.take(self._is_wanted) if self.is_closed() else None
        if idle is None:
            self.connect_anew()
        else:
            self._state.set_connection(idle)
        return True

    def _is_wanted(self, idle: MySQLConnection) -> bool:
        """Whether an idle connection is as good as a new one."""
        return not self._own.patience and not self.nodes.has_better_than(node_of(idle))

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
        options |= {"database": self.database, "autocommit": True}
        if self.nodes.are_several:
            return self._connect_to_a_node(options)
        return connect(**options, **self.nodes.first._asdict())

    def _connect_to_a_node(self, options: Mapping[str, Any]) -> MySQLConnection:
        """A connection to the first server that works; one that is not synced is the last resort.

        Raises what the last server that was tried has answered.
        """
        reserve: MySQLConnection | None = None
        refused: OperationalError | DatabaseUnavailable | None = None
        for node in self.nodes.to_try():
            try:
                connection, state = _ask(node, options)
            except (OperationalError, DatabaseUnavailable) as error:
                refused = error
                self.nodes.avoid(node)
                continue
            if state.is_usable and state.is_synced:
                self.nodes.use(node)
                if reserve is not None:
                    reserve.close()
                return connection
            self.nodes.avoid(node)
            if state.is_usable and reserve is None:
                reserve = connection
            else:
                refused = _refusal_of(node, state)
                connection.close()
        if reserve is not None:
            return reserve
        raise refused or AssertionError("no server was tried")

    def release(self) -> None:
        state = self._state
        if state.closed or state.transactions:
            return
        connection = state.conn
        state.reset()
        self._idle.put(connection)

    def ask_nodes(self, *, patience_seconds: float) -> list[tuple[Node, State | None]]:
        """Each server of the URL, and what it says of itself; None where it does not answer.

        All are asked at once: one that hangs holds nobody up for longer than `patience_seconds`.
        """
        options = {**self.connect_params, "database": self.database, "autocommit": True}
        timeouts = ("connect_timeout", "read_timeout", "write_timeout")
        options |= dict.fromkeys(timeouts, patience_seconds)
        pool = ThreadPoolExecutor(max_workers=len(list(self.nodes)))
        asked = [(node, pool.submit(_state_of, node, options)) for node in self.nodes]
        pool.shutdown(wait=False)
        wait([future for _, future in asked], patience_seconds)
        return [(node, future.result() if future.done() else None) for node, future in asked]

    def is_lost(self, error: BaseException) -> bool:
        return is_connection_lost(error) or (self.nodes.are_several and is_of_this_server(error))

    def close_quietly(self) -> None:
        """Closes the idle connections too: whatever broke this one has broken them.

        The server may come back with other variables, so they are asked again. Where there are
        other servers, they are tried first.
        """
        if self.nodes.are_several and self._state.conn is not None:
            self.nodes.avoid(node_of(self._state.conn))
        self._close_all()

    def _close_all(self) -> None:
        super().close_quietly()
        self.cache.server_variables = None
        self._idle.close_all()

    def dispose(self) -> None:
        super().dispose()
        self._idle.forget_parent()
        self.nodes.forget_parent()

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

    def is_clustered(self) -> bool:
        """Whether the server is a node of a Galera cluster."""
        return self._opened().is_cluster_node

    def meets_other_nodes(self) -> bool:
        """Whether another node of the cluster has just committed first what this one was doing.

        Their locks are not seen here, so the same may happen again.
        """
        return self.is_clustered() and time.monotonic() - self.cache.conflict_at < CONFLICT_SECONDS

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
            if server.is_cluster_node:
                cursor.execute(SEE_OTHER_NODES)
        conn.keeps_snapshot = server.logs_statements
        conn.is_cluster_node = server.is_cluster_node
        conn.max_packet = server.max_allowed_packet

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Within it this thread's statements may take an hour, since some rewrite a table."""
        self._close_all()
        self._own.patience = {
            "read_timeout": MYSQL_PATIENCE_SECONDS,
            "write_timeout": MYSQL_PATIENCE_SECONDS,
        }
        try:
            yield
        finally:
            self._close_all()
            self._own.patience = {}


def node_of(connection: MySQLConnection) -> Node:
    """The server that a connection goes to."""
    return Node(connection.host, connection.port)


def _ask(node: Node, options: Mapping[str, Any]) -> tuple[MySQLConnection, State]:
    """A connection to a server, and what the server says of itself."""
    connection = connect(**options, **node._asdict())
    try:
        with connection.cursor() as cursor:
            return connection, ask_state(cursor)
    except BaseException:
        connection.close()
        raise


def _state_of(node: Node, options: Mapping[str, Any]) -> State | None:
    try:
        connection, state = _ask(node, options)
    except (pymysql.err.MySQLError, DatabaseUnavailable):
        return None
    connection.close()
    return state


def _refusal_of(node: Node, state: State) -> OperationalError:
    """What the server would answer to the next write."""
    if not state.is_ready:
        return OperationalError(ER.UNKNOWN_COM_ERROR, f"{node.host}:{node.port} is not ready")
    return OperationalError(ER.OPTION_PREVENTS_STATEMENT, f"{node.host}:{node.port} is read-only")


def _server_socket() -> str | None:
    """The path of the socket of a server on this machine; None where there is none."""
    for path in SERVER_SOCKETS:
        with contextlib.suppress(OSError):  # its folder may be closed to others
            if Path(path).is_socket():
                return path
    return None


def mysql_engine(url: str, *, idle_seconds: float, table_prefix: str) -> _MySQLDatabase:
    """The database that `url` names, on one server or on any of several.

    As for MySQL's own clients, `localhost` without a port is the server's socket, if there is one.

    Raises ConfigurationError where `url` cannot be understood.
    """
    parts, hosts, nodes, name = _parts_of(url)
    options = options_of(
        parts.query, {"unix_socket": None, "ssl_ca": None, "skip_locked": ("off",)}
    )
    are_several = len(nodes) > 1
    if are_several and "unix_socket" in options:
        raise ConfigurationError(
            "TASKMANAGER_DATABASE_URL names several servers, but unix_socket is that of one. "
            "Leave it out."
        )
    read_timeout = NODE_READ_TIMEOUT_SECONDS if are_several else MYSQL_READ_TIMEOUT_SECONDS
    connection: dict[str, Any] = {
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "charset": "utf8mb4",
        # Guarded updates count the rows that matched, not those whose values differ.
        "client_flag": CLIENT.FOUND_ROWS,
        "connect_timeout": (
            NODE_CONNECT_TIMEOUT_SECONDS if are_several else MYSQL_CONNECT_TIMEOUT_SECONDS
        ),
        "read_timeout": read_timeout,
        "write_timeout": read_timeout,
    }
    if "unix_socket" in options:
        connection["unix_socket"] = options["unix_socket"]
    if "ssl_ca" in options:
        connection["ssl"] = context_that_trusts(options["ssl_ca"])
    elif "unix_socket" in options or {node.host for node in nodes} <= LOCAL_HOSTS:
        connection["ssl_disabled"] = True
    prefers_socket = hosts == "localhost" and options.keys().isdisjoint({"unix_socket", "ssl_ca"})
    engine = _MySQLDatabase(
        name,
        nodes=nodes,
        idle_seconds=idle_seconds,
        prefers_socket=prefers_socket,
        table_prefix=table_prefix,
        **connection,
    )
    if options.get("skip_locked") == "off":
        engine.cache.skips_locked = False
    return engine


def _parts_of(url: str) -> tuple[SplitResult, str, list[Node], str]:
    """The parts of the URL but its servers, these as text and one by one, and the database.

    Raises ConfigurationError.
    """
    scheme, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    account, at, hosts = authority.rpartition("@")
    name, nodes = "", []
    with contextlib.suppress(ValueError):  # a port is no number, or %FC is not UTF-8
        # Without the servers: urlsplit() knows of one, and some Pythons refuse [::1] after another.
        parts = urlsplit(f"{scheme}://{account}{at}{rest[len(authority) :]}")
        for part in (parts.username, parts.password):
            unquote(part or "", errors="strict")
        nodes = read_nodes(hosts)
        name = unquote(parts.path.lstrip("/"), errors="strict")
    # "#" or "@" is left over from a password with one of the characters that end it.
    if not name or not parts.username or "#" in url or "@" in parts.path:
        raise ConfigurationError(
            "TASKMANAGER_DATABASE_URL must look like mysql://user:password@host:3306/name, or with "
            "several servers mysql://user:password@host1,host2:3307/name, with special characters "
            "URL-quoted as UTF-8: # is %23, / is %2F, ? is %3F, @ is %40, % is %25"
        )
    return parts, hosts, nodes, name
