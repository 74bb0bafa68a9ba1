"""The settings as data: name, default, parser and help text. Read and checked at the start.

A value comes from the first of these sources that has it: the argument of
`create_app()`, the environment, the file `.env`; place_of() says where that is. An
unknown `TASKMANAGER_*` name or an invalid value stops the start with a message
that says what to write.
"""

import difflib
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from taskmanager.alert_rules import Thresholds, parse_thresholds
from taskmanager.errors import ConfigurationError
from taskmanager.files.env_file import read_env_file
from taskmanager.mail_server import ADDRESS, MailServer, parse_mail_server
from taskmanager.rates import SYNTAX, Rate, parse_rate

PREFIX = "TASKMANAGER_"
APP_ROOT = Path(__file__).resolve().parent.parent

# Begins the name under which read_settings() complains of a line of .env.
UNREADABLE = ".env line"
# Names that are no settings.
FOREIGN_NAMES = frozenset(
    {
        "TASKMANAGER_TEST_REQUIRE",  # read by the test suite
        # What the clients and their workers read and set: both may run in one environment.
        *("TASKMANAGER_URL", "TASKMANAGER_KEY", "TASKMANAGER_TASK_ID", "TASKMANAGER_TYPE"),
        *("TASKMANAGER_ATTEMPT", "TASKMANAGER_PROGRESS_FD"),
    }
)
# Errors do not repeat the values of these: the text ends up in logs.
HOLDING_SECRETS = frozenset(
    {
        *("database_url", "rate_limit_storage_uri", "bootstrap_admin_key", "secret_key"),
        *("payload_key", "smtp_url", "alert_webhook"),
    }
)


_PAYLOAD_KEY = re.compile("[A-Za-z0-9_-]{43}=")  # 32 bytes as URL-safe base64
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/,?#@*]+")


def is_installed() -> bool:
    """Whether pip put the package into its environment, so that it is deleted with that.

    An uploaded folder and a clone are not, nor is a clone after `pip install -e`.
    """
    among_packages = APP_ROOT.name in ("site-packages", "dist-packages")
    return among_packages or any(APP_ROOT.glob("taskmanager-*.dist-info"))


def place_of(name: str) -> Path:
    """Where a file or folder with a relative path is.

    In the folder of the program. For an installed package in the user's data
    folder, unless the folder of the program has it already. What can be written
    plays no part: the same program must find the same queue as every user.
    Raises ValueError if the user has no home.
    """
    beside = APP_ROOT / name
    return beside if not is_installed() or beside.exists() else _data_folder() / name


def env_file() -> Path:
    """Where `.env` is, or would be."""
    try:
        return place_of(".env")
    except ValueError:
        return APP_ROOT / ".env"


def _data_folder() -> Path:
    shared = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(shared):  # a relative one is to be ignored
        return Path(shared, "taskmanager")
    usual = "Library/Application Support" if sys.platform == "darwin" else ".local/share"
    return _expanded(f"~/{usual}/taskmanager")


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"an absolute path such as /home/me/queue, since {Path(path).parts[0]} has no home here"
        ) from None


def _path(value: str) -> Path:
    if not value or value.startswith("$"):
        raise ValueError("a path (a variable is written as ${NAME}, and only in .env)")
    path = _expanded(value)
    return path if path.is_absolute() else place_of(value)


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return parse


def _names(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _mail_addresses(value: str) -> tuple[str, ...]:
    addresses = _names(value)
    if not all(ADDRESS.fullmatch(address) for address in addresses):
        raise ValueError("a comma-separated list of mail addresses, such as me@example.org")
    return addresses


def _networks(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(part) for part in _names(value))
    except ValueError:
        raise ValueError("a comma-separated list of networks, such as 10.1.0.0/16") from None


def _payload_keys(value: str) -> tuple[str, ...]:
    keys = _names(value)
    for key in keys:
        if not _PAYLOAD_KEY.fullmatch(key):
            raise ValueError(
                "one key or several with commas, each as `taskmanager payloads new-key` prints it"
            )
    return keys


def _origins(value: str) -> tuple[str, ...]:
    origins = _names(value)
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                "* or a comma-separated list of origins without a path, such as "
                "https://app.example.org,http://localhost:3000"
            )
    return origins


