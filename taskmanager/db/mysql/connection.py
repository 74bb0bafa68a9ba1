"""Opens connections to a MySQL or MariaDB server, and owns how they are encrypted.

PyMySQL builds an SSL context for every connection, which takes 30 ms of CPU where it loads the
authorities of the system. Here one context serves all connections of the process.
"""

import functools
import logging
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from pymysql.connections import Connection
from pymysql.constants import CR
from pymysql.err import OperationalError

from taskmanager.errors import ConfigurationError, DatabaseUnavailable

log = logging.getLogger(__name__)

BEGIN = "BEGIN"
DIRTY = "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED"  # of the next transaction alone
# An error where the statement before matched another number of rows: nothing else ends a packet.
# Then 1 is added to the largest number that there is.
REQUIRE_ROWS = "SET @too_large = ~0 + (ROW_COUNT() <> {})"
TOO_LARGE = 1690
MAX_PUT_OFF = 65_536  # characters; servers take packets of 1 MB and more


def context_that_trusts(authority: str) -> ssl.SSLContext:
    """Insists on a certificate that this file's authorities signed for the host of the URL.

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
    # Python 3.13 else refuses the authorities that MySQL and MariaDB make by themselves.
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

    Statements whose outcome nobody waits for can be put off: they travel in one packet with the
    next one, since for a small statement the way to the server and back costs more than all else.
    The server runs them in order, and none after one that fails.
    """

    def __init__(self, **options: Any) -> None:
        self._put_off: list[str] = []
        super().__init__(**options)

    def put_off_begin(self) -> None:
        """Begins a transaction with the next statement."""
        self._put_off.append(BEGIN)

    @property
    def has_only_begun(self) -> bool:
        """True where the server knows nothing yet of the present transaction."""
        return self._put_off == [BEGIN]

    def put_off(
        self, statement: str, values: Sequence[Any] = (), *, rows: int | None = None
    ) -> None:
        """Runs a statement other than SELECT with the next one, which raises what goes wrong.

        Where it does not match just so many `rows`, that is an AssertionError, and
        what comes after it is not run, COMMIT among others. The first statement of a
        transaction is run at once: a connection that was lost before it, and not
        during COMMIT, can be replaced without anybody being told.
        """
        texts = [self.cursor().mogrify(statement, values)]
        if rows is not None:
            texts.append(REQUIRE_ROWS.format(rows))
        is_first = self.has_only_begun
        self._make_room_for(texts)
        self._put_off += texts
        if is_first:
            self._send_put_off()

    def look_before_next(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Runs a SELECT … INTO with the next statement, which must follow at once.

        It may see what is not committed, and does where the transaction has only
        begun: then it is run before that.
        """
        text = self.cursor().mogrify(statement, values)
        self._put_off = [DIRTY, text, BEGIN] if self.has_only_begun else [*self._put_off, text]

    def forget_put_off(self) -> None:
        """What has been put off will never be run."""
        self._put_off.clear()

    def query(self, sql: str | bytes | bytearray, unbuffered: bool = False) -> int:
        """Runs what was put off, and then `sql`, whose result it is that can be fetched."""
        text = sql if isinstance(sql, str) else sql.decode(self.encoding)
        self._make_room_for([text])
        first, self._put_off = self._put_off, []
        try:
            affected = super().query("; ".join([*first, text]), unbuffered and not first)
            for _ in first:
                affected = self.next_result(unbuffered)
        except OperationalError as error:
            if error.args[0] == TOO_LARGE:
                raise AssertionError("a statement put off matched more or fewer rows") from error
            raise
        return int(affected)

    def escape(self, obj: object, mapping: Mapping[Any, Any] | None = None) -> str:
        """PyMySQL's, which asks what else a value may be before it finds that it is a number."""
        return str(obj) if type(obj) is int else str(super().escape(obj, mapping))

    def _make_room_for(self, texts: Sequence[str]) -> None:
        """So that together with `texts` they are no packet that a server might refuse."""
        if sum(map(len, self._put_off)) + sum(map(len, texts)) > MAX_PUT_OFF:
            self._send_put_off()

    def _send_put_off(self) -> None:
        if self._put_off:
            self.query(self._put_off.pop())

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        return sslp or _context_that_trusts_anyone()


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
    """As it is, else under TLS: a login may want the password itself to be sent.

    That of MySQL 8 does, for each user once after a start of the server. Without TLS PyMySQL needs
    `cryptography` for it.
    """
    try:
        try:
            return MySQLConnection(**options)
        except RuntimeError:
            if not options.get("ssl_disabled"):
                raise
            return MySQLConnection(**{**options, "ssl_disabled": False})
    except RuntimeError as error:
        log.error("database: %s", error)
        raise DatabaseUnavailable(
            "The database server wants a login for which something is not installed here: "
            f"{error}. Install that package, or connect through the server's socket: "
            "mysql://user:password@localhost/name?unix_socket=/path/to/mysqld.sock"
        ) from error
