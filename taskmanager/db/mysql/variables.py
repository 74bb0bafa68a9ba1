"""The variables of a MySQL or MariaDB server that decide how the queue may use it.

Owns what is asked; the engine decides when, and what follows.
"""

from typing import NamedTuple

from pymysql.cursors import Cursor


class ServerVariables(NamedTuple):
    """`max_allowed_packet` is in bytes."""

    # Such a binary log refuses every write in a session of READ COMMITTED (error 1665).
    logs_statements: bool
    knows_snapshot_isolation: bool
    max_allowed_packet: int
    is_cluster_node: bool  # of a Galera cluster


def ask_server(cursor: Cursor) -> ServerVariables:
    """The variables of a session that was opened just now; one statement, whatever the version."""
    cursor.execute(
        "SHOW VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format', "
        "'innodb_snapshot_isolation', 'max_allowed_packet', 'wsrep_on')"
    )
    found = dict(cursor.fetchall())
    return ServerVariables(
        logs_statements=found["log_bin"] == "ON" and found.get("binlog_format") == "STATEMENT",
        knows_snapshot_isolation="innodb_snapshot_isolation" in found,
        max_allowed_packet=int(found["max_allowed_packet"]),
        is_cluster_node=found.get("wsrep_on") == "ON",
    )