def _matching(pattern: str, expected: str) -> Callable[[str], str]:
    """Text that matches `pattern`; `expected` puts the pattern in words."""

    def parse(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(expected)
        return value

    return parse


def _setting(default: str, parse: Callable[[str], Any], help_text: str) -> Any:
    """A field of Settings. `default` is text, as in `.env`."""
    return field(metadata={"default": default, "parse": parse, "help": help_text})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings. The field `lease_seconds` is the variable `TASKMANAGER_LEASE_SECONDS`."""

    instance_path: Path = _setting(
        "instance", _path, "Folder of the SQLite file, created with mode 0700"
    )
    database_url: str = _setting(
        "",
        _matching(
            "|(sqlite:///|mysql://).*",
            "sqlite:///path/to/file.db or mysql://user:password@host:3306/name "
            "(with special characters in the password URL-quoted: @ is %40)",
        ),
        "Empty: taskmanager.db in the instance path. Otherwise "
        "mysql://user:password@host:3306/name (URL-quoted) with ?unix_socket=, ?ssl_ca= or "
        "?skip_locked=off, or sqlite:///path/to/file.db with ?journal=wal or ?journal=delete",
    )
    database_idle_seconds: int = _setting(
        "60",
        _whole_number(0, 86_400),
        "MySQL and MariaDB: seconds after which an idle connection is closed. "
        "0: after each request",
    )
    table_prefix: str = _setting(
        "",
        _matching(
            "|(?![0-9]|(?i:sqlite_))[A-Za-z0-9_]{1,20}",
            "empty, or 1 to 20 letters (a to z), digits and _, such as shop_, beginning with "
            "neither a digit nor sqlite_",
        ),
        "Begins the name of every table, so that several applications can share one database",
    )
    sqlite_synchronous: str = _setting(
        "FULL",
        lambda value: _matching("FULL|NORMAL", "FULL or NORMAL")(value.upper()),
        "FULL: an answered request survives a power cut. NORMAL: faster, may lose the last moments",
    )
    lease_seconds: int = _setting(
        "300", _whole_number(1, 86_400), "Seconds that a claim holds a task without a heartbeat"
    )
    heartbeat_seconds: int = _setting(
        "30",
        _whole_number(1, 3_600),
        "Seconds between the heartbeats that a worker is asked to send",
    )
    max_attempts: int = _setting("3", _whole_number(1, 100), "Maximum attempts of a task")
    rate_limit: Rate = _setting(
        "1000/minute", parse_rate, f"Rate limit of a key that has none of its own: {SYNTAX}"
    )
    rate_limit_storage_uri: str = _setting(
        "",
        str,
        "Where requests are counted. Empty: in a file in the instance path that all processes of "
        "the host share. Otherwise redis://… or another storage of the library limits",
    )
    trusted_proxies: int = _setting(
        "0",
        _whole_number(0, 10),
        "Number of proxies in front, each adding to X-Forwarded-For, -Proto and -Host. "
        "0: these headers are ignored",
    )
    api_at_root: int = _setting(
        "0",
        _whole_number(0, 1),
        "1: every call is also answered without /api, for clients that lose it from the address",
    )
    webhooks_allow_http: int = _setting(
        "0", _whole_number(0, 1), "1: webhooks may have http:// addresses"
    )
    webhooks_allow_networks: tuple[IPv4Network | IPv6Network, ...] = _setting(
        "",
        _networks,
        "Comma-separated networks that are not public but may receive webhooks, such as "
        "10.1.0.0/16",
    )
    alert_email: tuple[str, ...] = _setting(
        "", _mail_addresses, "Comma-separated mail addresses that are sent alerts"
    )
    smtp_url: MailServer = _setting(
        "",
        parse_mail_server,
        "The mail server that sends them: smtp://user:password@host:587 or smtps://… (URL-quoted) "
        "with ?from=address. Empty: the one of this host, without a password",
    )
    alert_webhook: str = _setting(
        "",
        _matching(r"|https?://[!-~]+", "empty, or an address such as https://example.org/hook"),
        "Address that alerts are posted to as JSON with a text, such as an incoming webhook of a "
        "chat",
    )
    alert_rules: Thresholds = _setting(
        "",
        parse_thresholds,
        "Changes the thresholds of alerts: oldest_pending=7200, failure_share=off",
    )
    cors_origins: tuple[str, ...] = _setting(
        "",
        _origins,
        "Comma-separated origins whose pages may call the API from a browser. *: every origin",
    )
    waiting_calls: int | None = _setting(
        "",
        lambda value: _whole_number(0, 1_000)(value) if value else None,
        "How many calls with wait_seconds may wait in one process of the server. Empty: 64 under "
        "`taskmanager serve`, none under other servers",
    )
    log_format: str = _setting(
        "text",
        lambda value: _matching("text|json", "text or json")(value.lower()),
        "json: the server logs each request, and all else, as one JSON object a line",
    )
    max_body_bytes: int = _setting(
        "1048576", _whole_number(1_024, 8_388_608), "Maximum size of a request body in bytes"
    )
    retention_days: int = _setting(
        "30",
        _whole_number(0, 36_500),
        "Days that prune keeps finished tasks and their history. 0: forever",
    )
    bootstrap_admin_key: str = _setting(
        "", str, "The first admin key, for hosts without a shell. At least 32 characters"
    )
    secret_key: str = _setting(
        "",
        _matching("|.{32,}", "empty, or at least 32 random characters"),
        "Signs the sessions of the dashboard. Empty: generated into the instance path. "
        "Another value signs everybody out",
    )
    payload_key: tuple[str, ...] = _setting(
        "",
        _payload_keys,
        "Encrypts the tasks of types with is_encrypted: a key that `taskmanager payloads new-key` "
        "prints. Several with commas: the first one encrypts, all decrypt",
    )
    plugins: tuple[str, ...] = _setting(
        "", _names, "Comma-separated Python modules that register format checkers"
    )

    @property
    def effective_database_url(self) -> str:
        """`database_url`, or if it is empty, the SQLite file in the instance path."""
        return self.database_url or f"sqlite:///{self.instance_path / 'taskmanager.db'}"

    @property
    def sqlite_file(self) -> Path | None:
        """The absolute path of the database file; None with MySQL and MariaDB."""
        url = self.effective_database_url
        return Path(split_sqlite_url(url)[0]).absolute() if url.startswith("sqlite:") else None

    @property
    def database_place(self) -> str:
        """The database to show to people, without a password. The URL must be a valid one."""
        address = self.database_url.rpartition("?")[0] or self.database_url
        return str(self.sqlite_file or f"mysql://{address.rpartition('@')[2]}")


def split_sqlite_url(url: str) -> tuple[str, str]:
    """The path and the options of `sqlite:///path?options`. The path is not URL-quoted."""
    path, mark, options = url.removeprefix("sqlite:///").rpartition("?")
    # Folders may have ? in their names; options have no /.
    return (path, options) if mark and "/" not in options else (path + mark + options, "")


def setting_names() -> dict[str, str]:
    """Environment name of each setting → name of its field in Settings."""
    return {PREFIX + item.name.upper(): item.name for item in fields(Settings)}


def load_settings(
    overrides: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None
) -> Settings:
    """Reads and checks every setting.

    `overrides` maps field names (`lease_seconds`) to text or to parsed values.
    Raises ConfigurationError for an unknown name or an invalid value.
    """
    settings, complaints = read_settings(overrides, environ=environ)
    for complaint in complaints.values():
        raise ConfigurationError(complaint)
    return settings


def read_settings(
    overrides: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """All settings, and an error message by name for each that is invalid.

    An invalid setting has its default value. A line of `.env` that cannot be read
    has a name that begins with UNREADABLE: any setting may have been meant.
    """
    path = env_file()
    environ = os.environ if environ is None else environ
    file = read_env_file(path, prefix=PREFIX, environ=environ)
    texts = {**file.values, **environ}
    places = {name: f"{path}, line {line}" for name, line in file.lines.items()}
    places |= dict.fromkeys(environ, f"the environment or in {path}")
    complaints = {
        f"{UNREADABLE} {line}": f"{path}, line {line}: {fault}" if line else f"{path}: {fault}"
        for line, fault in file.faults.items()
    }
    complaints |= {
        name: f"{_unknown_setting(name)} Change it in {places[name]}."
        for name in texts
        if _is_meant_for_us(name, in_file=name in file.lines)
    }
    values: dict[str, Any] = {}
    overrides = overrides or {}
    for item in fields(Settings):
        name = PREFIX + item.name.upper()
        default: str = item.metadata["default"]
        value = overrides.get(item.name, texts.get(name, default))
        if isinstance(value, str):
            try:
                value = item.metadata["parse"](value.strip())
            except ValueError as error:
                shown = "set" if item.name in HOLDING_SECRETS else repr(value)
                where = places.get(name, f"the environment or in {path}")
                complaints[name] = f"{name} is {shown} but must be {error}. Change it in {where}."
                is_path = item.name == "instance_path"
                value = APP_ROOT / default if is_path else item.metadata["parse"](default)
        values[item.name] = value
    unknown = sorted(set(overrides) - set(values))
    complaints |= {name: f"There is no setting {name}." for name in unknown}
    settings = Settings(**values)
    if settings.bootstrap_admin_key and len(settings.bootstrap_admin_key) < 32:
        complaints["TASKMANAGER_BOOTSTRAP_ADMIN_KEY"] = (
            "TASKMANAGER_BOOTSTRAP_ADMIN_KEY is too short. Use at least 32 random "
            f"characters, for example {secrets.token_urlsafe(32)}"
        )
    return settings, complaints


def _is_meant_for_us(name: str, *, in_file: bool) -> bool:
    """Whether a name that is no setting was written as one. `.env` is ours; the environment not."""
    known = setting_names()
    if name in known or name in FOREIGN_NAMES:
        return False
    if name.upper().startswith(PREFIX):
        return True
    return in_file and bool(difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.9))


def _unknown_setting(name: str) -> str:
    known = setting_names()
    # Compared without the prefix, which would make all names similar.
    short_names = [known_name.removeprefix(PREFIX) for known_name in known]
    similar = difflib.get_close_matches(name.upper().removeprefix(PREFIX), short_names, n=1)
    hint = (
        f" Did you mean {PREFIX}{similar[0]}?"
        if similar
        else f" Known settings: {', '.join(known)}."
    )
    return f"{name} is not a setting of TaskManager.{hint}"
