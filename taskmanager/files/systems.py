"""Which kind of file system a path is on: SQLite's WAL mode does not work over a network."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")

NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "afs", "ncpfs", "coda"),
        *("glusterfs", "ceph", "lustre", "beegfs", "gpfs", "ocfs2", "gfs2", "orangefs", "panfs"),
    }
)


def file_system_of(path: Path) -> str | None:
    """The type of the file system of `path`, such as "ext4"; None where the system does not say."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    resolved = path.resolve()
    longest, found = -1, None
    for line in lines:
        # Fields 5 and on are the mount point, options and, after a lone "-", the type.
        before, _, after = line.partition(" - ")
        escaped = before.split()[4]  # blanks and the like are octal numbers there
        mount_point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), escaped))
        depth = len(mount_point.parts)
        # Of two on the same place the later one hides the earlier.
        if depth >= longest and resolved.is_relative_to(mount_point):
            longest, found = depth, after.split()[0]
    return found


def is_network(file_system: str | None) -> bool:
    """Whether it is a network file system, or one whose processes cannot share memory (FUSE)."""
    return file_system in NETWORK_FILE_SYSTEMS or (file_system or "").startswith("fuse.")
