"""A cluster of three nodes with two servers in front, each with two processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import require
from tests.support import galera
from tests.support.server import Server


class Site(NamedTuple):
    """The servers and the cluster behind them."""

    cluster: galera.Galera
    servers: list[Server]


@pytest.fixture(scope="module")
def cluster() -> Iterator[galera.Galera]:
    require("Galera (galera-4, rsync)", galera.is_installed())
    with galera.running() as nodes:
        yield nodes


@pytest.fixture
def site(cluster: galera.Galera, tmp_path: Path) -> Iterator[Site]:
    """Both servers use all nodes and one queue, which is empty."""
    url = cluster.create_database("queue")
    servers = []
    for number in range(2):
        folder = tmp_path / f"host{number}"
        folder.mkdir()
        servers.append(Server(folder, url).start())
        servers[-1].key = servers[0].key
    yield Site(cluster, servers)
    for server in servers:
        server.kill()
