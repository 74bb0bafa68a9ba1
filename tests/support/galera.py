"""A private Galera cluster of three MariaDB nodes on the loopback interface."""

import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pymysql

from tests.support.mariadb import MariaDB
from tests.support.ports import free_port

PROVIDERS = (Path("/usr/lib/galera/libgalera_smm.so"), Path("/usr/lib/libgalera_smm.so"))
JOIN_SECONDS = 60
# A node that is silent for two seconds is left out by the others, which is five by default.
GROUP = "evs.keepalive_period=PT0.3S;evs.inactive_check_period=PT0.3S;evs.suspect_timeout=PT2S"
PRIMARY = "Primary"


def is_installed() -> bool:
    return any(path.exists() for path in PROVIDERS)


class Node(MariaDB):
    """One server of the cluster."""

    user = "mysql"  # rsync, which copies the state to a node, gives up the rights of root

    def __init__(
        self, folder: Path, ports: dict[str, int], group: Sequence[int], *, durable: bool
    ) -> None:
        provider = next(path for path in PROVIDERS if path.exists())
        addresses = ",".join(f"127.0.0.1:{port}" for port in group)
        options = (
            f"gmcast.listen_addr=tcp://127.0.0.1:{ports['group']};"
            f"ist.recv_addr=127.0.0.1:{ports['ist']};gcache.size=64M;"
            f"{GROUP};evs.inactive_timeout=PT4S"
        )
        super().__init__(
            folder,
            durable=durable,
            options=(
                "--wsrep-on=ON",
                f"--wsrep-provider={provider}",
                f"--wsrep-cluster-address=gcomm://{addresses}",
                f"--wsrep-node-address=127.0.0.1:{ports['group']}",
                f"--wsrep-sst-receive-address=127.0.0.1:{ports['sst']}",
                "--wsrep-sst-method=rsync",
                f"--wsrep-provider-options={options}",
                "--binlog-format=ROW",
                "--innodb-autoinc-lock-mode=2",
            ),
        )
        self._usual = self.options

    def start_first(self) -> None:
        """Starts a cluster of its own, which the others join."""
        self._restart((*self._usual, "--wsrep-new-cluster"))

    def start_again(self) -> None:
        """Joins the cluster; a node that was killed first finds out where it stood."""
        self._restart(self._usual)

    def _restart(self, options: Sequence[str]) -> None:
        self.options = options
        self.start()
        self.wait_until(lambda: self.status("wsrep_local_state") == "4")

    def cut_off(self) -> None:
        """Lets it hear nothing of the others; comes back when it has noticed."""
        self.run("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")
        self.wait_until(lambda: self.status("wsrep_cluster_status") != PRIMARY)

    def reconnect(self) -> None:
        """Ends that; comes back when it takes work again."""
        self.run("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")
        self.wait_until(lambda: self.status("wsrep_local_state") == "4")

    def recovered_position(self) -> int:
        """The number of the last transaction that a killed node has on its disk."""
        log = self.folder / "recover.log"
        with log.open("wb") as output:
            subprocess.run(
                [*self._program(), *self._options(), *self._usual, "--wsrep-recover"],
                stdout=output,
                stderr=output,
                check=True,
            )
        return int(re.findall(r"Recovered position: [0-9a-f-]+:(-?\d+)", log.read_text())[-1])

    def status(self, name: str) -> str:
        [(_, value)] = self.rows(f"SHOW GLOBAL STATUS LIKE '{name}'")
        return str(value)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + JOIN_SECONDS
        while True:
            with contextlib.suppress(pymysql.err.MySQLError):
                if holds():
                    return
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4_000:]


class Galera:
    """Three nodes that hold the same databases.

    Unless they are `durable`, all have less than they should when they are killed at once.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        folder.chmod(0o755)
        ports = [{name: free_port() for name in ("group", "sst", "ist")} for _ in range(3)]
        group = [each["group"] for each in ports]
        self.nodes = []
        for number, each in enumerate(ports, 1):
            place = folder / f"node{number}"
            place.mkdir()
            shutil.chown(place, Node.user)
            self.nodes.append(Node(place, each, group, durable=durable))

    def start(self) -> None:
        self.nodes[0].start_first()
        for node in self.nodes[1:]:
            node.start_again()

    def create_database(self, name: str, nodes: int = 3) -> str:
        """Makes an empty database on all nodes; returns a TASKMANAGER_DATABASE_URL of so many."""
        self.nodes[0].create_database(name)
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:nodes])
        return f"mysql://root@{hosts}/{name}"

    def restart_all(self) -> None:
        """Starts the cluster after all nodes were killed, beginning with the one that has most."""
        most = max(self.nodes, key=lambda node: node.recovered_position())
        state = most.folder / "data" / "grastate.dat"
        text = state.read_text()
        state.write_text(text.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))
        most.start_first()
        for node in self.nodes:
            if node is not most:
                node.start_again()

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


@contextlib.contextmanager
def running() -> Iterator[Galera]:
    """A cluster while the block runs, in a folder that another account can reach."""
    with tempfile.TemporaryDirectory(prefix="galera-") as folder:
        cluster = Galera(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
