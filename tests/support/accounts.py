"""A hosting account for tests: an ordinary user with a home folder, and the commands it runs."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

# Debian's own: the one that runs the tests may lie in a folder that the user may not read.
SYSTEM_PYTHON = Path("/usr/bin/python3")


class Account:
    """Where root runs the tests the user is `nobody`, else whoever runs them."""

    def __init__(self) -> None:
        self.user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        # Not pytest's own folder, which nobody else may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="taskmanager-account-"))
        self.home = self.folder / "home"
        self.home.mkdir(mode=0o711)
        self.folder.chmod(0o711)
        for folder in (self.folder, self.home):
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)

    @property
    def environment(self) -> dict[str, str]:
        """All that a process of the account starts with; nothing of the tests' environment."""
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.home), "LANG": "C.UTF-8"}

    @property
    def as_user(self) -> dict[str, Any]:
        """Options with which subprocess starts a command as the account's user."""
        options: dict[str, Any] = {"env": self.environment, "cwd": self.home}
        if os.getuid() == 0:
            options |= {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        return options

    def run(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end as the user, in the home folder."""
        return subprocess.run(
            [str(part) for part in command],
            **{**self.as_user, "capture_output": True, "text": True, "check": False, **options},
        )

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        return self.run("bash", "-euo", "pipefail", "-c", script)

    def write(self, path: Path, content: str) -> None:
        """Writes a file, and makes the folders that lead to it, as the user would."""
        missing = [folder for folder in path.parents if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir()
            os.chown(folder, self.user.pw_uid, self.user.pw_gid)
        path.write_text(content, encoding="utf-8")
        os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def make_environment(self, folder: Path, requirements: Path) -> Path:
        """A virtual environment with what `requirements` names, by pip; its interpreter."""
        python = folder / "bin" / "python"
        settings = {name: value for name, value in os.environ.items() if name[:4] == "PIP_"}
        for command in (
            [SYSTEM_PYTHON, "-m", "venv", folder],
            [python, "-m", "pip", "install", "--quiet", "-r", requirements],
        ):
            done = self.run(*command, env={**self.environment, **settings})
            if done.returncode:
                raise AssertionError(f"{command}: {done.stdout}{done.stderr}")
        return python

    def remove(self) -> None:
        shutil.rmtree(self.folder)
