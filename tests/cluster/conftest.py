"""A cluster of three nodes with two servers in front, each with two processes."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.conftest import require
from tests.support import galera
from tests.support.server import Server, hosts


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
def site(cluster: galera.Galera) -> Iterator[Site]:
    """Both servers use all nodes and one queue, which is empty."""
    with hosts(2, cluster.create_database("queue")) as servers:
        yield Site(cluster, servers)
