"""A private Apache with Passenger on 127.0.0.1, set up as a cPanel host sets it up.

It runs as an ordinary user, so everything that it starts does. The panel's own
directives are allowed in `.htaccess`, which stock Passenger refuses and CloudLinux's
takes.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.accounts import Account
from tests.support.ports import free_port

BINARY = Path("/usr/sbin/apache2")
MODULES = Path("/usr/lib/apache2/modules")
PASSENGER_ROOT = Path("/usr/lib/ruby/vendor_ruby/phusion_passenger/locations.ini")

_STARTS = 3

_USUAL_MODULES = (
    *("mpm_event", "authz_core", "authz_host", "access_compat", "dir", "mime", "env", "setenvif"),
    *("headers", "alias", "autoindex", "reqtimeout", "rewrite", "passenger"),
)

_CONFIGURATION = """\
ServerRoot "{folder}"
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile "{folder}/pid"
DefaultRuntimeDir "{folder}"
ErrorLog "{folder}/error.log"
TypesConfig /dev/null
{modules}
DocumentRoot "{document_root}"
<Directory "/">
    AllowOverride None
    Require all denied
</Directory>
<Directory "{home}">
    Options Indexes FollowSymLinks
    AllowOverride All
    <IfModule mod_passenger.c>
        AllowOverrideList PassengerAppRoot PassengerBaseURI PassengerPython PassengerAppType \
PassengerStartupFile PassengerAppEnv PassengerAppLogFile SetEnv
    </IfModule>
    Require all granted
</Directory>
# What every Apache comes with; no file of ours is safe only because of it.
<FilesMatch "^\\.ht">
    Require all denied
</FilesMatch>
<IfModule mod_passenger.c>
    PassengerRoot {passenger_root}
    PassengerInstanceRegistryDir "{folder}"
    PassengerLogFile "{folder}/passenger.log"
    PassengerMaxPoolSize {processes}
    PassengerStatThrottleRate 0
    PassengerDisableSecurityUpdateCheck on
    PassengerDisableAnonymousTelemetry on
</IfModule>
<IfModule mod_wsgi.c>
    WSGISocketPrefix "{folder}/wsgi"
</IfModule>
{more}
"""


def is_installed(module: str = "passenger") -> bool:
    return BINARY.exists() and (MODULES / f"mod_{module}.so").exists()


class Apache:
    """One server with one site. `more` is configuration that the host's administrator adds."""

    def __init__(
        self,
        account: Account,
        document_root: Path,
        *,
        processes: int = 2,
        modules: Sequence[str] = (),
        without: Sequence[str] = (),
        more: str = "",
    ) -> None:
        self.account = account
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = account.folder / f"apache-{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        chosen = [name for name in (*_USUAL_MODULES, *modules) if name not in without]
        self._configuration = self.folder / "apache.conf"
        account.write(
            self._configuration,
            _CONFIGURATION.format(
                folder=self.folder,
                port=self.port,
                modules="\n".join(
                    f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in chosen
                ),
                document_root=document_root,
                home=account.home,
                passenger_root=PASSENGER_ROOT,
                processes=processes,
                more=more,
            ),
        )

    def start(self) -> "Apache":
        """Comes back when it listens; applications start with the first request."""
        # Apache unloads its modules once while it starts. About one start in 500 on a busy
        # machine, a thread of Passenger 6.0.17 still runs then and Apache aborts ("mutex lock
        # failed", "double free"). Nothing of the application has been started at that point.
        for _ in range(_STARTS - 1):
            if self._listens():
                return self
        assert self._listens(), self.log()
        return self

    def _listens(self) -> bool:
        """Starts Apache and waits until it listens; False where a signal ended it before that."""
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [BINARY, "-f", self._configuration, "-DFOREGROUND"],
                **self.account.as_user,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        # Apache writes this file when it has the port; another server might answer there too.
        while not (self.folder / "pid").exists():
            ended = self._process.poll()
            if ended is not None and ended < 0:
                return False
            assert ended is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        return True

    def log(self) -> str:
        """What Apache, Passenger and the applications have written so far."""
        names = ("output", "error.log", "passenger.log")
        files = [self.folder / name for name in names]
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def stop(self) -> None:
        """Comes back when the server, and Passenger with its applications, are gone."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
            deadline = time.monotonic() + 30
            while list(self.folder.glob("passenger.??*/")) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)

    def __enter__(self) -> "Apache":
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()
