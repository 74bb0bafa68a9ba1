"""Opens connections to a MySQL or MariaDB server; decides how they are encrypted and log in.

PyMySQL builds an SSL context for every connection, which takes 30 ms of CPU where it loads the
certificate authorities of the system. Here one context serves all connections of the process.
"""

import functools
import logging
import ssl
import sys
from collections.abc import Mapping
from typing import Any

from pymysql.connections import Connection
from pymysql.constants import CR, ER
from pymysql.err import OperationalError
from pymysql.protocol import FieldDescriptorPacket, MysqlPacket

from taskmanager.errors import ConfigurationError, DatabaseUnavailable

log = logging.getLogger(__name__)

REQUIRES_TLS = 3159  # require_secure_transport of MySQL


def context_that_trusts(authority: str) -> ssl.SSLContext:
    """A context that requires a certificate signed by this file's authorities for the URL's host.

    Raises ConfigurationError where the file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"TASKMANAGER_DATABASE_URL names ssl_ca={authority}, which cannot be used "
            f"({error.strerror}). It must be a readable PEM file with the certificate of "
            "the authority that signed the database server's; ask whoever runs that server."
        ) from error
    # Otherwise Python 3.13 refuses the authorities that MySQL and MariaDB create by themselves.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


@functools.cache
def _context_that_trusts_anyone() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class MySQLConnection(Connection):
    """PyMySQL's; where the URL names no authority, encrypted if the server offers it.

    `max_packet` is the server's max_allowed_packet in bytes. `keeps_snapshot` is True if all plain
    SELECTs of a transaction see the moment of the first one (REPEATABLE READ). `is_cluster_node`
    is True if the server is one of a Galera cluster.
    """

    max_packet = sys.maxsize
    keeps_snapshot = False
    is_cluster_node = False
    _read_timeout: Any  # PyMySQL's

    def connect(self, sock: Any = None) -> None:
        """Connects and logs in; a server that hangs has as long for each answer as to connect."""
        patience, self._read_timeout = self._read_timeout, self.connect_timeout
        super().connect(sock)
        self._read_timeout = patience

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        """Sends a command, unless the server would answer by closing the connection."""
        content = sql.encode(self.encoding, "surrogateescape") if isinstance(sql, str) else sql
        if len(content) + 1 >= self.max_packet:  # the byte before it names the command
            raise OperationalError(
                ER.NET_PACKET_TOO_LARGE,
                f"a statement of {len(content)} bytes, where max_allowed_packet is "
                f"{self.max_packet}",
            )
        super()._execute_command(command, content)  # type: ignore[misc]

    def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        if packet_type is FieldDescriptorPacket:
            packet_type = _column
        return super()._read_packet(packet_type)  # type: ignore[no-untyped-call]

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        return sslp or _context_that_trusts_anyone()


@functools.lru_cache(maxsize=1_024)
def _column(description: bytes, encoding: str) -> FieldDescriptorPacket:
    """Parses the description of a column, which a server sends alike with every answer (0013)."""
    return FieldDescriptorPacket(description, encoding)


def connect(**options: Any) -> MySQLConnection:
    """A new connection; `ssl` among PyMySQL's options must be a context.

    Raises DatabaseUnavailable where the server is not the one that `ssl` insists on, or where its
    way of logging in is not known here.
    """
    try:
        return _logged_in(options)
    except OperationalError as error:
        if isinstance(getattr(error, "original_exception", None), ssl.SSLCertVerificationError):
            sentence = (
                "The database server did not prove that it is the right one: its certificate is "
                "not signed by an authority in the file that ssl_ca names, has expired, or is for "
                "another host than TASKMANAGER_DATABASE_URL names"
            )
        elif error.args[0] == CR.CR_SSL_CONNECTION_ERROR:
            sentence = (
                "The database server offers no encryption, but ssl_ca in "
                "TASKMANAGER_DATABASE_URL asks for it"
            )
        else:
            raise
        log.error("database: %s", error)
        raise DatabaseUnavailable(f"{sentence}. Nothing was changed.") from error


def _logged_in(options: Mapping[str, Any]) -> MySQLConnection:
    """Connects as `options` say, and again with TLS where the server requires that, or where the
    login sends the password itself.

    MySQL 8 asks for that once per user after each start of the server. Without
    TLS PyMySQL would need `cryptography` for it.
    """
    try:
        try:
            return MySQLConnection(**options)
        except (RuntimeError, OperationalError) as error:
            wants_tls = isinstance(error, RuntimeError) or error.args[0] == REQUIRES_TLS
            if not (wants_tls and options.get("ssl_disabled")):
                raise
            return MySQLConnection(**{**options, "ssl_disabled": False})
    except RuntimeError as error:
        log.error("database: %s", error)
        raise DatabaseUnavailable(
            "The database server wants a login for which something is not installed here: "
            f"{error}. Install that package, or connect through the server's socket: "
            "mysql://user:password@localhost/name?unix_socket=/path/to/mysqld.sock"
        ) from error
