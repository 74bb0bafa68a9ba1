"""Facts about the connected database and how the queue uses it, for people to read."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from taskmanager.clock import utc_now
from taskmanager.db.connection import database, dialect, skips_locked
from taskmanager.db.dialect import SQLITE
from taskmanager.db.statements import fetch_all, fetch_one, fetch_value
from taskmanager.files.systems import file_system_of, is_network

if TYPE_CHECKING:
    from taskmanager.db.mysql.nodes import Node, State

NODE_PATIENCE_SECONDS = 1.0
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class DatabaseFacts(NamedTuple):
    """`engine` is "SQLite", "MySQL" or "MariaDB". What does not apply to it is None."""

    engine: str
    version: str
    journal: str | None = None  # SQLite: "wal", or "delete" where the file system cannot
    wanted_journal: str | None = None  # another one: somebody used the database at each start
    file_system: str | None = None  # "ext4", "nfs4"…; None also where the system does not tell
    is_network_file_system: bool | None = None
    skips_locked: bool | None = None  # MySQL: claims pass by locked rows, else guarded updates


def engine_and_version() -> tuple[str, str]:
    """The engine as in DatabaseFacts, and what it calls its version. Raises DatabaseUnavailable."""
    function = "sqlite_version()" if dialect() is SQLITE else "VERSION()"
    row = fetch_one(f"SELECT {function} AS version")
    version: str = row["version"] if row else ""
    if dialect() is SQLITE:
        return "SQLite", version
    return ("MariaDB" if "mariadb" in version.lower() else "MySQL"), version


def database_facts() -> DatabaseFacts:
    """Asks the database that is connected. Raises DatabaseUnavailable."""
    engine, version = engine_and_version()
    if dialect() is SQLITE:
        file_system = file_system_of(Path(database.database).parent)
        return DatabaseFacts(
            engine=engine,
            version=version,
            journal=database.journal(),
            wanted_journal=database.wanted_journal(),
            file_system=file_system,
            is_network_file_system=is_network(file_system),
        )
    return DatabaseFacts(engine=engine, version=version, skips_locked=skips_locked())


def clock_skew_ms() -> int | None:
    """How far the database server's clock is ahead of this host's; None with SQLite."""
    if dialect() is SQLITE:
        return None
    before = utc_now()
    seconds = fetch_value("SELECT UNIX_TIMESTAMP(NOW(3))")
    return round(float(seconds) * 1000 - (before + utc_now()) / 2)


def database_nodes() -> list[tuple["Node", "State | None"]]:
    """Each of several servers in TASKMANAGER_DATABASE_URL, and what it says of itself.

    None where it has not answered within a second. Empty where the URL names one database.
    """
    if dialect() is SQLITE or not database.nodes.are_several:
        return []
    found: list[tuple[Node, State | None]] = database.ask_nodes(
        patience_seconds=NODE_PATIENCE_SECONDS
    )
    return found


def client_hosts() -> list[str]:
    """The addresses of the machines that this user is connected from now; empty with SQLite.

    Of a cluster, those that are connected to the node of this connection.
    """
    if dialect() is SQLITE:
        return []
    rows = fetch_all(
        "SELECT host AS client FROM information_schema.processlist "
        "WHERE user = SUBSTRING_INDEX(USER(), '@', 1) AND db = DATABASE()"
    )
    # With the port, or without one through the server's socket.
    hosts = {row["client"].rpartition(":")[0] or row["client"] for row in rows}
    return sorted({"localhost" if host in LOOPBACK else host for host in hosts})
