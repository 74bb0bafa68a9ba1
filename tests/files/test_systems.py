"""Which file system a path lies on, as Linux tells it."""

from pathlib import Path

import pytest

from taskmanager.files import systems
from taskmanager.files.systems import file_system_of, is_network

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw - proc proc rw
30 22 0:40 / /home rw,relatime shared:9 master:2 - nfs4 nas:/home rw,vers=4.2
31 30 8:2 /fast /home/me/fast rw - xfs /dev/sda2 rw
32 22 0:41 / /mnt/with\040blank rw - cifs //nas/share rw
33 22 0:42 / /mnt/twice rw - ext4 /dev/sdb1 rw
34 22 0:43 / /mnt/twice rw - fuse.sshfs me@there:/ rw
""".strip()


@pytest.fixture(autouse=True)
def _mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(systems, "MOUNTS", tmp_path / "mountinfo")


@pytest.mark.parametrize(
    ("path", "expected", "network"),
    [
        ("/srv/queue", "ext4", False),
        ("/home/me/queue", "nfs4", True),
        ("/homes/queue", "ext4", False),
        ("/home/me/fast/queue", "xfs", False),
        ("/mnt/with blank/queue", "cifs", True),
        ("/mnt/twice", "fuse.sshfs", True),
    ],
)
def test_the_nearest_mount_above_decides(path: str, expected: str, network: bool) -> None:
    assert file_system_of(Path(path)) == expected
    assert is_network(expected) is network


def test_a_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("/home/me")
    assert file_system_of(tmp_path / "link" / "queue") == "nfs4"


def test_a_system_that_does_not_tell_is_taken_for_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems, "MOUNTS", tmp_path / "missing")
    assert file_system_of(Path("/home")) is None
    assert not is_network(None)


def test_this_very_system_tells() -> None:
    assert systems.MOUNTS.exists()
    assert file_system_of(Path("/proc/self")) == "proc"
