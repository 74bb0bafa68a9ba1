"""The clients that the queue hands out, as files: for Python a wheel, for PHP and
JavaScript a module.

Their sources lie in this folder and are uploaded with everything else. They import nothing of the
server, and the server nothing of them but in two commands.
"""

import base64
import functools
import hashlib
import io
import zipfile
from pathlib import Path
from typing import NamedTuple

from taskmanager import __version__

FOLDER = Path(__file__).parent
PYTHON = FOLDER / "python"
_DISTRIBUTION = f"taskmanager_client-{__version__}"
WHEEL = f"{_DISTRIBUTION}-py3-none-any.whl"
# The same bytes each time: the first moment that a zip file can name.
_TIME = (1980, 1, 1, 0, 0, 0)


class ClientFile(NamedTuple):
    """One file: its content, and the line that installs it, with {url} for its address."""

    name: str
    language: str
    install: str
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@functools.cache
def client_files() -> dict[str, ClientFile]:
    """Every file that is handed out, by its name."""
    php = FOLDER / "php" / "TaskManager.php"
    javascript = FOLDER / "javascript"
    found = [
        ClientFile(WHEEL, "python", "pip install {url}", wheel()),
        ClientFile(php.name, "php", "curl -O {url}", php.read_bytes()),
        *(
            ClientFile(path.name, "javascript", install, path.read_bytes())
            for path, install in (
                (javascript / "taskmanager.mjs", 'import {{ Client, Worker }} from "{url}"'),
                (javascript / "taskmanager.d.mts", "curl -O {url}"),
            )
        ),
    ]
    return {file.name: file for file in found}


def wheel() -> bytes:
    """The wheel of the Python client. The format is that of PEP 427."""
    sources = PYTHON / "taskmanager_client"
    files = {
        f"{sources.name}/{path.name}": path.read_bytes()
        for path in sorted(sources.iterdir())
        if path.suffix == ".py" or path.name == "py.typed"
    }
    info = f"{_DISTRIBUTION}.dist-info"
    files |= {
        f"{info}/{name}": text.encode()
        for name, text in (
            ("METADATA", _METADATA),
            ("WHEEL", _WHEEL),
            ("entry_points.txt", _ENTRY_POINTS),
        )
    }
    lines = [f"{name},{_hash(content)},{len(content)}" for name, content in files.items()]
    record = f"{info}/RECORD"
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    buffer = io.BytesIO()
    # Not compressed: what zlib makes of the same bytes differs between its versions.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=_TIME)
            entry.create_system = 3  # Unix, so that the mode counts
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def _hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return f"sha256={digest.decode().rstrip('=')}"


_METADATA = f"""\
Metadata-Version: 2.1
Name: taskmanager-client
Version: {__version__}
Summary: Client and worker of TaskManager, a task queue behind an HTTP JSON API
License: MIT
Requires-Python: >=3.9
Requires-Dist: urllib3>=1.26,<3
"""
_WHEEL = """\
Wheel-Version: 1.0
Generator: taskmanager
Root-Is-Purelib: true
Tag: py3-none-any
"""
_ENTRY_POINTS = """\
[console_scripts]
taskmanager-worker = taskmanager_client.command:run
"""
